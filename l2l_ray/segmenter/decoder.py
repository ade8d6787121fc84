"""The hierarchical decoder: coarse to fine, conditioned by guidance tokens, its own prediction as the next proposal.

Levels run from the fusion stride down to the finest backbone stride. At each level the current proposal enters as an
extra embedding, pixels attend to the guidance tokens, and a head adds a correction to the upsampled logits of the level
before. That is where the module *self-evolves*: the first level reads the MLLM's proposal q, every later level reads
the mask just predicted, and the tokens are refreshed from the features under that mask. `self_evolve=False` shows q to
every level and leaves the tokens alone.

The first logits are the text-region matching, made without the prior; q is added to them by a signed scalar *trust*
that the guidance tokens compute, which know how q and the matching agree. So a sample without prior starts from a
grounded guess and a wrong prior can be overruled. The calibrated matching is itself one of the supervised levels, which
keeps the path without a prior trained by every sample.

Predictions that serve as proposals are detached: levels learn from their own supervision and through the residual
logits, not by bending an earlier mask into a better hint. Logits are float32 under autocast: bfloat16's 8 bits would
put whole plateaus of pixels on one probability, and thresholds on probabilities select pixels downstream.

GroupNorm only. Source: top-down laterals as FPN (Lin et al. 2017); masked region feedback to queries as in
Mask2Former (Cheng et al. 2022), without its hard mask; the rest is ours.
Shapes: B batch, C channels, H W a level's grid, G the finest, N guidance tokens, D token channels, h heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from l2l_ray.segmenter.guidance import PriorSignal, TokenAttention, pool_regions, resize_map

MIN_CHANNELS = 32  # finest levels: cost grows with their area, and a mask edge needs few channels
FIRST_LEVEL_BLOCKS = 2  # the coarsest level is cheap and decides *which* object


@dataclass(frozen=True)
class SegmenterOutput:
    """What the segmenter predicts for a batch.

    Example: `decoder(pyramid, match_logits, tokens, prior).mask_logits`
    """

    mask_logits: Float[Tensor, "B G G"]
    level_logits: tuple[Float[Tensor, "B _ _"], ...]  # matching without prior, then each coarser level; coarse to fine


def level_channels(width: int, num_levels: int, num_heads: int) -> list[int]:
    """Return channels coarse to fine: halved per level, not below MIN_CHANNELS, multiples of `num_heads`."""
    floor = min(width, max(MIN_CHANNELS, num_heads))
    return [max(floor, width >> level) // num_heads * num_heads for level in range(num_levels)]


def group_norm(channels: int) -> nn.GroupNorm:
    """Return a GroupNorm of 16 channels per group (whole vectors: several times faster in bfloat16), or one group."""
    return nn.GroupNorm(channels // 16 if channels % 16 == 0 else 1, channels)


class Pyramid(nn.Module):
    """Project backbone levels and the fused map to the decoder's channels; nothing here depends on the prior.

    Levels coarser than the fusion stride only give context: they are pooled by the guidance and added, upsampled, to
    the fusion level.

    Args:
        backbone_channels: Per backbone level, fine to coarse.
        fusion_index: Which of them is the fusion level.
        fusion_width: Channels of the fused map.
        channels: Decoder channels, coarse to fine, one per level from the fusion level to the finest.
    """

    def __init__(
        self, backbone_channels: Sequence[int], fusion_index: int, fusion_width: int, channels: Sequence[int]
    ) -> None:
        super().__init__()
        num_coarser = len(backbone_channels) - fusion_index - 1
        self.channels = [channels[0]] * num_coarser + list(channels)  # of the output, coarse to fine
        self.num_coarser = num_coarser
        self.laterals = nn.ModuleList(
            nn.Sequential(nn.Conv2d(source, target, 1, bias=False), group_norm(target))
            for source, target in zip(reversed(backbone_channels), self.channels, strict=True)
        )
        self.fused = nn.Sequential(nn.Conv2d(fusion_width, channels[0], 1, bias=False), group_norm(channels[0]))

    def forward(
        self, levels: Sequence[Float[Tensor, "B _ _ _"]], fused_BCHW: Float[Tensor, "B C H W"]
    ) -> tuple[Float[Tensor, "B _ _ _"], ...]:
        """Return maps coarse to fine; `levels` come fine to coarse, `fused_BCHW` at the fusion level's size."""
        maps = [lateral(feat) for lateral, feat in zip(self.laterals, reversed(levels), strict=True)]
        fusion = maps[self.num_coarser] + self.fused(fused_BCHW)
        for context in maps[: self.num_coarser]:
            fusion = fusion + _upsample(context, fusion.shape[-2:])
        maps[self.num_coarser] = fusion
        return tuple(maps)


