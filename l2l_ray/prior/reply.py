"""From a reply to a `Prior`: parsing, score, self-consistency. No model is needed here.

A reply that cannot be parsed is an outcome, not an error: the `Prior` then has no box, and `failure` says why.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from PIL import Image

from l2l_ray.errors import PriorParseError
from l2l_ray.prior.parse import ParsedReply, parse_reply
from l2l_ray.prior.prompt import GLM, PromptFormat
from l2l_ray.types import SAMPLE_SEPARATOR, BoxFrac, Prior

_POINT_SIDE_FRAC = 0.2  # two points agree as far as two boxes of this size around them overlap; ours

# What the model never answered: nothing is stored, and the next run asks again under the same key.
_UNANSWERED = {
    "picture": "a picture that cannot be opened",
    "text": "a text that is too long",
    "memory": "a question that does not fit into memory",
    "model": "an error of the model",
    "sam": "a mask that SAM could not draw",
    "server": "a server that gave no usable answer",
    "hung": "a question that the model did not finish",
    "died": "a question at which the model's process died",
}
# What each kind of failure says to a person; a failure is "<kind>: <details>".
FAILURE_WORDS = {
    "not JSON": "an answer without coordinates",
    "cut off": "an answer that was cut off",
    "no answer": "reasoning without an answer",
    "empty": "an answer that names no object",
    "not objects": "an answer without a box",
    "missing key": "an answer without a box",
    "bad coordinates": "coordinates that cannot be read",
    "wrong unit": "coordinates in another unit",
    "outside": "coordinates outside the picture",
    "no area": "a box without area",
    "no location": "an answer without coordinates",
    "bad polygon": "an outline of fewer than 3 points",
    "no reply": "no answer",
    "no score": "an answer whose probability is not a number",
    **_UNANSWERED,
}


def no_box_reasons(failures: Mapping[str, int]) -> str:
    """Put the kinds of failure into words, the commonest first, each with its number."""
    reasons = Counter[str]()
    for kind, count in failures.items():
        reasons[FAILURE_WORDS.get(kind, kind)] += count
    return ", ".join(f"{reason}: {count}" for reason, count in reasons.most_common())


def is_unanswered(failure: str) -> bool:
    """Whether a `Prior.failure` says that there was no answer, and not that it was of no use."""
    return failure_kind(failure) in _UNANSWERED


def failure_kind(failure: str) -> str:
    """Return the kind that a `Prior.failure` begins with."""
    return failure.split(":")[0]


@runtime_checkable
class Asked(Protocol):
    """Anything that knows which model answered and in which format."""

    @property
    def fingerprint(self) -> str:
        """Hash of everything a reply depends on."""

    @property
    def prompt(self) -> PromptFormat:
        """Format of the answer."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model said about one image-expression pair.

    Args:
        texts: One text per sample, special tokens removed where the format has no use for them; none if it failed, or
            where only masks were asked for.
        mean_log_probs: Mean log-probability of each text's tokens, end token included; at most 0.
        seen_width_px: Width of the image as the model saw it: the unit of absolute coordinates.
        seen_height_px: Its height.
        failure: "<kind>: <details>" where the model gave no answer at all; such a question may be asked again later.
        num_image_tokens: How many tokens of the question stand for the picture; 0 = not known.
        masks: Where masks were asked for: as `Prior.masks`.
        mask_scores: As `Prior.mask_scores`.
        is_cut: Whether each text ends because no tokens were left (`prior.max_new_tokens`); none = not known.
    """

    texts: tuple[str, ...]
    mean_log_probs: tuple[float, ...]
    seen_width_px: int
    seen_height_px: int
    failure: str = ""
    num_image_tokens: int = 0
    masks: tuple[str, ...] = ()
    mask_scores: tuple[float, ...] = ()
    is_cut: tuple[bool, ...] = ()

    @classmethod
    def drawn(cls, masks: Sequence[str], scores: Sequence[float]) -> Reply:
        """Return the answer of a model that draws masks."""
        return cls((), (), 0, 0, masks=tuple(masks), mask_scores=tuple(scores))

    @classmethod
    def failed(cls, kind: str, details: object) -> Reply:
        """Return what stands for the answer that did not come; `kind` is a key of `FAILURE_WORDS`."""
        return cls((), (), 0, 0, f"{kind}: {' '.join(str(details).split())[:300]}")


@runtime_checkable
class PictureMllm(Asked, Protocol):
    """Whoever answers questions about open pictures: `MllmPrior`, or one in another process."""

    def ask(self, images: Sequence[Image.Image], expressions: Sequence[str]) -> list[Reply]:
        """Return one reply per picture and expression, in order."""


@runtime_checkable
class MaskModel(Protocol):
    """Whoever draws masks in open pictures: `Sam`, or one in another process."""

    def draw(self, images: Sequence[Image.Image], priors: Sequence[Prior]) -> list[Reply]:
        """Return the masks of one prior per picture, in order."""


@dataclass(frozen=True, slots=True)
class MllmIdentity:
    """Which model was asked and how: all that is needed to key and to parse its replies.

    Args:
        fingerprint: Hash of everything a reply depends on.
        prompt: Format of the answer.
        sam: Hash of everything a mask depends on besides the prior; empty where no masks are drawn.
    """

    fingerprint: str
    prompt: PromptFormat
    sam: str = ""

    @classmethod
    def of(cls, mllm: Asked) -> MllmIdentity:
        """Return the identity of a loaded `MllmPrior`."""
        return cls(mllm.fingerprint, mllm.prompt)


def reading_version(fmt: PromptFormat, num_samples: int) -> int:
    """Return the version of this file and of parse.py: raise it where the same reply is read otherwise.

    Args:
        fmt: The format of the reply.
        num_samples: How many texts it has.
    """
    if fmt.style == "json":
        return 7 if fmt.name.startswith(GLM.name) else 6
    if fmt.style == "molmo":
        return 5
    return 4 if fmt.style == "florence2" or num_samples > 1 else 3


def prior_key(fingerprint: str, image_sha256: str, expression: str) -> str:
    """Return the store's key of one question."""
    return hashlib.sha256(json.dumps([fingerprint, image_sha256, expression]).encode()).hexdigest()


