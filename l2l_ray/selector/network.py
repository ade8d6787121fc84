"""The policy network of RPLE: small and convolutional, it gives each grid cell an action and each sample a gate.

Path: evidence maps and a few projected decoder features, averaged to a context grid of at most 16 x 16 cells -> 3 x 3
convolutions of growing dilation, modulated by the summary (FiLM), so that a decision sees the whole object at any
resolution -> interpolated back and added to each cell's own evidence -> 3 logits. A linear *shortcut* from the
evidence to the logits is added: it makes the logistic control a special case and sets the start. A fresh policy is the
fixed-threshold rule made soft (TEACHER's logit crosses IGNORE's where the guided probability is `threshold`) with the
gate open, so exploration starts from a sane rule, not from noise.

PRIOR is possible only where the prior exists and says something other than the teacher (`state.Candidates`).
Averaging and interpolation are small matrix products: their backward is deterministic on every device. Everything runs
in float32, also under autocast: ratios of two policies do not survive bfloat16.
Source: the paper says pixel-level, sample-dependent acceptance; network, start and gate are ours. FiLM: Perez et al.
2018.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from l2l_ray.config import SelectorConfig
from l2l_ray.selector.state import (
    STATE_CHANNELS,
    SUMMARY_CHANNELS,
    binary_entropy,
    build_state,
    label_candidates,
    normalize_features,
)
from l2l_ray.types import Action, Evidence

CONTEXT_GRID = 16
DILATIONS = (2, 4)  # with the entry layer a context cell sees 7 cells each way, nearly the whole 16 x 16 grid
START_SHARPNESS = 3.0  # TEACHER's start logit is about +1.2 for a sure cell and -1.6 for an undecided one
START_PRIOR_LOGIT = -1.0
START_GATE_LOGIT = 1.0
_IMPOSSIBLE = -1e4  # softmax gives exactly 0, and 0 * log-prob stays 0 instead of NaN


@dataclass(frozen=True)
class PolicyInput:
    """What the network reads, prepared once per batch and reused by every pass. g = size of the context grid."""

    maps: Float[Tensor, "B C G G"]
    summary: Float[Tensor, "B S"]
    coarse_maps: Float[Tensor, "B C g g"]
    coarse_features: Float[Tensor, "B F g g"]  # normalised over channels
    prior_allowed: Bool[Tensor, "B G G"]


@dataclass(frozen=True)
class PolicyOutput:
    """Action logits in the order of `Action` (impossible ones at -1e4), and the logit of using the sample."""

    action_logits: Float[Tensor, "B 3 G G"]
    gate_logit: Float[Tensor, " B"]

    def log_probs(self) -> Float[Tensor, "B 3 G G"]:
        """Return log-probabilities of the three actions."""
        return functional.log_softmax(self.action_logits, dim=1)


class PolicyNetwork(nn.Module):
    """Evidence in, a distribution over actions and gate out; `rple.Rple` labels and learns with it."""

    def __init__(self, config: SelectorConfig, feature_width: int) -> None:
        """Build the network.

        Args:
            config: The selector section.
            feature_width: Channels F of `Evidence.features`.
        """
        super().__init__()
        self.config = config
        hidden, channels, summary = config.hidden, len(STATE_CHANNELS), len(SUMMARY_CHANNELS)
        cell_width = max(4, hidden // 2)  # the fine grid has most of the cells, hence most of the cost
        self.project = nn.Conv2d(feature_width, config.num_features, 1) if config.num_features else None
        self.shortcut = nn.Conv2d(channels, len(Action), 1)
        self.entry = nn.Conv2d(channels + config.num_features, hidden, 3, padding=1)
        self.entry_norm = _group_norm(hidden)
        self.film = nn.Linear(summary, 2 * hidden)
        self.context = nn.ModuleList(
            nn.Sequential(nn.Conv2d(hidden, hidden, 3, padding=d, dilation=d), _group_norm(hidden), nn.ReLU())
            for d in DILATIONS
        )
        self.to_cells = nn.Conv2d(hidden, cell_width, 1)
        self.cells = nn.Conv2d(channels, cell_width, 1)
        self.head = nn.Conv2d(cell_width, len(Action), 1)
        self.gate_hidden = nn.Linear(hidden + summary, hidden)
        self.gate_head = nn.Linear(hidden, 1)
        self._reset_start()

    def _reset_start(self) -> None:
        for layer in (self.shortcut, self.head, self.film, self.gate_head):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)
        nn.init.constant_(self.gate_head.get_parameter("bias"), START_GATE_LOGIT)
        weight, bias = self.shortcut.get_parameter("weight"), self.shortcut.get_parameter("bias")
        threshold_entropy = float(binary_entropy(torch.tensor(self.config.threshold)))
        with torch.no_grad():
            weight[Action.TEACHER, STATE_CHANNELS.index("guided_entropy")] = -START_SHARPNESS
            bias[Action.TEACHER] = START_SHARPNESS * threshold_entropy
            bias[Action.PRIOR] = START_PRIOR_LOGIT

    @torch.no_grad()
    def prepare(self, evidence: Evidence) -> PolicyInput:
        """Return the network's input: evidence, coarse evidence and features, and where PRIOR is an action."""
        state = build_state(evidence)
        grid = min(CONTEXT_GRID, math.ceil(state.maps.shape[-1] / 2))
        with torch.autocast(state.maps.device.type, enabled=False):
            coarse_maps, coarse_features = _resize(state.maps, grid), _resize(evidence.features.float(), grid)
        return PolicyInput(
            maps=state.maps.contiguous(memory_format=torch.channels_last),
            summary=state.summary,
            coarse_maps=coarse_maps.contiguous(memory_format=torch.channels_last),
            coarse_features=normalize_features(coarse_features),
            prior_allowed=label_candidates(evidence).differs,
        )

    def forward(self, inputs: PolicyInput) -> PolicyOutput:
        """Return action and gate logits; differentiable in the parameters only."""
        with torch.autocast(inputs.maps.device.type, enabled=False):
            context = self._context(inputs)
            cells = self.cells(inputs.maps) + _resize(self.to_cells(context), inputs.maps.shape[-1])
            logits = self.shortcut(inputs.maps) + self.head(functional.relu(cells))
            pooled = torch.cat((context.mean((2, 3)), inputs.summary), dim=1)
            gate = self.gate_head(functional.relu(self.gate_hidden(pooled)))[:, 0]
        return PolicyOutput(_mask_prior(logits, inputs.prior_allowed), gate)

    def _context(self, inputs: PolicyInput) -> Float[Tensor, "B H g g"]:
        coarse = inputs.coarse_maps
        if self.project is not None:
            coarse = torch.cat((coarse, self.project(inputs.coarse_features)), dim=1)
        scale, shift = self.film(inputs.summary)[:, :, None, None].chunk(2, dim=1)
        context = functional.relu(self.entry_norm(self.entry(coarse)) * (1 + scale) + shift)
        for block in self.context:
            context = context + block(context)
        return context

    def distribution(self, evidence: Evidence) -> PolicyOutput:
        """Return the distribution over actions and gate for a batch of evidence."""
        output: PolicyOutput = self(self.prepare(evidence))
        return output


