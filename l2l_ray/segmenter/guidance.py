"""Learnable guidance: what SESM makes of the MLLM's prior and the expression before any pixel is decoded.

A few learnable tokens attend (pre-norm, residual) to everything known about the referent: expression tokens after
fusion, tokens of the MLLM's own phrase, image features pooled under the proposal q at every level of the pyramid
(inside q, outside it, and in a ring just outside, which tells a box that cuts its object from one that holds it), and
one *evidence* token: score, place and size of q, and how q and the text-region matching agree. The tokens then
condition every decoder level.

The prior enters the network through `PriorSignal` alone. Where `has_prior` is False it replaces the proposal, score and
phrase by constants, and the encoder puts learned *absent* embeddings in place of what they would have produced, so
nothing of an absent prior can leak; a test compares outputs bit for bit. All parameters stay in the graph either way,
as data-parallel training requires.

Departure from the paper: it names "learnable guidance signals" made of priors and textual cues; this design is ours.
Shapes: B batch, L text tokens, N guidance tokens, K context tokens, R regions (3), C/D/T channels, H W grid,
G finest grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from l2l_ray.segmenter.attention import attend

NUM_REGIONS = 3  # inside, outside, ring
NUM_EVIDENCE = 9
NUM_LAYERS = 2
RING_FRAC = 0.08  # ring radius, fraction of the image side: about the edge error of a good box on a small object
_TYPE_EXPRESSION, _TYPE_PHRASE, _TYPE_EVIDENCE = range(3)


@dataclass(frozen=True)
class PriorSignal:
    """The prior of a batch, already blanked where absent. Build it with `prior_signal`, the only producer."""

    proposal: Float[Tensor, "B G G"]  # q in [0, 1]; 0 where absent
    score: Float[Tensor, " B"]  # in [0, 1]; 0 where absent
    has_prior: Bool[Tensor, " B"]
    phrase_BLD: Float[Tensor, "B P D"]  # text encoder's output
    phrase_mask: Bool[Tensor, "B P"]  # True = real token of a present prior


def prior_signal(
    proposal: Float[Tensor, "B G G"],
    score: Float[Tensor, " B"],
    has_prior: Bool[Tensor, " B"],
    phrase: tuple[Float[Tensor, "B P D"], Tensor] | None,
    phrase_width: int,
) -> PriorSignal:
    """Blank an absent prior: its proposal, score and phrase cannot be read, nor receive gradient, afterwards.

    Args:
        proposal: Soft proposal q in [0, 1].
        score: The prior's score in [0, 1].
        has_prior: False = this sample has no prior, or must not see it.
        phrase: (tokens, attention mask with 1 = real token) of the MLLM's phrase, or None for no phrases.
        phrase_width: Channels of phrase tokens, needed when `phrase` is None.
    """
    has = has_prior.bool()
    if phrase is None:
        tokens_BLD, mask = proposal.new_zeros(proposal.shape[0], 1, phrase_width), has.new_zeros(proposal.shape[0], 1)
    else:
        tokens_BLD, mask = phrase[0], phrase[1].bool() & has[:, None]
    return PriorSignal(
        # where(), not a product: an absent proposal may hold anything, NaN included.
        torch.where(has[:, None, None], proposal, 0.0),
        torch.where(has, score, 0.0),
        has,
        tokens_BLD,
        mask,
    )


class TokenAttention(nn.Module):
    """Pre-norm multi-head attention of tokens to a context, added to the tokens."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(width)
        self.norm_context = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self, tokens_BND: Float[Tensor, "B N D"], context_BKD: Float[Tensor, "B K D"], mask_BK: Tensor | None = None
    ) -> Float[Tensor, "B N D"]:
        """Return updated tokens. `mask_BK`: True = may be attended; at least one per sample must be."""
        query = self._heads(self.query(self.norm(tokens_BND)))
        key, value = (self._heads(x) for x in self.key_value(self.norm_context(context_BKD)).chunk(2, dim=-1))
        mask = None if mask_BK is None else mask_BK[:, None, None, :]
        attended = attend(query, key, value, mask)
        updated: Tensor = tokens_BND + self.out(attended.transpose(1, 2).flatten(2))
        return updated

    def _heads(self, x_BKD: Tensor) -> Tensor:
        return x_BKD.reshape(*x_BKD.shape[:2], self.num_heads, -1).transpose(1, 2)


