"""Image encoder: any `AutoBackbone` of transformers, seen as a pyramid of feature maps, fine to coarse.

Three kinds of checkpoint come in: the tiny one that ships with the package (strides 2, 4, 8, 16), hierarchical ones
(Swin, ConvNeXt: 4, 8, 16, 32) and plain ViTs (DINOv2/v3: one stride), which get the simple pyramid of ViTDet. Strides
and channels are measured with one probe image instead of being guessed from configs that spell them differently.

All dropout and stochastic depth is switched off and BatchNorm is refused: every random choice of this project is keyed,
and no result may depend on how a batch is split over workers.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoBackbone, AutoConfig, PretrainedConfig

from l2l_ray.checkpoints import checkpoint, load_whole, pixel_statistics
from l2l_ray.config import EMBEDDED, SegmenterConfig
from l2l_ray.errors import ConfigError

logger = logging.getLogger(__name__)

ENCODER_DIR = Path(__file__).resolve().parents[1] / "embedded" / "encoder"
EXPECTED = "a backbone (AutoBackbone) such as Swin, ConvNeXt or DINOv2/v3, or 'embedded'"
WEIGHT_DTYPE = torch.float32  # of both encoders: in a checkpoint's half precision a small step would change no weight
# Norms after each stage, which begin as the identity but for a shift and scale, and what stands for hidden patches.
_NOT_OF_CLASSIFIERS = r"(^|\.)(hidden_states_norms\.|mask_token$)"
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def resolve_source(source: str, part: str) -> str:
    """Return the folder or hub id behind a config value; 'embedded' is the shipped folder `part` (backbone, text)."""
    return str(ENCODER_DIR / part) if source == EMBEDDED else source


def without_randomness(config: PretrainedConfig) -> PretrainedConfig:
    """Switch off what a transformers config draws at random in training, in place, and return it.

    That is every dropout and stochastic-depth rate, and DINOv3's random shift, jitter and scale of positions.
    """
    for name, value in list(vars(config).items()):
        if "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0)
        if name in {"pos_embed_shift", "pos_embed_jitter", "pos_embed_rescale"}:
            setattr(config, name, None)
    return config


class Backbone(nn.Module):
    """Feature pyramid of an image.

    Attributes:
        channels: Channels of each level, fine to coarse.
        strides: Pixels of the input per cell of each level, fine to coarse; of a ViT with patches of 14 px they begin
            with 3.5.

    Raises:
        ConfigError: If the checkpoint cannot be read as a backbone, or holds BatchNorm; or if the image side is not a
            multiple of a ViT's patch.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: SegmenterConfig) -> None:
        """Load the checkpoint that `config.backbone` names; random weights of its architecture without `pretrained`."""
        super().__init__()
        source = resolve_source(config.backbone, "backbone")
        with checkpoint("segmenter.backbone", source, EXPECTED) as options:
            self.model: Any = _load(source, config.pretrained, options)
            statistics = pixel_statistics(source, options)
        if statistics is None:
            logger.info("%s has no image-processor config; images are normalised as ImageNet's are", source)
        mean, std = statistics or (IMAGENET_MEAN, IMAGENET_STD)
        _refuse_batch_norm(self.model, source)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.pyramid: SimplePyramid | None = None
        shapes = _probe(self.model, config.image_size)
        self.strides: tuple[float, ...]
        if len({width for _, _, width in shapes}) == 1:
            patch = _patch_size(self.model, config.image_size, source)
            self.pyramid = SimplePyramid(shapes[-1][0])
            self.channels = self.pyramid.channels
            sides = [patch * scale for scale in self.pyramid.scales]
            self.strides = tuple(int(side) if side.is_integer() else side for side in sides)
        else:
            self.channels = tuple(channels for channels, _, _ in shapes)
            self.strides = tuple(round(config.image_size / width) for _, _, width in shapes)
        # Convolutions are faster with channels last everywhere; the stubs of `to` do not know the argument.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Float[Tensor, "B 3 S S"]) -> tuple[Float[Tensor, "B C h w"], ...]:
        """Return the feature maps, fine to coarse.

        Args:
            images: RGB in [0, 1]; normalised here with the checkpoint's own mean and deviation.
        """
        normalized = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        maps = self.model(normalized).feature_maps
        return tuple(maps) if self.pyramid is None else self.pyramid(maps[-1])


