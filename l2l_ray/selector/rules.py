"""The selectors RPLE is compared with. Same interface, same evidence, one config field apart.

    supervised        believes nothing: training uses the labeled images alone
    accept_all        the teacher's label everywhere, weight 1
    fixed_threshold   the teacher's label where max(p, 1-p) >= threshold (FixMatch .95, DAM-Net .7)
    pwa               the teacher's label everywhere, weight 1.3 - N(p; 0.5, variance 0.1) (SemiRES PWA)
    matching          the prior's binarised proposal as the whole label where it overlaps the teacher's mask, else PWA
                      (SemiRES IOM; without SAM the proposal is the only candidate mask)
    agreement         guided and unguided masks match as a whole, and the cell's labels match too; foreground only
                      where the prior allows it
    logistic          control: a supervised classifier of "is the teacher's label right" on the state RPLE sees,
                      trained on the reward images RPLE is trained on; if RPLE does not beat it, the RL proves nothing

Rules are modules without parameters, so that checkpoints and versions look alike for all selectors. None of them draws
random numbers; `keys` are accepted because the interface has them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from l2l_ray.config import SelectorConfig
from l2l_ray.selector.policy import RplePolicy, check_keys, make_selection
from l2l_ray.selector.state import (
    STATE_CHANNELS,
    SUMMARY_CHANNELS,
    State,
    build_state,
    label_candidates,
    normalize_features,
)
from l2l_ray.types import Action, Evidence, Selection

PWA_OFFSET, PWA_MEAN, PWA_VARIANCE = 1.3, 0.5, 0.1
Ranking = tuple[Float[Tensor, "B G G"], Bool[Tensor, "B G G"]]
CONTROL_SHARPNESS = 4.0  # evidence is bounded by 1: this lets a few dozen Adam steps reach a decided classifier


@runtime_checkable
class Selector(Protocol):
    """Decides, per grid cell and per sample, which pseudo-labels are trained on."""

    name: str
    needs_full_evidence: bool  # False: reads the guided probabilities and the proposal alone

    def select(self, evidence: Evidence, keys: Sequence[int]) -> Selection:
        """Label a batch. `keys` hold one integer per sample, the only source of randomness."""
        ...

    def ranking(self, evidence: Evidence) -> Ranking:
        """Return (score in [0, 1], label) per cell: which cells it would believe first, whatever its cut."""
        ...


class Rule(nn.Module):
    """Base of the fixed rules: a subclass says how much each cell is believed."""

    needs_full_evidence = False

    def __init__(self, config: SelectorConfig, name: str) -> None:
        """Keep the section and the name; a rule has no parameters."""
        super().__init__()
        self.config = config
        self.name = name

    def decide(self, evidence: Evidence) -> tuple[Tensor, Tensor, Tensor]:
        """Return (action [B,G,G], weight [B,G,G], gate [B])."""
        raise NotImplementedError

    @torch.no_grad()
    def select(self, evidence: Evidence, keys: Sequence[int]) -> Selection:
        """Label a batch; deterministic. `confidence` is the weighted mean guided probability of the accepted labels."""
        check_keys(evidence, keys)
        action, weight, gate = self.decide(evidence)
        action = torch.where(gate[:, None, None] > 0, action, Action.IGNORE)
        weight = weight * (action != Action.IGNORE)
        label_probs = _label_probs(evidence, action)
        confidence = (label_probs * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1e-6)
        return make_selection(evidence, action, weight, gate, confidence)

    def ranking(self, evidence: Evidence) -> Ranking:
        """Rank by the guided prediction's certainty, the order of every threshold."""
        return certainty(evidence.mask_probs), evidence.mask_probs > 0.5


class Supervised(Rule):
    """Believes nothing."""

    def decide(self, evidence: Evidence) -> tuple[Tensor, Tensor, Tensor]:
        """Ignore every cell, gate shut."""
        weight = torch.zeros_like(evidence.mask_probs, dtype=torch.float32)
        return weight.long(), weight, weight[:, 0, 0]


class AcceptAll(Rule):
    """Plain self-training."""

    def decide(self, evidence: Evidence) -> tuple[Tensor, Tensor, Tensor]:
        """Take the teacher's label everywhere."""
        return _teacher_where(torch.ones_like(evidence.mask_probs, dtype=torch.bool))

    def ranking(self, evidence: Evidence) -> Ranking:
        """Rank all cells alike: at any coverage its precision is that of a random choice."""
        return torch.zeros_like(evidence.mask_probs), evidence.mask_probs > 0.5