class GuidanceEncoder(nn.Module):
    """Make guidance tokens from text, prior and image.

    Args:
        width: Channels of the tokens.
        num_tokens: How many.
        num_heads: Attention heads; must divide `width`.
        text_width: Channels of the fused expression tokens.
        phrase_width: Channels of the phrase tokens.
        level_channels: Channels of each pyramid level, in the order `forward` gets them.
    """

    def __init__(
        self,
        width: int,
        num_tokens: int,
        num_heads: int,
        text_width: int,
        phrase_width: int,
        level_channels: Sequence[int],
    ) -> None:
        super().__init__()
        self.phrase_width = phrase_width
        self.tokens = nn.Parameter(torch.randn(num_tokens, width) * 0.5)
        self.type_embedding = nn.Parameter(torch.randn(3, width) * 0.02)
        self.region_embedding = nn.Parameter(torch.randn(len(level_channels), NUM_REGIONS, width) * 0.02)
        self.region_absent = nn.Parameter(torch.randn(len(level_channels), NUM_REGIONS, width) * 0.02)
        self.evidence_absent = nn.Parameter(torch.randn(width) * 0.02)
        self.expression = nn.Linear(text_width, width)
        self.phrase = nn.Linear(phrase_width, width)
        self.regions = nn.ModuleList(nn.Linear(channels, width) for channels in level_channels)
        self.evidence = nn.Linear(NUM_EVIDENCE, width)
        self.attention = nn.ModuleList(TokenAttention(width, num_heads) for _ in range(NUM_LAYERS))
        self.feed_forward = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
            for _ in range(NUM_LAYERS)
        )

    def forward(
        self,
        expression_BLT: Float[Tensor, "B L T"],
        attention_mask: Tensor,
        pyramid: Sequence[Float[Tensor, "B _ _ _"]],
        match_logits: Float[Tensor, "B H W"],
        prior: PriorSignal,
    ) -> Float[Tensor, "B N D"]:
        """Return guidance tokens.

        Args:
            expression_BLT: Expression tokens after fusion.
            attention_mask: 1 = real token.
            pyramid: Image features, any sizes, channels as given at construction.
            match_logits: Text-region matching logits, made without the prior.
            prior: From `prior_signal`.
        """
        regions_BKD = self._region_tokens(pyramid, prior)
        evidence_B1D = self._evidence_token(match_logits, prior)
        context = torch.cat(
            [
                self.expression(expression_BLT) + self.type_embedding[_TYPE_EXPRESSION],
                self.phrase(prior.phrase_BLD.to(expression_BLT.dtype)) + self.type_embedding[_TYPE_PHRASE],
                regions_BKD,
                evidence_B1D,
            ],
            dim=1,
        )
        tokens = self.tokens.expand(context.shape[0], -1, -1)
        always = prior.has_prior.new_ones(context.shape[0], regions_BKD.shape[1] + 1 + tokens.shape[1])
        mask = torch.cat([attention_mask.bool(), prior.phrase_mask, always], dim=1)
        for attention, feed_forward in zip(self.attention, self.feed_forward, strict=True):
            # The tokens are part of the context, so they also see one another.
            tokens = attention(tokens, torch.cat([context, tokens], dim=1), mask)
            tokens = tokens + feed_forward(tokens)
        return tokens

    def _region_tokens(self, pyramid: Sequence[Tensor], prior: PriorSignal) -> Tensor:
        regions = region_maps(prior.proposal)
        pooled = []
        for feat_BCHW, project in zip(reversed(pyramid), reversed(self.regions), strict=True):
            # Fine to coarse, each level's maps from the last: averaging in steps costs less than from the finest grid.
            regions = resize_map(regions, feat_BCHW.shape[-2:])
            pooled.append(project(pool_regions(feat_BCHW, regions)))
        tokens_BKD = torch.stack(pooled, dim=1) + self.region_embedding
        absent = self.region_absent.to(tokens_BKD.dtype)
        return torch.where(prior.has_prior[:, None, None, None], tokens_BKD, absent).flatten(1, 2)

    def _evidence_token(self, match_logits: Tensor, prior: PriorSignal) -> Tensor:
        token = self.evidence(evidence(match_logits, prior)) + self.type_embedding[_TYPE_EVIDENCE]
        return torch.where(prior.has_prior[:, None], token, self.evidence_absent.to(token.dtype))[:, None]


