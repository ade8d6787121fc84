"""Cross-modal encoder: one transformer over the image tokens of one level and the text tokens together.

Relational words ("second from the left", "largest") compare objects with one another under the words; a joint
transformer lets image cells look at the words and at all other cells in every layer. Positions are 2-D sinusoids of
the cell centre as a fraction of the image, so any grid size works with the same weights.

Weights: when backbone and text come from the same folder and `fusion.safetensors` lies next to them, as in the shipped
encoder, they are loaded; otherwise the fusion starts random. Legend: B batch, C channels, H W cells, L text tokens,
N = H * W + L, D width.
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from l2l_ray.config import SegmenterConfig
from l2l_ray.errors import ConfigError
from l2l_ray.segmenter.attention import attend
from l2l_ray.segmenter.backbone import resolve_source

logger = logging.getLogger(__name__)

WEIGHTS_NAME = "fusion.safetensors"
SHAPE_NAME = "fusion.json"


@dataclass(frozen=True)
class Fused:
    """What the fusion returns.

    Example: `Fused(feat [B, 128, 8, 8], tokens [B, 6, 128], match_logits [B, 8, 8])`.
    """

    feat_BCHW: Float[Tensor, "B D H W"]  # the level's features, conditioned on the words
    tokens_BLD: Float[Tensor, "B L D"]  # the words, conditioned on the image; meaningless at padding
    match_logits_BHW: Float[Tensor, "B H W"]  # > 0: the cell shows the referred object


class Fusion(nn.Module):
    """Joint pre-norm transformer over image cells and words.

    Args:
        config: Gives width, layers and heads, and where pretrained weights may lie.
        image_channels: Channels of the level given to `forward`.
        text_width: Channels of the tokens given to `forward`.

    Attributes:
        keeps_activations: False = the gradient computes them again, layer by layer.

    Raises:
        ConfigError: If pretrained weights exist whose shape differs from the config's.
    """

    def __init__(self, config: SegmenterConfig, image_channels: int, text_width: int) -> None:
        """Make the layers, and load the pretrained weights if there are any for this pair of encoders."""
        super().__init__()
        width = config.fusion_width
        if width % (4 * config.num_heads):
            raise ConfigError(
                f"segmenter.fusion_width must be a multiple of 4 x num_heads = {4 * config.num_heads}, got {width}"
            )
        self.width = width
        self.keeps_activations = True
        self.shape = {
            "image_channels": image_channels,
            "text_width": text_width,
            "fusion_width": width,
            "fusion_layers": config.fusion_layers,
            "fusion_stride": config.fusion_stride,
            "num_heads": config.num_heads,
        }
        self.image_norm = nn.LayerNorm(image_channels)
        self.image_in = nn.Linear(image_channels, width)
        self.text_in = nn.Linear(text_width, width)
        self.blocks = nn.ModuleList(_Block(width, config.num_heads) for _ in range(config.fusion_layers))
        self.norm = nn.LayerNorm(width)
        self.match_image = nn.Linear(width, width)
        self.match_text = nn.Linear(width, width)
        # About one cell in twelve shows the referent: start there instead of spending steps on it.
        self.match_bias = nn.Parameter(torch.tensor(-2.5))
        weights = _pretrained_weights(config)
        if weights is not None:
            self._load(weights)

    def forward(
        self,
        feat_BCHW: Float[Tensor, "B C H W"],
        tokens_BLD: Float[Tensor, "B L D"],
        attention_mask_BL: Int[Tensor, "B L"],
    ) -> Fused:
        """Fuse one feature level with the text tokens.

        Args:
            feat_BCHW: Features of the level at `fusion_stride`, any H and W.
            tokens_BLD: Text tokens; the first is the sentence token.
            attention_mask_BL: 1 = real token, 0 = padding (never attended to).
        """
        batch, _, height, width = feat_BCHW.shape
        cells_BND = self.image_in(self.image_norm(feat_BCHW.flatten(2).transpose(1, 2)))
        cells_BND = cells_BND + position_embedding(height, width, self.width, feat_BCHW.device).to(cells_BND.dtype)
        joint_BND = torch.cat([cells_BND, self.text_in(tokens_BLD).to(cells_BND.dtype)], dim=1)
        ones = attention_mask_BL.new_ones(batch, height * width, dtype=torch.bool)
        mask_BN = torch.cat([ones, attention_mask_BL.bool()], dim=1)
        for block in self.blocks:
            if self.keeps_activations or not torch.is_grad_enabled():
                joint_BND = block(joint_BND, mask_BN)
            else:
                joint_BND = checkpoint(block, joint_BND, mask_BN, use_reentrant=False)
        joint_BND = self.norm(joint_BND)
        cells_BND, words_BLD = joint_BND.split([height * width, tokens_BLD.shape[1]], dim=1)
        match_BN = (self.match_image(cells_BND) * self.match_text(words_BLD[:, :1])).float().sum(-1)
        return Fused(
            feat_BCHW=cells_BND.transpose(1, 2).unflatten(2, (height, width)),
            tokens_BLD=words_BLD,
            match_logits_BHW=(match_BN / math.sqrt(self.width) + self.match_bias).unflatten(1, (height, width)),
        )

    def _load(self, weights: Path) -> None:
        stored = json.loads((weights.parent / SHAPE_NAME).read_text())
        differing = {name: (value, stored.get(name)) for name, value in self.shape.items() if stored.get(name) != value}
        if differing:
            text = ", ".join(f"{name} got {got}, expected {expected}" for name, (got, expected) in differing.items())
            raise ConfigError(
                f"segmenter: {weights} does not fit the config: {text}; use these values, or pretrained=False, or keep "
                "backbone and text in different folders to start the fusion from random weights"
            )
        self.load_state_dict({name: tensor.float() for name, tensor in load_file(weights).items()})


class _Block(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x_BND: Float[Tensor, "B N D"], mask_BN: Bool[Tensor, "B N"]) -> Float[Tensor, "B N D"]:
        qkv = self.qkv(self.norm1(x_BND)).unflatten(2, (3, self.num_heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        attended = attend(query, key, value, mask_BN[:, None, None, :])
        x_BND = x_BND + self.out(attended.transpose(1, 2).flatten(2))
        mixed: Tensor = x_BND + self.mlp(self.norm2(x_BND))
        return mixed


def position_embedding(height: int, width: int, channels: int, device: torch.device) -> Float[Tensor, "N D"]:
    """Return sinusoids of the cell centres (y then x, each a fraction of the image), row by row.

    Wavelengths run geometrically from 2 images down to 1/8 of one: longer tells the halves apart, shorter than two
    cells of the default 8 x 8 grid would alias.
    """
    num = channels // 4
    frequency = 2 * math.pi * torch.logspace(math.log2(0.5), math.log2(8), num, base=2.0, device=device)
    parts = []
    for size in (height, width):
        centre = (torch.arange(size, device=device) + 0.5) / size
        angle = centre[:, None] * frequency
        parts.append(torch.cat([angle.sin(), angle.cos()], dim=1))
    rows, cols = parts
    grid = torch.cat([rows[:, None].expand(-1, width, -1), cols[None].expand(height, -1, -1)], dim=2)
    return grid.flatten(0, 1)


def _pretrained_weights(config: SegmenterConfig) -> Path | None:
    """Return the fusion weights that lie next to both encoders, None if there are none or they are not wanted."""
    if not config.pretrained:
        return None
    folders = {
        Path(resolve_source(config.backbone, "backbone")).parent,
        Path(resolve_source(config.text, "text")).parent,
    }
    weights = folders.pop() / WEIGHTS_NAME
    if folders or not weights.is_file():
        logger.info("fusion starts from random weights")
        return None
    return weights
