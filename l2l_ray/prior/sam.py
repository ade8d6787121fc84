"""SAM and its kin: the boxes and points of priors become masks, through transformers' Auto classes.

SAM, SAM-HQ, SAM 2, SAM 3 (the part that takes boxes and points, `sam3_tracker`) and EdgeTAM. It belongs to the prior
service: a mask is drawn once, where the MLLM is asked, and stored with the prior. So nobody else loads SAM, and what is
kept on disk is a mask of about a kilobyte instead of the encoding of a picture, 4 to 20 MB.

- A picture is encoded once for all priors of a call, and the encodings of the last pictures stay in memory, within a
  bound, for the next call: questions about one picture follow each other. Boxes and points of one picture go through
  the mask decoder together, as far as they are of one form; there is no padding, which the decoder would attend to.
- A box, or several points, are one prompt and give one mask. A single point is ambiguous (the cup or its handle): it
  gives the masks that SAM holds for possible, each with the IoU that SAM foretells.
- The encoder works in the config's dtype, the rest in float32: bfloat16 would round a coordinate to some pixels.
- Preprocessing is done here and not by the checkpoint's processor: those of SAM 2 and 3 exist only for torchvision, and
  it is three lines. SAM resizes the longest side and pads right and below; the others squash the image to a square.

Source: Kirillov et al. 2023 (Segment Anything; section 3: three masks for one point, one for several prompts), Ravi et
al. 2024 (SAM 2).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from l2l_ray.checkpoints import PixelStatistics, checkpoint, load_whole, pixel_statistics
from l2l_ray.config import PriorConfig
from l2l_ray.device import pick_device, pick_dtype
from l2l_ray.errors import ConfigError
from l2l_ray.prior.masks import write_mask
from l2l_ray.prior.reply import Reply
from l2l_ray.types import BoxFrac, PointFrac, Prior

EXPECTED = "SAM, SAM-HQ, SAM 2, SAM 3 or EdgeTAM"
KEPT_BYTES = 128 * 2**20  # of encodings
PROMPTS_AT_ONCE = 32  # in one pass of the mask decoder, which holds some 10 MB for each
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
_PADDED = ("sam", "sam_hq")
_SQUASHED = ("sam2", "sam2_video", "edgetam", "edgetam_video")
_SQUASHED_HALF = ("sam3_tracker", "sam3_tracker_video", "sam3_video")
_ON_OBJECT = 1  # prompt label of transformers' SAM

Drawn = tuple[list[str], list[float]]  # masks and their scores


@dataclass(frozen=True)
class _Prompt:
    """What one mask, or one set of alternatives, is asked for with."""

    box: BoxFrac | None
    points: tuple[PointFrac, ...]

    @property
    def form(self) -> tuple[bool, int]:
        """Prompts of one form make one tensor."""
        return self.box is not None, len(self.points)


@dataclass(frozen=True)
class _Encoded:
    inputs: dict[str, Any]  # of the model's mask decoder
    extent_xy_px: tuple[float, float]  # of the image inside the model's square, from its upper left corner

    @property
    def num_bytes(self) -> int:
        tensors = [t for value in self.inputs.values() for t in (value if isinstance(value, list) else [value])]
        return sum(t.nbytes for t in tensors)


class Sam:
    """A frozen model of SAM's kin. Use `Sam.load`.

    Example: `Sam.load(config).draw([image], [prior])[0].masks`

    Args:
        model: A transformers mask-generation model; put in eval mode.
        dtype: `float32` or `bfloat16`, of the image encoder.
        statistics: Which pixels it was trained on; None = its family's.
    Raises:
        ConfigError: The model is of another family.
    """

    def __init__(self, model: Any, dtype: str = "float32", statistics: PixelStatistics | None = None) -> None:
        kind = model.config.model_type
        if kind not in (*_PADDED, *_SQUASHED, *_SQUASHED_HALF):
            raise ConfigError(
                f"prior.sam_model is a {kind!r} model; expected {EXPECTED}: name one of these, or set prior.proposal "
                "to 'box'"
            )
        self.model = model.eval().requires_grad_(False)
        self.statistics = statistics or (HALF if kind in _SQUASHED_HALF else IMAGENET)
        self._kind, self._dtype = kind, getattr(torch, dtype)
        side = model.config.prompt_encoder_config.image_size
        self._side_px = int(side if isinstance(side, int) else side[0])
        self._kept: OrderedDict[bytes, _Encoded] = OrderedDict()

    @classmethod
    def load(cls, config: PriorConfig) -> Sam:
        """Load the config's `sam_model` onto its device.

        Raises:
            ConfigError: None is named, it cannot be loaded as a mask-generation model, or it is of another family.
        """
        from transformers import AutoModelForMaskGeneration

        if config.sam_model is None:
            raise ConfigError(
                f"prior.proposal='sam' needs prior.sam_model, got None; name a folder or hub id of {EXPECTED}"
            )
        device = pick_device(config.device)
        with checkpoint("prior.sam_model", config.sam_model, EXPECTED) as options:
            model = load_whole(AutoModelForMaskGeneration, config.sam_model, dtype=torch.float32, **options)
            statistics = pixel_statistics(config.sam_model, options)
        return cls(model.to(device), pick_dtype(config.dtype, device), statistics)

    @torch.no_grad()
    def draw(self, images: Sequence[Image.Image], priors: Sequence[Prior]) -> list[Reply]:
        """Return the masks of each prior: one per box, or the alternatives of its points.

        A point is given to every box that holds it. Points without any box are of one object.

        Args:
            images: What the priors are about, RGB, any size; equal pictures are encoded once.
            priors: One per image; one without boxes and points gets no masks.
        """
        try:
            return self._draw(images, priors)
        except Exception:
            self._kept.clear()  # it may be what memory lacked
            raise

    def _draw(self, images: Sequence[Image.Image], priors: Sequence[Prior]) -> list[Reply]:
        digests = {id(image): _digest(image) for image in images}
        rows_of: dict[bytes, list[int]] = {}
        for row, image in enumerate(images):
            rows_of.setdefault(digests[id(image)], []).append(row)
        replies: dict[int, Reply] = {}
        for digest, rows in rows_of.items():
            prompts = [_prompts_of(priors[row]) for row in rows]
            flat = [prompt for some in prompts for prompt in some]
            drawn = iter(self._drawn(self._encoded(digest, images[rows[0]]), flat) if flat else [])
            for row, some in zip(rows, prompts, strict=True):
                parts = [next(drawn) for _ in some]
                replies[row] = Reply.drawn(
                    [mask for masks, _ in parts for mask in masks], [score for _, scores in parts for score in scores]
                )
        return [replies[row] for row in range(len(images))]

    def _drawn(self, encoded: _Encoded, prompts: Sequence[_Prompt]) -> list[Drawn]:
        """Return masks and scores of each prompt."""
        numbers: dict[tuple[bool, int], list[int]] = {}
        for number, prompt in enumerate(prompts):
            numbers.setdefault(prompt.form, []).append(number)
        found: dict[int, Drawn] = {}
        for of_form in numbers.values():
            for start in range(0, len(of_form), PROMPTS_AT_ONCE):
                some = of_form[start : start + PROMPTS_AT_ONCE]
                found.update(zip(some, self._decoded(encoded, [prompts[number] for number in some]), strict=True))
        return [found[number] for number in range(len(prompts))]

    def _decoded(self, encoded: _Encoded, prompts: Sequence[_Prompt]) -> Iterator[Drawn]:
        """Yield masks and scores of prompts of one form."""
        device, scale = self.model.device, torch.tensor(encoded.extent_xy_px)
        has_box, num_points = prompts[0].form
        given = {}
        if has_box:
            boxes = torch.tensor([prompt.box for prompt in prompts]) * scale.repeat(2)
            given["input_boxes"] = boxes[None].to(device)
        if num_points:
            points = torch.tensor([prompt.points for prompt in prompts]) * scale
            given["input_points"] = points[None].to(device)
            given["input_labels"] = torch.full((1, *points.shape[:2]), _ON_OBJECT, device=device)
        is_ambiguous = not has_box and num_points == 1
        output = self.model(**encoded.inputs, **given, multimask_output=is_ambiguous)
        height, width = output.pred_masks.shape[-2:]
        across, down = (
            max(1, round(cells * px / self._side_px))
            for cells, px in zip((width, height), encoded.extent_xy_px, strict=True)
        )
        masks = (output.pred_masks[0, :, :, :down, :across] > 0).cpu().numpy()  # the rest is padding
        scores = output.iou_scores[0].float().clamp(0, 1).cpu().tolist()
        for some, their_scores in zip(masks, scores, strict=True):
            yield [write_mask(mask) for mask in some], their_scores

    def _encoded(self, digest: bytes, image: Image.Image) -> _Encoded:
        if digest not in self._kept:
            self._kept[digest] = self._encode(image)
        self._kept.move_to_end(digest)
        while len(self._kept) > 1 and sum(kept.num_bytes for kept in self._kept.values()) > KEPT_BYTES:
            self._kept.popitem(last=False)
        return self._kept[digest]

    def _encode(self, image: Image.Image) -> _Encoded:
        pixels, extent_xy_px = self._pixels(image)
        device = self.model.device
        with torch.autocast(device.type, self._dtype, enabled=self._dtype != torch.float32):
            found = self.model.get_image_embeddings(pixels.to(device))
        if self._kind == "sam_hq":
            image_embeddings, between = found
            inputs = {"image_embeddings": image_embeddings.float(), "intermediate_embeddings": [between[0].float()]}
        elif isinstance(found, Tensor):
            inputs = {"image_embeddings": found.float()}
        else:  # one map per resolution
            inputs = {"image_embeddings": [level.float() for level in found]}
        return _Encoded(inputs, extent_xy_px)

    def _pixels(self, image: Image.Image) -> tuple[Float[Tensor, "1 3 S S"], tuple[float, float]]:
        """The model's input, and the (x, y) extent of the image inside it, px."""
        width, height = self._side_px, self._side_px
        if self._kind in _PADDED:
            longest = max(image.size)
            width, height = (max(1, round(side * self._side_px / longest)) for side in image.size)
        resized = np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR), dtype=np.float32)
        mean, std = (torch.tensor(values)[:, None, None] for values in self.statistics)
        pixels = (torch.from_numpy(resized).permute(2, 0, 1) / 255 - mean) / std
        padded = F.pad(pixels, (0, self._side_px - width, 0, self._side_px - height))  # 0 after normalising, as SAM
        return padded[None], (float(width), float(height))


def _prompts_of(prior: Prior) -> list[_Prompt]:
    """Return what SAM is asked with about a prior: each box with the points in it, or all points; nothing for none."""
    if prior.boxes_xyxy_frac:
        return [_Prompt(box, _inside(box, prior.points_xy_frac)) for box in prior.boxes_xyxy_frac]
    return [_Prompt(None, prior.points_xy_frac)] if prior.points_xy_frac else []


def _inside(box: BoxFrac, points: Sequence[PointFrac]) -> tuple[PointFrac, ...]:
    left, top, right, bottom = box
    return tuple((x, y) for x, y in points if left <= x <= right and top <= y <= bottom)


def _digest(image: Image.Image) -> bytes:
    return hashlib.sha256(f"{image.mode} {image.size}".encode() + image.tobytes()).digest()