class ProposalEmbedding(nn.Module):
    """Add a soft map to features as one extra channel's embedding; where it is absent, add a learned constant."""

    def __init__(self, channels: int, can_be_absent: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, 1, 1) * 0.1)
        self.absent = nn.Parameter(torch.zeros(channels, 1, 1)) if can_be_absent else None

    def forward(
        self,
        feat_BCHW: Float[Tensor, "B C H W"],
        probs_BHW: Float[Tensor, "B H W"],
        present_B: Bool[Tensor, " B"] | None = None,
    ) -> Float[Tensor, "B C H W"]:
        """Return features plus `weight * (2 * probs - 1)` (0.5 says nothing), or plus `absent`; None = all present."""
        dtype = feat_BCHW.dtype
        signed_B1HW = (2.0 * probs_BHW - 1.0)[:, None]
        if present_B is not None and self.absent is not None:
            present_B111 = present_B[:, None, None, None]
            signed_B1HW = torch.where(present_B111, signed_B1HW, 0.0)
            feat_BCHW = feat_BCHW + (self.absent * ~present_B111).to(dtype)
        return torch.addcmul(feat_BCHW, self.weight.to(dtype), signed_B1HW.to(dtype))


class PixelAttention(nn.Module):
    """Every pixel attends to the few guidance tokens; the result is added to the features.

    Scores are `(W_q x) · k = x · (W_qᵀ k)`, and likewise `W_o (a v) = a (W_o v)`: with N tokens far fewer than pixels,
    folding the pixel-side projections into the tokens leaves two small matrix products per pixel and no per-pixel
    projection at all. Same function as multi-head attention whose heads have full-width `W_q` and `W_o`. Pixels are
    the innermost axis of the softmax, because a softmax over 8 contiguous numbers is an order slower on CPUs.
    """

    def __init__(self, channels: int, token_width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_tokens = nn.LayerNorm(token_width)
        self.key = nn.Linear(token_width, num_heads * channels)
        self.value = nn.Linear(token_width, num_heads * channels)
        self.scale = channels**-0.5

    def forward(
        self,
        feat_BCHW: Float[Tensor, "B C H W"],
        query_BCHW: Float[Tensor, "B C H W"],
        tokens_BND: Float[Tensor, "B N D"],
    ) -> Float[Tensor, "B C H W"]:
        """Return `feat` plus what the pixels of `query` attend to."""
        tokens = self.norm_tokens(tokens_BND)
        key_BSC, value_BSC = (self._per_head(project(tokens)) for project in (self.key, self.value))
        scores_BSP = (key_BSC * self.scale) @ query_BCHW.flatten(2)
        scores_BhNP = scores_BSP.reshape(tokens.shape[0], self.num_heads, -1, scores_BSP.shape[-1])
        attention_BPS = scores_BhNP.softmax(dim=2).flatten(1, 2).transpose(1, 2)
        attended_BPC = attention_BPS.to(value_BSC.dtype) @ value_BSC
        summed_BPC: Tensor = feat_BCHW.flatten(2).transpose(1, 2) + attended_BPC
        return summed_BPC.transpose(1, 2).reshape(feat_BCHW.shape)

    def _per_head(self, x_BNE: Tensor) -> Tensor:
        # [B, N, h*C] -> [B, h*N, C]
        return x_BNE.reshape(*x_BNE.shape[:2], self.num_heads, -1).transpose(1, 2).flatten(1, 2)


class DecoderBlock(nn.Module):
    """A 3x3 convolution and attention to the guidance tokens, side by side on one normalised input, both residual.

    Source of the parallel form: Wang and Komatsuzaki 2021 (GPT-J); it saves a normalisation and an addition at the
    finest grid, where those cost as much as the convolution.
    """

    def __init__(self, channels: int, token_width: int, num_heads: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.attention = PixelAttention(channels, token_width, num_heads)

    def forward(
        self, feat_BCHW: Float[Tensor, "B C H W"], tokens_BND: Float[Tensor, "B N D"]
    ) -> Float[Tensor, "B C H W"]:
        """Return features of the same shape."""
        normed = F.silu(self.norm(feat_BCHW))
        updated: Tensor = self.attention(feat_BCHW + self.conv(normed), normed, tokens_BND)
        return updated


class DecoderLevel(nn.Module):
    """One level: lateral + top-down features + proposal, then blocks."""

    def __init__(
        self,
        channels: int,
        previous_channels: int | None,
        token_width: int,
        num_heads: int,
        num_blocks: int,
        can_be_absent: bool,
    ) -> None:
        super().__init__()
        self.top_down = nn.Conv2d(previous_channels, channels, 1, bias=False) if previous_channels else None
        self.proposal = ProposalEmbedding(channels, can_be_absent)
        self.blocks = nn.ModuleList(DecoderBlock(channels, token_width, num_heads) for _ in range(num_blocks))
        self.norm = group_norm(channels)

    def forward(
        self,
        lateral_BCHW: Float[Tensor, "B C H W"],
        previous_BCHW: Float[Tensor, "B _ _ _"] | None,
        proposal_BHW: Float[Tensor, "B H W"],
        present_B: Bool[Tensor, " B"] | None,
        tokens_BND: Float[Tensor, "B N D"],
    ) -> Float[Tensor, "B C H W"]:
        """Return this level's features, normalised: the input of its head and of the next level."""
        feat = self.proposal(lateral_BCHW, proposal_BHW, present_B)
        if self.top_down is not None and previous_BCHW is not None:
            feat = feat + _upsample(self.top_down(previous_BCHW), feat.shape[-2:])
        for block in self.blocks:
            feat = block(feat, tokens_BND)
        return F.silu(self.norm(feat))


class TokenUpdate(nn.Module):
    """Refresh the guidance tokens from the features inside and outside the mask just predicted."""

    def __init__(self, channels: int, token_width: int, num_heads: int) -> None:
        super().__init__()
        self.project = nn.Linear(channels, token_width)
        self.region_embedding = nn.Parameter(torch.randn(2, token_width) * 0.02)
        self.attention = TokenAttention(token_width, num_heads)

    def forward(
        self, tokens_BND: Float[Tensor, "B N D"], feat_BCHW: Float[Tensor, "B C H W"], probs_BHW: Float[Tensor, "B H W"]
    ) -> Float[Tensor, "B N D"]:
        """Return updated tokens."""
        regions = torch.stack([probs_BHW, 1.0 - probs_BHW], dim=1)
        context = self.project(pool_regions(feat_BCHW, regions)) + self.region_embedding
        updated: Tensor = self.attention(tokens_BND, context)
        return updated


class Decoder(nn.Module):
    """Coarse-to-fine mask decoder.

    Args:
        channels: Per level, coarse to fine.
        token_width: Channels of the guidance tokens.
        num_heads: Attention heads; must divide `token_width`.
        self_evolve: True = later levels read the previous level's mask; False = all read q (ablation).
    """

    def __init__(self, channels: Sequence[int], token_width: int, num_heads: int, self_evolve: bool) -> None:
        super().__init__()
        self.self_evolve = self_evolve
        self.levels = nn.ModuleList(
            DecoderLevel(
                width,
                channels[index - 1] if index else None,
                token_width,
                max(1, num_heads * width // token_width),  # heads of constant width
                1 if index else FIRST_LEVEL_BLOCKS,
                can_be_absent=index == 0 or not self_evolve,
            )
            for index, width in enumerate(channels)
        )
        self.match_embedding = ProposalEmbedding(channels[0], can_be_absent=False)
        self.match_scale = nn.Parameter(torch.ones(()))
        self.match_bias = nn.Parameter(torch.zeros(()))
        self.norm_tokens = nn.LayerNorm(token_width)
        self.trust = nn.Linear(token_width, 1)
        self.heads = nn.ModuleList(nn.Linear(width, 1) for width in channels[:-1])
        self.last_layer = nn.Linear(channels[-1], 1)
        updated = channels[:-1] if self_evolve else []
        self.updates = nn.ModuleList(TokenUpdate(width, token_width, num_heads) for width in updated)
        self._reset()

    def _reset(self) -> None:
        nn.init.zeros_(self.trust.weight)
        nn.init.zeros_(self.trust.bias)
        # Small corrections: an untrained decoder starts from the matching, which is pretrained.
        for head in (*self.heads, self.last_layer):
            nn.init.normal_(head.weight, std=0.02)
            nn.init.zeros_(head.bias)

    def forward(
        self,
        pyramid: Sequence[Float[Tensor, "B _ _ _"]],
        match_logits: Float[Tensor, "B H W"],
        tokens_BND: Float[Tensor, "B N D"],
        prior: PriorSignal,
    ) -> SegmenterOutput:
        """Decode masks.

        Args:
            pyramid: Coarse to fine, first map at the grid of `match_logits`, last at the finest grid.
            match_logits: Text-region matching logits, made without the prior.
            tokens_BND: From `GuidanceEncoder`.
            prior: From `prior_signal`.
        """
        matched = match_logits.float() * self.match_scale + self.match_bias
        logits = matched + self._trusted(prior, matched, tokens_BND)
        level_logits, feat = [matched], None
        for index, (level, lateral) in enumerate(zip(self.levels, pyramid, strict=True)):
            logits = _upsample(logits[:, None], lateral.shape[-2:])[:, 0]
            if index == 0:
                lateral = self.match_embedding(lateral, matched.detach().sigmoid())
            feat = level(lateral, feat, *self._proposal(index, logits, prior), tokens_BND)
            if index == len(self.heads):
                break
            logits = logits + _head(self.heads[index], feat)
            level_logits.append(logits)
            if self.self_evolve:
                tokens_BND = self.updates[index](tokens_BND, feat, logits.detach().sigmoid())
        assert feat is not None
        return SegmenterOutput(logits + _head(self.last_layer, feat), tuple(level_logits))

    def _proposal(self, index: int, logits_BHW: Tensor, prior: PriorSignal) -> tuple[Tensor, Tensor | None]:
        if index and self.self_evolve:
            return logits_BHW.detach().sigmoid(), None
        return _map_at(prior.proposal, logits_BHW), prior.has_prior

    def _trusted(self, prior: PriorSignal, like_BHW: Tensor, tokens_BND: Tensor) -> Tensor:
        trust_B: Tensor = self.trust(self.norm_tokens(tokens_BND)).float().mean(dim=(1, 2)) * prior.has_prior
        return trust_B[:, None, None] * (2.0 * _map_at(prior.proposal, like_BHW).float() - 1.0)


def _head(layer: nn.Module, feat_BCHW: Tensor) -> Tensor:
    with torch.autocast(feat_BCHW.device.type, enabled=False):
        logits: Tensor = layer(feat_BCHW.float().permute(0, 2, 3, 1)).squeeze(-1)
    return logits


def _map_at(map_BHW: Tensor, like_BHW: Tensor) -> Tensor:
    return resize_map(map_BHW[:, None], like_BHW.shape[-2:])[:, 0]


def _upsample(feat_BCHW: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(feat_BCHW.shape[-2:]) == tuple(size):
        return feat_BCHW
    return F.interpolate(feat_BCHW, size=tuple(size), mode="bilinear", align_corners=False)