def region_maps(proposal: Float[Tensor, "B G G"]) -> Float[Tensor, "B 3 G G"]:
    """Return soft maps of inside, outside and the ring of width RING_FRAC just outside."""
    radius = max(1, round(RING_FRAC * proposal.shape[-1]))
    size = 2 * radius + 1  # a square window is its two sides in turn, at a fraction of the cost
    rows = F.max_pool2d(proposal[:, None], (1, size), stride=1, padding=(0, radius))
    grown = F.max_pool2d(rows, (size, 1), stride=1, padding=(radius, 0))[:, 0]
    return torch.stack([proposal, 1.0 - proposal, grown - proposal], dim=1)


def resize_map(maps: Float[Tensor, "B R G G"], size: Sequence[int]) -> Float[Tensor, "B R H W"]:
    """Bring maps to a level's size: area average when shrinking, bilinear when growing."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    if maps.shape[-1] > size[-1]:
        return F.adaptive_avg_pool2d(maps, (size[0], size[1]))
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def pool_regions(feat_BCHW: Float[Tensor, "B C H W"], regions: Float[Tensor, "B R G G"]) -> Float[Tensor, "B R C"]:
    """Average features under each region map; an empty region gives zeros."""
    weight = resize_map(regions, feat_BCHW.shape[-2:]).flatten(2)
    # 1e-6: the weights of a region that misses every cell of a coarse level sum to 0.
    weight = weight / weight.sum(dim=-1, keepdim=True).clamp_min(1e-6)
    return weight.to(feat_BCHW.dtype) @ feat_BCHW.flatten(2).transpose(1, 2)


def evidence(match_logits: Float[Tensor, "B H W"], prior: PriorSignal) -> Float[Tensor, "B 9"]:
    """Return score, area, centre, spread of q, and its agreement with the text-region matching; all about in [0, 1].

    The last three (mean matching probability inside and outside q, soft IoU) let the tokens doubt a prior that points
    at something the expression does not match.
    """
    match = match_logits.float().sigmoid()
    q = resize_map(prior.proposal[:, None].float(), match.shape[-2:])[:, 0]
    mass = q.sum(dim=(-2, -1)).clamp_min(1e-6)
    y, x = (torch.linspace(0.5 / n, 1 - 0.5 / n, n, device=q.device) for n in q.shape[-2:])
    centre_x, centre_y = (q.sum(-2) * x).sum(-1) / mass, (q.sum(-1) * y).sum(-1) / mass
    spread_x = (q.sum(-2) * (x - centre_x[:, None]).abs()).sum(-1) / mass
    spread_y = (q.sum(-1) * (y - centre_y[:, None]).abs()).sum(-1) / mass
    inside = (match * q).sum(dim=(-2, -1))
    rest = (1.0 - q).sum(dim=(-2, -1)).clamp_min(1e-6)
    total = match.sum(dim=(-2, -1))
    union = (total + mass - inside).clamp_min(1e-6)
    columns = [prior.score.float(), q.mean(dim=(-2, -1)), centre_x, centre_y, spread_x, spread_y]
    return torch.stack([*columns, inside / mass, (total - inside) / rest, inside / union], dim=-1)