class FixedThreshold(Rule):
    """FixMatch. Source: Sohn et al. 2020; 0.95 there, 0.7 in DAM-Net."""

    def decide(self, evidence: Evidence) -> tuple[Tensor, Tensor, Tensor]:
        """Take the teacher's label where it is sure enough."""
        return _teacher_where(threshold_accepts(evidence.mask_probs, self.config.threshold))


class PixelWeightAdjustment(Rule):
    """SemiRES PWA: no threshold, undecided cells weigh little. Source: Yang et al. 2024."""

    def decide(self, evidence: Evidence) -> tuple[Tensor, Tensor, Tensor]:
        """Take the teacher's label everywhere, weighted by its distance from 0.5."""
        action, _, gate = _teacher_where(torch.ones_like(evidence.mask_probs, dtype=torch.bool))
        return action, pwa_weight(evidence.mask_probs), gate


class Matching(Rule):
    """SemiRES IOM with the prior's proposal as the candidate mask; candidates there are SAM's.

    Source: Yang et al. 2024.
    """

    def decide(self, evidence: Evidence) -> tuple[Tensor, Tensor, Tensor]:
        """Take the prior's whole mask where its IoU with the teacher's mask exceeds `match_iou`, else PWA."""
        candidates = label_candidates(evidence)
        union = (candidates.teacher | candidates.prior).sum((1, 2)).clamp(min=1)
        iou = (candidates.teacher & candidates.prior).sum((1, 2)) / union
        matched = ((iou > self.config.match_iou) & evidence.has_prior)[:, None, None]
        action = torch.where(matched, Action.PRIOR, Action.TEACHER).expand_as(evidence.mask_probs)
        weight = torch.where(matched, 1.0, pwa_weight(evidence.mask_probs))
        return action, weight, torch.ones_like(weight[:, 0, 0])

    def ranking(self, evidence: Evidence) -> Ranking:
        """Rank matched samples first, then by the pixel weight."""
        action, weight, _ = self.decide(evidence)
        label = torch.where(action == Action.PRIOR, evidence.proposal > 0.5, evidence.mask_probs > 0.5)
        return weight, label


class Agreement(Rule):
    """Prior and teacher must agree; ours.

    Guidance makes the guided mask follow the prior, so prior and teacher are compared through the *unguided* mask. A
    sample is used if it has a prior and IoU(guided mask, unguided mask) >= `match_iou`. In it, a cell is accepted if
    guided and unguided labels are equal and the label is background, or foreground inside the binarised proposal. (A
    box contains background, so a background label never contradicts it.)
    """

    needs_full_evidence = True

    def decide(self, evidence: Evidence) -> tuple[Tensor, Tensor, Tensor]:
        """Take the teacher's label where the independent evidence says the same."""
        guided, unguided = evidence.mask_probs > 0.5, evidence.mask_probs_unguided > 0.5
        iou = (guided & unguided).sum((1, 2)) / (guided | unguided).sum((1, 2)).clamp(min=1)
        action, weight, _ = _teacher_where((guided == unguided) & (~guided | (evidence.proposal > 0.5)))
        return action, weight, ((iou >= self.config.match_iou) & evidence.has_prior).float()

    def ranking(self, evidence: Evidence) -> Ranking:
        """Rank accepted cells first, each part by the less certain of the guided and the unguided prediction."""
        action, _, gate = self.decide(evidence)
        accepted = ((action != Action.IGNORE) & (gate[:, None, None] > 0)).float()
        doubtful = torch.minimum(certainty(evidence.mask_probs), certainty(evidence.mask_probs_unguided))
        return 0.5 * (accepted + doubtful), evidence.mask_probs > 0.5


@dataclass(frozen=True)
class ControlInput:
    """What the logistic control reads: the evidence RPLE sees, and the features where it uses them."""

    state: State
    features: Float[Tensor, "B F G G"] | None


