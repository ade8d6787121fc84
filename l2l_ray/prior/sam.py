"""SAM and SAM 2 as proposers: the prior's boxes and points become masks, through transformers' Auto classes.

Preprocessing is done here and not by the checkpoint's processor: SAM 2's exists only for torchvision, and it is three
lines. Every released checkpoint of both families uses the ImageNet statistics. SAM resizes the longest side and pads
right and below; SAM 2 squashes the image to a square.

A mask costs an image-encoder pass, and the same prior comes back every round, so masks are kept (8 bit) by prior.
Source: Kirillov et al. 2023 (Segment Anything), Ravi et al. 2024 (SAM 2); one mask per box as both advise for boxes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from l2l_ray.checkpoints import checkpoint
from l2l_ray.errors import ConfigError
from l2l_ray.types import BoxFrac, Prior

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
CACHE_BYTES = 256 * 2**20
_SQUASHED = ("sam2", "sam2_video", "edgetam", "edgetam_video")
_PADDED = ("sam", "sam_hq")
_POINT, _NO_POINT = 1, -10  # prompt labels of transformers' SAM: a point on the object, a padding entry


class SamProposer:
    """A frozen SAM or SAM 2, asked for one mask per box.

    Args:
        model: A transformers mask-generation model; put in eval mode.
    Raises:
        ConfigError: The model's family is neither SAM nor SAM 2.
    """

    def __init__(self, model: Any) -> None:
        kind = model.config.model_type
        if kind not in _SQUASHED + _PADDED:
            raise ConfigError(f"prior.sam_model is a {kind!r} model, expected one of {_PADDED + _SQUASHED}")
        self.model = model.eval().requires_grad_(False)
        self._squash = kind in _SQUASHED
        self._side_px = int(model.config.prompt_encoder_config.image_size)
        self._cache: dict[tuple[str, tuple[BoxFrac, ...], int], UInt8[Tensor, "K G G"]] = {}
        self._cached_bytes = 0

    @classmethod
    def load(cls, name: str, device: str = "auto", dtype: str = "float32") -> SamProposer:
        """Load a folder or hub id.

        Raises:
            ConfigError: It cannot be loaded as a mask-generation model.
        """
        from transformers import AutoModelForMaskGeneration

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        with checkpoint("prior.sam_model", name, "SAM or SAM 2") as options:
            model = AutoModelForMaskGeneration.from_pretrained(name, dtype=getattr(torch, dtype), **options)
        return cls(model.to(device))

    @torch.no_grad()
    def masks(self, prior: Prior, image: Image.Image, grid: int) -> Float[Tensor, "K G G"]:
        """Return one mask per box of the prior: mean mask probability of each cell, in [0, 1], on the CPU.

        A point is given to every box that contains it. Points without any box are of one object: one mask.

        Args:
            prior: At least one box or point.
            image: The image the prior is about, RGB, any size.
            grid: Cells per side of the result.
        """
        key = (prior.key, prior.boxes_xyxy_frac, grid)
        if key not in self._cache:
            self._remember(key, (self._run(prior, image, grid) * 255).round().to(torch.uint8).cpu())
        return self._cache[key].float() / 255

    def _run(self, prior: Prior, image: Image.Image, grid: int) -> Float[Tensor, "K G G"]:
        first = next(self.model.parameters())
        pixels, used_xy_px = self._pixels(image)
        scale = torch.tensor(used_xy_px)
        boxes = torch.tensor(prior.boxes_xyxy_frac).view(-1, 4)
        prompt = {"input_boxes": (boxes * scale.repeat(2))[None].to(first)} if len(boxes) else {}
        if prior.points_xy_frac:
            points = torch.tensor(prior.points_xy_frac)
            labels = _point_labels(points, boxes) if len(boxes) else torch.full((1, len(points)), _POINT)
            prompt["input_points"] = (points * scale).expand(len(labels), -1, -1)[None].to(first)
            prompt["input_labels"] = labels[None].to(first.device)
        output = self.model(pixel_values=pixels.to(first), multimask_output=False, **prompt)
        logits = output.pred_masks[0, :, 0].float()
        return image_part_on_grid(torch.sigmoid(logits), used_xy_px, self._side_px, grid)

    def _pixels(self, image: Image.Image) -> tuple[Float[Tensor, "1 3 S S"], tuple[float, float]]:
        """The model's input, and the (x, y) extent of the image inside it, px."""
        width, height = self._side_px, self._side_px
        if not self._squash:
            longest = max(image.size)
            width, height = (max(1, round(side * self._side_px / longest)) for side in image.size)
        resized = np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR), dtype=np.float32)
        pixels = torch.from_numpy(resized).permute(2, 0, 1) / 255
        pixels = (pixels - torch.tensor(IMAGE_MEAN)[:, None, None]) / torch.tensor(IMAGE_STD)[:, None, None]
        padded = F.pad(pixels, (0, self._side_px - width, 0, self._side_px - height))  # 0 after normalising, as SAM
        return padded[None], (float(width), float(height))

    def _remember(self, key: tuple[str, tuple[BoxFrac, ...], int], masks: UInt8[Tensor, "K G G"]) -> None:
        while self._cache and self._cached_bytes + masks.numel() > CACHE_BYTES:
            self._cached_bytes -= self._cache.pop(next(iter(self._cache))).numel()  # oldest first
        self._cache[key] = masks
        self._cached_bytes += masks.numel()


def _point_labels(points: Float[Tensor, "P 2"], boxes: Float[Tensor, "K 4"]) -> Tensor:
    """Label [K, P]: 1 where the box contains the point, else padding."""
    inside = (points[None] >= boxes[:, None, :2]) & (points[None] <= boxes[:, None, 2:])
    return torch.where(inside.all(dim=-1), _POINT, _NO_POINT)


def image_part_on_grid(
    probs: Float[Tensor, "K h w"], used_xy_px: tuple[float, float], side_px: int, grid: int
) -> Float[Tensor, "K G G"]:
    """Return masks of a padded square as masks of the image: the padding is cut off, the rest averaged over the cells.

    Args:
        probs: Mask probabilities of the square.
        used_xy_px: Extent of the image inside the square, from its upper left corner.
        side_px: Side of the square, in the same pixels.
        grid: Cells per side of the result.
    """
    height, width = (max(1, round(probs.shape[-1] * px / side_px)) for px in reversed(used_xy_px))
    image_part = probs[:, :height, :width]
    if min(height, width) < grid:  # too coarse to average: interpolate up first
        image_part = F.interpolate(image_part[:, None], (grid, grid), mode="bilinear", align_corners=False)[:, 0]
    return F.adaptive_avg_pool2d(image_part, grid)