def sample_actions(probs: Float[Tensor, "B 3 G G"], noise: Float[Tensor, "*K B G G"]) -> Int[Tensor, "*K B G G"]:
    """Draw actions by inverse CDF: one uniform number per cell gives the exact categorical distribution."""
    ignore, teacher = probs[:, Action.IGNORE], probs[:, Action.TEACHER]
    # rounding can leave 1 - (ignore + teacher) > 0 where PRIOR is impossible; the product keeps such cells at TEACHER
    prior = (noise >= ignore + teacher) & (probs[:, Action.PRIOR] > 0)
    return (noise >= ignore).to(torch.int8) + prior.to(torch.int8)


def _mask_prior(logits: Float[Tensor, "B 3 G G"], allowed: Bool[Tensor, "B G G"]) -> Float[Tensor, "B 3 G G"]:
    impossible = torch.zeros_like(logits, dtype=torch.bool)
    impossible[:, Action.PRIOR] = ~allowed
    return logits.masked_fill(impossible, _IMPOSSIBLE)


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(channels, 4), channels)


def _resize(feat_BCHW: Tensor, size: int) -> Tensor:
    """Average down or interpolate up to size x size by two matrix products."""
    old = feat_BCHW.shape[-1]
    eye = torch.eye(old, device=feat_BCHW.device)[None]
    if size < old:
        matrix = functional.adaptive_avg_pool1d(eye, size)[0]
    else:
        matrix = functional.interpolate(eye, size=size, mode="linear", align_corners=False)[0]
    return matrix.T @ feat_BCHW @ matrix
