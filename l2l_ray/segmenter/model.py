"""The segmenter (SESM): backbone + text + fusion encode; guidance + decoder turn the encoding and a prior into a mask.

`encode` does everything that no prior can change, so one encoding serves several decodings: with the prior and without
it. `decode` is the cheap part. `forward` takes words as text and does one of each.

`guidance=False` (ablation) keeps every layer and treats each sample as one without a prior, phrase included: the rows
of that ablation differ in evidence, not in size.

Where the pieces come from: backbone and text through transformers' Auto classes, fusion with its text-region matching
pretrained with them; guidance and decoder always start random.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from l2l_ray.config import SegmenterConfig
from l2l_ray.errors import ConfigError
from l2l_ray.segmenter.backbone import Backbone
from l2l_ray.segmenter.decoder import Decoder, Pyramid, SegmenterOutput, level_channels
from l2l_ray.segmenter.fusion import Fusion
from l2l_ray.segmenter.guidance import GuidanceEncoder, prior_signal
from l2l_ray.segmenter.text import TextEncoder, TextTokens

__all__ = ["Encoded", "Segmenter", "SegmenterOutput", "output_grid"]


@dataclass(frozen=True)
class Encoded:
    """An encoded batch: what `decode` needs besides the prior.

    Example: `Encoded(maps of 4x4, 8x8, 16x16, 32x32, tokens [B, 6, 128], mask [B, 6], logits [B, 8, 8])`.
    """

    pyramid: tuple[Float[Tensor, "B _ _ _"], ...]  # coarse to fine, decoder channels
    expression_BLD: Float[Tensor, "B L D"]  # after fusion
    attention_mask: Tensor  # [B, L], 1 = real token
    match_logits: Float[Tensor, "B H W"]  # text-region matching at the fusion stride


class Segmenter(nn.Module):
    """Find the pixels an expression refers to, with or without a prior.

    Attributes:
        image_size: Side of its images, px.
        grid: Side of the output grid, cells: `image_size` / finest backbone stride.
    Raises:
        ConfigError: If heads do not divide the width, no backbone level has `fusion_stride`, or the image side is not a
            multiple of the finest stride.
    """

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.use_prior = config.guidance
        self.image_size = config.image_size
        self.backbone = Backbone(config)
        self.text = TextEncoder(config)
        fusion_index = _fusion_index(config, self.backbone.strides)
        self.fusion_index = fusion_index
        self.grid = int(config.image_size / self.backbone.strides[0])
        self.fusion = Fusion(config, self.backbone.channels[fusion_index], self.text.width)
        channels = level_channels(config.width, fusion_index + 1, config.num_heads)
        self.pyramid = Pyramid(self.backbone.channels, fusion_index, config.fusion_width, channels)
        self.guidance = GuidanceEncoder(
            config.width,
            config.num_guidance_tokens,
            config.num_heads,
            config.fusion_width,
            self.text.width,
            self.pyramid.channels,
        )
        self.decoder = Decoder(channels, config.width, config.num_heads, config.self_evolve)

    def tokenize(self, expressions: list[str]) -> TextTokens:
        """Return token ids of expressions or phrases, on the CPU."""
        return self.text.tokenize(expressions)

    def encode(self, images: Float[Tensor, "B 3 S S"], tokens: TextTokens) -> Encoded:
        """Encode what does not depend on the prior.

        Args:
            images: RGB in [0, 1], S = `image_size`.
            tokens: Expressions, on the device of `images`.
        """
        levels = self._levels(images)
        fused = self.fusion(levels[self.fusion_index], self.text(tokens), tokens.attention_mask)
        pyramid = self.pyramid(levels, fused.feat_BCHW)
        return Encoded(pyramid, fused.tokens_BLD, tokens.attention_mask, fused.match_logits_BHW)

    def _levels(self, images: Float[Tensor, "B 3 S S"]) -> tuple[Float[Tensor, "B C h w"], ...]:
        """Return the backbone's levels; where nothing is learned, equal images that follow each other share one pass.

        Example sets hold the sentences of an image together: RefCOCO has about three per object.
        """
        levels: tuple[Tensor, ...]
        if torch.is_grad_enabled():
            levels = self.backbone(images)
            return levels
        is_new = torch.ones(len(images), dtype=torch.bool, device=images.device)
        is_new[1:] = (images[1:] != images[:-1]).flatten(1).any(dim=1)
        levels = self.backbone(images[is_new])
        row_of = is_new.cumsum(0) - 1
        return tuple(level[row_of] for level in levels)

    def decode(
        self,
        encoded: Encoded,
        proposal: Float[Tensor, "B G G"],
        prior_score: Float[Tensor, " B"],
        has_prior: Bool[Tensor, " B"],
        phrases: TextTokens | None = None,
    ) -> SegmenterOutput:
        """Predict masks under a prior.

        Args:
            encoded: From `encode`; may be reused.
            proposal: Soft proposal q in [0, 1] on the grid; never read where `has_prior` is False.
            prior_score: The prior's score in [0, 1].
            has_prior: False = decode without prior.
            phrases: The MLLM's label phrases, or None. Costs one pass of the text encoder.
        Raises:
            ValueError: If `proposal` is not on the grid.
        """
        expected = (encoded.match_logits.shape[0], self.grid, self.grid)
        if tuple(proposal.shape) != expected:
            raise ValueError(
                f"proposal must be [B, G, G] = {expected}, got {tuple(proposal.shape)}; build it at Segmenter.grid"
            )
        has_prior = has_prior.bool() & self.use_prior
        phrase = None
        if phrases is not None and self.use_prior:
            phrase = (self.text(phrases), phrases.attention_mask)
        prior = prior_signal(proposal, prior_score, has_prior, phrase, self.text.width)
        guidance_BND = self.guidance(
            encoded.expression_BLD, encoded.attention_mask, encoded.pyramid, encoded.match_logits, prior
        )
        finer = encoded.pyramid[self.pyramid.num_coarser :]
        output: SegmenterOutput = self.decoder(finer, encoded.match_logits, guidance_BND, prior)
        return output

    def forward(
        self,
        images: Float[Tensor, "B 3 S S"],
        expressions: list[str],
        proposal: Float[Tensor, "B G G"],
        prior_score: Float[Tensor, " B"],
        has_prior: Bool[Tensor, " B"],
        phrases: list[str] | None = None,
    ) -> SegmenterOutput:
        """Tokenize, encode and decode one batch; arguments as there, words as text."""
        tokens = self.tokenize(expressions).to(images.device)
        phrase_tokens = None if phrases is None else self.tokenize(phrases).to(images.device)
        return self.decode(self.encode(images, tokens), proposal, prior_score, has_prior, phrase_tokens)

    def parameter_groups(
        self,
        lr: float,
        encoder_lr_scale: float,
        weight_decay: float,
        backbone_lr_scale: float | None = None,
        text_lr_scale: float | None = None,
    ) -> list[dict[str, Any]]:
        """Return optimiser groups: image encoder, text encoder and fusion at `lr` times their scale, the rest at `lr`.

        Only weights of linear and convolution layers decay: not norms, biases, embeddings, learned tokens or position
        embeddings, which decay would only pull towards 0. Frozen parameters and empty groups are left out.

        Args:
            lr: Of the parts that start random.
            encoder_lr_scale: Of the fusion, and of an encoder that has no scale of its own.
            weight_decay: Of weights that decay.
            backbone_lr_scale: Of the image encoder.
            text_lr_scale: Of the text encoder.
        """
        scales = (
            (self.backbone, encoder_lr_scale if backbone_lr_scale is None else backbone_lr_scale),
            (self.text, encoder_lr_scale if text_lr_scale is None else text_lr_scale),
            (self.fusion, encoder_lr_scale),
        )
        own_lr = {id(p): lr * scale for part, scale in scales for p in part.parameters()}
        decaying = _decaying_parameters(self)
        groups: list[dict[str, Any]] = []
        # Encoders first, those of one rate together: saved optimiser states count parameters in this order.
        for of_encoders, rate in [*((True, rate) for rate in dict.fromkeys(own_lr.values())), (False, lr)]:
            for decays in (True, False):
                params = [
                    p
                    for p in self.parameters()
                    if p.requires_grad
                    and (id(p) in own_lr) == of_encoders
                    and own_lr.get(id(p), lr) == rate
                    and (id(p) in decaying) == decays
                ]
                groups.append({"params": params, "lr": rate, "weight_decay": weight_decay if decays else 0.0})
        return [group for group in groups if group["params"]]


@lru_cache(maxsize=8)
def output_grid(config: SegmenterConfig) -> int:
    """Return the side of a segmenter's output grid, cells, without making its weights."""
    with torch.device("meta"):
        return Segmenter(config.model_copy(update={"pretrained": False})).grid


def _fusion_index(config: SegmenterConfig, strides: tuple[float, ...]) -> int:
    if config.width % config.num_heads:
        raise ConfigError(f"segmenter.width must be a multiple of num_heads = {config.num_heads}, got {config.width}")
    if config.fusion_stride not in strides:
        raise ConfigError(
            f"segmenter.fusion_stride must be one of the backbone's strides {strides} px, got {config.fusion_stride}"
        )
    if config.image_size % strides[0]:
        raise ConfigError(
            f"segmenter.image_size must be a multiple of the backbone's finest stride {strides[0]} px, got "
            f"{config.image_size}; use {int(config.image_size // strides[0] * strides[0])}"
        )
    return strides.index(config.fusion_stride)


def _decaying_parameters(module: nn.Module) -> set[int]:
    layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)
    return {id(layer.weight) for layer in module.modules() if isinstance(layer, layers)}
