"""Weak and strong views of a batch, as tensor operations whose randomness comes from one integer key per sample.

A sample's view depends on its own key only: the same image and key give the same bits alone, in any batch and in any
order. For this every operation is elementwise or moves pixels; reductions over the image, whose rounding depends on how
a batch is cut into threads, are avoided (contrast turns around mid-grey, not around the image's mean).

- Weak view: the image as it is, or mirrored.
- Strong view: brightness, contrast, saturation, a small hue turn and grayscale, folded into one affine map of the
  colours, then a Gaussian blur. Hue and grayscale are weaker than in UniMatch, because expressions name colours: an
  image whose red car is grey no longer shows what its expression says. No geometry, so strong and weak views share
  their grid.
- Mirroring swaps left and right in the expression. Where the words do not say clearly that they mean directions, or
  would be read off the image (writing, clock faces), the sample is not mirrored; nothing is guessed. English only;
  other scripts are never mirrored.

Source: view recipe FixMatch/UniMatch; the word swap is in DAM-Net; refusing unclear words is ours.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from l2l_ray.keys import keyed_uniform

_GRAY = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601 luma
_YIQ = np.array([_GRAY, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])  # NTSC 1953


@dataclass(frozen=True, slots=True)
class StrongStrength:
    """How far `strong_view` goes; factors are drawn from 1 - x to 1 + x.

    Example: `StrongStrength(gray_prob=0.2)` is UniMatch's share of grey images.
    """

    jitter_prob: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue_turns: float = 0.02
    gray_prob: float = 0.1
    blur_prob: float = 0.5
    blur_sigma_frac: tuple[float, float] = (0.001, 0.01)  # of the image side: 0.6 px of 64, 4.8 px of 480


def strong_view(
    images: Float[Tensor, "B 3 S S"], keys: Sequence[int], strength: StrongStrength | None = None
) -> Float[Tensor, "B 3 S S"]:
    """Return strongly changed images in [0, 1], aligned pixel by pixel with the input.

    Args:
        images: RGB in [0, 1], on any device.
        keys: One per image, from `sample_key`.
        strength: Default `StrongStrength()`.
    """
    strength = strength or StrongStrength()
    draws = keyed_uniform(keys, 8, "strong_view")
    colored = _affine_colors(images, *_color_maps(draws, strength))
    low, high = strength.blur_sigma_frac
    sigma_px = (low + (high - low) * draws[:, 6]) * images.shape[-1]
    rows = np.flatnonzero(draws[:, 7] < strength.blur_prob)
    if len(rows):
        index = torch.from_numpy(rows).to(images.device)
        radius_px = min(math.ceil(3 * high * images.shape[-1]), images.shape[-1] - 1)
        colored[index] = _blur(colored[index], sigma_px[rows], radius_px)
    return colored


def weak_flip(
    images: Float[Tensor, "B 3 S S"], expressions: Sequence[str], keys: Sequence[int], prob: float = 0.5
) -> tuple[Float[Tensor, "B 3 S S"], list[str], Bool[Tensor, " B"]]:
    """Return (images, expressions, flipped): each sample mirrored with a probability, where its expression allows it.

    Mirror grid maps of the same samples with `flip_where(maps, flipped)`, and back with the same call.

    Args:
        images: RGB, on any device.
        expressions: One per image.
        keys: One per image, from `sample_key`.
        prob: Probability of mirroring; 1 mirrors every sample that can be.
    """
    swapped = [swap_left_right(expression) for expression in expressions]
    wanted = keyed_uniform(keys, 1, "weak_flip")[:, 0] < prob
    choices = [text if want else None for text, want in zip(swapped, wanted, strict=True)]
    flipped = torch.tensor([choice is not None for choice in choices], dtype=torch.bool, device=images.device)
    texts = [old if new is None else new for old, new in zip(expressions, choices, strict=True)]
    return flip_where(images, flipped), texts, flipped


def flip_where(maps: Float[Tensor, "B *dims W"], flipped: Bool[Tensor, " B"]) -> Float[Tensor, "B *dims W"]:
    """Return the maps mirrored left to right where `flipped` is True; its own inverse. Any dtype."""
    return torch.where(flipped.view(-1, *[1] * (maps.ndim - 1)), maps.flip(-1), maps)


def _color_maps(
    draws: Float64[np.ndarray, "B 8"], strength: StrongStrength
) -> tuple[Float64[np.ndarray, "B 3 3"], Float64[np.ndarray, " B"]]:
    """Return matrix and offset per sample of the map color -> matrix @ color + offset."""
    spread = np.array([strength.brightness, strength.contrast, strength.saturation])
    jittered = draws[:, 0, None] < strength.jitter_prob
    factors = np.where(jittered, 1 + spread * (2 * draws[:, 1:4] - 1), 1.0)
    brightness, contrast, saturation = factors.T
    saturation = np.where(draws[:, 5] < strength.gray_prob, 0.0, saturation)
    hue = np.where(jittered[:, 0], 2 * math.pi * strength.hue_turns * (2 * draws[:, 4] - 1), 0.0)
    turn = np.zeros((len(draws), 3, 3))
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = np.cos(hue)
    turn[:, 1, 2], turn[:, 2, 1] = -np.sin(hue), np.sin(hue)
    # Saturation mixes with grey: s * color + (1 - s) * luma, and a hue turn leaves the luma alone.
    mix = saturation[:, None, None] * np.eye(3) + (1 - saturation)[:, None, None] * np.outer(np.ones(3), _GRAY)
    matrices = (brightness * contrast)[:, None, None] * (mix @ (np.linalg.inv(_YIQ) @ turn @ _YIQ))
    return matrices, 0.5 * (1 - contrast)


def _affine_colors(
    images: Float[Tensor, "B 3 S S"], matrices: Float64[np.ndarray, "B 3 3"], offsets: Float64[np.ndarray, " B"]
) -> Float[Tensor, "B 3 S S"]:
    matrix = torch.from_numpy(matrices).to(images)[..., None, None]
    offset = torch.from_numpy(offsets).to(images)[:, None, None, None]
    # Written out, because a matrix product may round differently for another batch size.
    red, green, blue = (matrix[:, :, source] * images[:, None, source] for source in range(3))
    return (red + green + blue + offset).clamp(0, 1)


def _blur(
    images: Float[Tensor, "B 3 S S"], sigma_px: Float64[np.ndarray, " B"], radius_px: int
) -> Float[Tensor, "B 3 S S"]:
    """Blur each image with its own Gaussian; borders are mirrored."""
    taps = np.exp(-0.5 * (np.arange(-radius_px, radius_px + 1) / sigma_px[:, None]) ** 2)
    weights = torch.from_numpy(taps / taps.sum(axis=1, keepdims=True)).to(images)[:, :, None, None, None]
    side = images.shape[-1]
    for pad, dim in (((0, 0, radius_px, radius_px), 2), ((radius_px, radius_px, 0, 0), 3)):
        padded = F.pad(images, pad, mode="reflect")
        images = weights[:, 0] * padded.narrow(dim, 0, side)
        for tap in range(1, 2 * radius_px + 1):
            images = images + weights[:, tap] * padded.narrow(dim, tap, side)
    return images


def swap_left_right(expression: str) -> str | None:
    """Return the expression of the mirrored image; None when that cannot be said safely.

    An expression without directions comes back as it is. Swapping twice gives the first expression again (up to odd
    capitals such as "lEft").

    Example: "2nd man from the left" -> "2nd man from the right"; "left-handed batter" -> None; "red car" -> "red car".
    """
    matches = list(_WORD.finditer(expression))
    words = [match.group().lower() for match in matches]
    if any(character.isalpha() and ord(character) > _LAST_LATIN for character in expression):
        return None
    parts, done = [], 0
    for i, word in enumerate(words):
        direction = _DIRECTION.fullmatch(word)
        if direction is None and _is_unsafe(words, i):
            return None
        if direction is not None:
            if word in _SWAP and not _is_direction(words, i):
                return None
            start, end = (matches[i].start() + offset for offset in direction.span(1))
            parts += [expression[done:start], _in_case_of(expression[start:end], _SWAP[direction.group(1)])]
            done = end
    return "".join(parts) + expression[done:]


_SWAP = {"left": "right", "right": "left"}
_LAST_LATIN = 0x24F  # end of the Unicode block Latin Extended-B
_WORD = re.compile(r"[^\W\d_]+")
_PLACE = "far|top|bottom|upper|lower|mid|middle|center|centre|back|front|most|on|the"
_DIRECTION = re.compile(rf"(?:{_PLACE})*(left|right)(?:{_PLACE}|est|ish|side|hand|wards?)*")

# Mirroring breaks what these speak of: clock positions, the compass, and whatever is read off the image. The last line
# is short for left and right, or for something else.
_UNSAFE_WORDS = frozenset(
    "oclock clockwise counterclockwise anticlockwise east west eastern western "  # codespell:ignore oclock
    "says say saying reads spells spelled word words letter letters text written number numbers numbered "
    "lefty righty lefties righties l r lt rt lh rh lhs rhs lft rgt rite".split()
)
# Contain left or right, or are one slip away from it, and are something else.
_HARMLESS_WORDS = frozenset(
    "bright brighter brightest brightly brightness upright outright downright copyright playwright wright fright "
    "leftover leftovers cleft light night fight might sight tight eight lift loft let lent lest deft heft weft".split()
)
# "right now", "left-handed": not a place in the image, whatever comes before.
_NEVER_BEFORE = frozenset("now away handed wing winger angle angled alone".split())
# "right behind" may mean "directly behind"; after a word of _MARKERS it is a place.
_UNCLEAR_BEFORE = frozenset(
    "next here there above below behind beside under underneath over before after between by beyond near on onto up "
    "down across against inside outside through where when out".split()
)
_MARKERS = frozenset(
    "on to at from the far farthest furthest top bottom upper lower front back middle center centre side very most "
    "extreme our your my his her their".split()
)
# "all right", "the one that is left": a place only in "is left of" and the like.
_UNCLEAR_AFTER = frozenset("all is are was were be been has have had s that just yes ok okay correct".split())
_PLACE_BEFORE = frozenset("of side most hand corner edge half".split())


def _slips(word: str) -> frozenset[str]:
    """Return what one missing, extra, wrong or swapped letter makes of a word."""
    cuts = [(word[:i], word[i:]) for i in range(len(word) + 1)]
    letters = "abcdefghijklmnopqrstuvwxyz"
    return frozenset(
        [a + b[1:] for a, b in cuts if b]
        + [a + b[1] + b[0] + b[2:] for a, b in cuts if len(b) > 1]
        + [a + c + b[1:] for a, b in cuts for c in letters if b]
        + [a + c + b for a, b in cuts for c in letters]
    )


_SLIPS = _slips("left") | _slips("right")


def _is_unsafe(words: Sequence[str], i: int) -> bool:
    """Tell whether a word that is no direction forbids mirroring."""
    word = words[i]
    if word in _UNSAFE_WORDS or (word == "clock" and i > 0 and words[i - 1] == "o"):
        return True
    return word not in _HARMLESS_WORDS and (word in _SLIPS or "left" in word or "right" in word)


def _is_direction(words: Sequence[str], i: int) -> bool:
    """Tell whether "left" or "right" at position i clearly means a place; the same answer for both words."""
    before = words[i - 1] if i else ""
    after = words[i + 1] if i + 1 < len(words) else ""
    if after in _NEVER_BEFORE:
        return False
    if before in _UNCLEAR_AFTER and after not in _PLACE_BEFORE:
        return False
    return after not in _UNCLEAR_BEFORE or before in _MARKERS


def _in_case_of(model: str, word: str) -> str:
    if model.isupper():
        return word.upper()
    return word.capitalize() if model[0].isupper() else word