def mask_key(sam: str, key: str) -> str:
    """Return the store's key of a prior with masks.

    Args:
        sam: From `MllmIdentity.sam`.
        key: Of the prior without them.
    """
    return hashlib.sha256(json.dumps([sam, key]).encode()).hexdigest()


def with_masks(key: str, prior: Prior, reply: Reply) -> Prior:
    """Return a prior with the masks that were drawn for it; "no prior", with the reason, where that failed.

    Args:
        key: From `mask_key`.
        prior: Without masks.
        reply: From a `MaskModel`.
    """
    if reply.failure:
        return replace(Prior.absent(key, reply.failure, prior.reply, prior.seen_xy_px), source=prior.source)
    return replace(prior, key=key, masks=reply.masks, mask_scores=reply.mask_scores)


def make_prior(key: str, reply: Reply, mllm: Asked, width_px: int, height_px: int) -> Prior:
    """Turn a reply into a `Prior`; an unusable one becomes "no prior" with the reason, never an error.

    The score of a single text is its probability, and that of each of its boxes. With several samples, each box's score
    is its mean IoU with the boxes of the *other* samples (an unusable sample counts as 0), and the prior's score is the
    mean over all samples: their self-consistency. Boxes come best first. A sample that says points alone is compared by
    a box around the first one.

    Args:
        key: From `prior_key`.
        reply: From `MllmPrior.ask`.
        mllm: Who was asked.
        width_px: Native width, used where the reply does not know how large the model saw the image.
        height_px: Native height.
    """
    if reply.failure:
        return Prior.absent(key, reply.failure, "")
    seen = (reply.seen_width_px or width_px, reply.seen_height_px or height_px)
    size = (width_px, height_px) if mllm.prompt.unit.of_photo else seen
    texts = [text.replace(SAMPLE_SEPARATOR, " ") for text in reply.texts]
    parsed: list[ParsedReply | None] = []
    failure = ""
    for text, is_cut in zip(texts, reply.is_cut or [False] * len(texts), strict=True):
        try:
            parsed.append(parse_reply(text, mllm.prompt, *size, is_cut))
        except PriorParseError as error:
            parsed.append(None)
            failure = failure or str(error)
    joined = SAMPLE_SEPARATOR.join(texts)
    if not any(parsed):
        return Prior.absent(key, failure or "no reply: got no text", joined, seen)
    if len(parsed) == 1 and parsed[0] is not None:
        score = math.exp(reply.mean_log_probs[0])
        if math.isnan(score):
            return Prior.absent(key, "no score: got a probability that is not a number", joined)
        only = parsed[0]
        boxes, scores = only.boxes_xyxy_frac, (score,) * len(only.boxes_xyxy_frac)
        said = boxes, scores, only.points_xy_frac, only.phrase, score, "", joined, only.polygons_xy_frac
        return Prior(key, *said, seen_xy_px=seen)
    return _consistent_prior(key, parsed, joined, seen)


def _consistent_prior(key: str, parsed: list[ParsedReply | None], joined: str, seen_xy_px: tuple[int, int]) -> Prior:
    agreement = np.zeros(len(parsed))
    for i, first in enumerate(parsed):
        others = [_agreement(first, second) for j, second in enumerate(parsed) if j != i]
        agreement[i] = sum(others) / len(others)
    order = [int(i) for i in np.argsort(-agreement, kind="stable") if parsed[int(i)] is not None]
    found = [(item, float(agreement[i])) for i in order if (item := parsed[i]) is not None]
    boxes = [(box, score) for item, score in found for box in item.boxes_xyxy_frac[:1]]
    best = found[0][0]
    return Prior(
        key,
        tuple(box for box, _ in boxes),
        tuple(score for _, score in boxes),
        best.points_xy_frac,
        best.phrase,
        float(agreement.mean()),
        "",
        joined,
        best.polygons_xy_frac,
        seen_xy_px=seen_xy_px,
    )


def _agreement(first: ParsedReply | None, second: ParsedReply | None) -> float:
    """Return the IoU of what two samples say, in [0, 1]; 0 where one says nothing usable."""
    return 0.0 if first is None or second is None else box_iou(_place(first), _place(second))


def _place(said: ParsedReply) -> BoxFrac:
    """Return the first box, or else one around the first point."""
    if said.boxes_xyxy_frac:
        return said.boxes_xyxy_frac[0]
    (x, y), half = said.points_xy_frac[0], _POINT_SIDE_FRAC / 2
    return x - half, y - half, x + half, y + half


def box_iou(a: BoxFrac, b: BoxFrac) -> float:
    """Return the intersection over union of two boxes with area, in [0, 1]."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union