class SimplePyramid(nn.Module):
    """Four levels from the last map of a plain ViT: up by 4 and 2, as it is, and down by 2.

    Source: Li et al. 2022 (ViTDet), simple feature pyramid. Departure: the up-sampled levels keep the reduced width.
    """

    scales = (0.25, 0.5, 1.0, 2.0)

    def __init__(self, width: int) -> None:
        """Make the levels for maps of `width` channels."""
        super().__init__()
        half, quarter = max(width // 2, 16), max(width // 4, 16)
        self.channels: tuple[int, ...] = (quarter, half, width, width)
        self.up2 = nn.Sequential(nn.ConvTranspose2d(width, half, 2, 2), nn.GroupNorm(1, half))
        self.up4 = nn.Sequential(nn.GELU(), nn.ConvTranspose2d(half, quarter, 2, 2), nn.GroupNorm(1, quarter))
        self.down2 = nn.AvgPool2d(2, ceil_mode=True)

    def forward(self, feat_BCHW: Float[Tensor, "B C h w"]) -> tuple[Float[Tensor, "B D hh ww"], ...]:
        """Return the levels at the strides `scales` times the input's, fine to coarse."""
        twice = self.up2(feat_BCHW)
        return self.up4(twice), twice, feat_BCHW, self.down2(feat_BCHW)


def _load(source: str, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    factory: Any = AutoBackbone
    config = without_randomness(AutoConfig.from_pretrained(source, **options))
    stages: Sequence[str] = getattr(config, "stage_names", None) or ()
    if not stages:
        raise ValueError(f"model type {config.model_type!r} has no stages")
    # The stem of a hierarchical model repeats the stride of stage 1; of a plain ViT only the last layer is used.
    names = [name for name in stages if name != "stem"]
    config.set_output_features_output_indices(out_features=names, out_indices=None)
    if not pretrained:
        random: nn.Module = factory.from_config(config, dtype=WEIGHT_DTYPE)
        return random
    # `AutoBackbone.from_pretrained` asks the hub even about a local folder; the class it would choose does not.
    with torch.device("meta"):
        backbone_class: Any = type(factory.from_config(config))
    loaded: nn.Module = load_whole(
        backbone_class, source, may_lack=_NOT_OF_CLASSIFIERS, config=config, dtype=WEIGHT_DTYPE, **options
    )
    return loaded


def _probe(model: nn.Module, image_size: int) -> list[tuple[int, int, int]]:
    """Return channels, height and width of each feature map, and freeze the weights that no map depends on.

    A classifier's last norm and a mask token are such weights.
    """
    with torch.enable_grad():
        maps = model(torch.zeros(1, 3, image_size, image_size)).feature_maps
        freeze_unused(model, maps)
    return [(m.shape[1], m.shape[2], m.shape[3]) for m in maps]


def freeze_unused(model: nn.Module, outputs: Sequence[Tensor]) -> None:
    """Freeze the weights that none of a model's outputs depends on: DDP would wait for their gradient for ever.

    Args:
        model: What learns.
        outputs: What it gave, with their graph; it is gone afterwards.
    """
    learned = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad([output.sum() for output in outputs], learned, allow_unused=True)
    for parameter, gradient in zip(learned, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)


def _patch_size(model: nn.Module, image_size: int, source: str) -> int:
    """Return the side of a ViT's patches, px."""
    patch: int = model.config.patch_size  # type: ignore[union-attr, assignment]
    if image_size % patch:
        raise ConfigError(
            f"segmenter.image_size must be a multiple of the patch of {source!r}, {patch} px, got {image_size}; use "
            f"{image_size // patch * patch}"
        )
    return patch


def _refuse_batch_norm(model: nn.Module, source: str) -> None:
    found = [name for name, module in model.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if found:
        raise ConfigError(
            f"segmenter.backbone: {source!r} holds {len(found)} BatchNorm layers (first: {found[0]}), expected none, "
            "because results must not depend on how a batch is split over workers; use ConvNeXt, Swin or DINOv3"
        )