class LogisticControl(nn.Module):
    """Logistic regression of "the teacher's label is right" on the evidence; trained by `objective.update_selector`.

    Per cell it takes the likelier label (the prior's where that says something else and the teacher is probably wrong),
    if its probability p satisfies p - wrong_cost (1-p) >= 0, the very economics of the reward. Per sample it has a gate
    as RPLE has: the mean p over the cells that it would label as object must satisfy the same.
    """

    needs_full_evidence = True

    def __init__(self, config: SelectorConfig, feature_width: int) -> None:
        """Build the classifier; a fresh one is undecided (0.5 everywhere)."""
        super().__init__()
        self.name = "logistic"
        self.config = config
        self.pixel = nn.Conv2d(len(STATE_CHANNELS), 1, 1)
        self.summary = nn.Linear(len(SUMMARY_CHANNELS), 1, bias=False)
        self.features = nn.Conv2d(feature_width, 1, 1, bias=False) if config.num_features else None
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    @property
    def accept_prob(self) -> float:
        """Probability of being right above which a label is worth accepting."""
        return self.config.reward.wrong_cost / (1 + self.config.reward.wrong_cost)

    def prepare(self, evidence: Evidence) -> ControlInput:
        """Return what the classifier reads, made once per batch."""
        features = None if self.features is None else normalize_features(evidence.features)
        return ControlInput(build_state(evidence), features)

    def forward(self, inputs: ControlInput) -> Float[Tensor, "B G G"]:
        """Return the logit of "the teacher's label is right" per cell; float32, also under autocast."""
        with torch.autocast(inputs.state.maps.device.type, enabled=False):
            logits: Tensor = self.pixel(inputs.state.maps) + self.summary(inputs.state.summary)[:, :, None, None]
            if self.features is not None:
                logits = logits + self.features(inputs.features)
        return CONTROL_SHARPNESS * logits[:, 0]

    def right_probs(self, evidence: Evidence) -> Float[Tensor, "B G G"]:
        """Return the probability of "the teacher's label is right" per cell."""
        return torch.sigmoid(self.forward(self.prepare(evidence)))

    @torch.no_grad()
    def select(self, evidence: Evidence, keys: Sequence[int]) -> Selection:
        """Label a batch; deterministic. A sample with a doubtful object has gate 0 and IGNORE everywhere."""
        check_keys(evidence, keys)
        score, label = self.ranking(evidence)
        accepted = score >= self.accept_prob
        claimed = (accepted & label).float()
        belief = (score * claimed).sum((1, 2)) / claimed.sum((1, 2)).clamp(min=1)
        gate = (belief >= self.accept_prob).float()
        accepted &= gate.bool()[:, None, None]
        action = torch.where(label == label_candidates(evidence).teacher, Action.TEACHER, Action.PRIOR)
        action = torch.where(accepted, action, Action.IGNORE)
        weight = accepted.float()
        confidence = (score * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1)
        return make_selection(evidence, action, weight, gate, confidence)

    @torch.no_grad()
    def ranking(self, evidence: Evidence) -> Ranking:
        """Rank by the probability of the likelier label being right."""
        right = self.right_probs(evidence)
        candidates = label_candidates(evidence)
        prefer_prior = candidates.differs & (right < 0.5)
        label = torch.where(prefer_prior, candidates.prior, candidates.teacher)
        return torch.where(prefer_prior, 1 - right, right), label


def certainty(mask_probs: Float[Tensor, "*B G G"]) -> Float[Tensor, "*B G G"]:
    """Return max(p, 1-p), in [0.5, 1]."""
    return torch.maximum(mask_probs, 1 - mask_probs)


def threshold_accepts(mask_probs: Float[Tensor, "*B G G"], threshold: float) -> Bool[Tensor, "*B G G"]:
    """Return True where max(p, 1-p) >= threshold."""
    return certainty(mask_probs) >= threshold


def pwa_weight(mask_probs: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """Return 1.3 - N(p; 0.5, variance 0.1), clipped to [0, 1]: 0.04 at p = 0.5, 0.94 at 0 and 1. Source: SemiRES."""
    distance = (mask_probs.float() - PWA_MEAN).square()
    density = torch.exp(-distance / (2 * PWA_VARIANCE)) / math.sqrt(2 * math.pi * PWA_VARIANCE)
    return (PWA_OFFSET - density).clamp(0, 1)


def make_selector(config: SelectorConfig, feature_width: int) -> RplePolicy | LogisticControl | Rule:
    """Return the selector `config.name` asks for.

    Args:
        config: The selector section.
        feature_width: Channels of `Evidence.features`; used by the trained selectors.
    """
    if config.name == "l2l":
        return RplePolicy(config, feature_width)
    if config.name == "logistic":
        return LogisticControl(config, feature_width)
    rules: dict[str, type[Rule]] = {
        "supervised": Supervised,
        "accept_all": AcceptAll,
        "fixed_threshold": FixedThreshold,
        "pwa": PixelWeightAdjustment,
        "matching": Matching,
        "agreement": Agreement,
    }
    return rules[config.name](config, config.name)


def _teacher_where(accepted: Bool[Tensor, "B G G"]) -> tuple[Tensor, Tensor, Tensor]:
    action = torch.where(accepted, Action.TEACHER, Action.IGNORE)
    weight = accepted.float()
    return action, weight, torch.ones_like(weight[:, 0, 0])


def _label_probs(evidence: Evidence, action: Tensor) -> Tensor:
    """Return the guided probability of each cell's chosen label."""
    target = torch.where(action == Action.PRIOR, evidence.proposal > 0.5, evidence.mask_probs > 0.5)
    return torch.where(target, evidence.mask_probs, 1 - evidence.mask_probs).float()
