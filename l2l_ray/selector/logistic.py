"""The control: a supervised classifier of "is the teacher's label right", on the state and the images RPLE learns from.

If RPLE does not beat it, reinforcement learning proves nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor, nn

from l2l_ray.config import SelectorConfig
from l2l_ray.selector.base import Ranking, Selector, UpdateBatch, check_keys, make_selection, take_step
from l2l_ray.selector.reward import class_balance
from l2l_ray.selector.state import (
    STATE_CHANNELS,
    SUMMARY_CHANNELS,
    State,
    build_state,
    label_candidates,
    normalize_features,
)
from l2l_ray.types import Action, Evidence, Selection

SHARPNESS = 4.0  # evidence is bounded by 1: this lets a few dozen Adam steps reach a decided classifier
STEPS = 5  # per batch; convex and cheap: the control must not lose for want of steps


@dataclass(frozen=True)
class ControlInput:
    """What the logistic control reads: the evidence RPLE sees, and the features where it uses them."""

    state: State
    features: Float[Tensor, "B F G G"] | None


class LogisticControl(Selector):
    """Logistic regression of "the teacher's label is right" on the evidence.

    Per cell it takes the likelier label (the prior's where that says something else and the teacher is probably wrong),
    if its probability p satisfies p - wrong_cost (1-p) >= 0, as the reward weighs right against wrong. Per sample it
    has a gate as RPLE has: the mean p over the cells that it would label as object must satisfy the same.
    """

    def __init__(self, config: SelectorConfig, feature_width: int) -> None:
        """Build the classifier; a fresh one is undecided (0.5 everywhere)."""
        super().__init__()
        self.config = config
        self.pixel = nn.Conv2d(len(STATE_CHANNELS), 1, 1)
        self.summary = nn.Linear(len(SUMMARY_CHANNELS), 1, bias=False)
        self.features = nn.Conv2d(feature_width, 1, 1, bias=False) if config.num_features else None
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    @property
    def accept_prob(self) -> float:
        """Probability of being right from which on accepting a label earns more than ignoring it."""
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
        return SHARPNESS * logits[:, 0]

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
        return make_selection(evidence, action, accepted.float(), gate)

    @torch.no_grad()
    def ranking(self, evidence: Evidence) -> Ranking:
        """Rank by the probability of the likelier label being right."""
        right = self.right_probs(evidence)
        candidates = label_candidates(evidence)
        prefer_prior = candidates.differs & (right < 0.5)
        label = torch.where(prefer_prior, candidates.prior, candidates.teacher)
        return torch.where(prefer_prior, 1 - right, right), label

    def update(
        self, optimizer: torch.optim.Optimizer, batch: UpdateBatch, reference: Selector | None = None
    ) -> dict[str, float]:
        """Take `STEPS` steps of cross-entropy on the labeled images; everything else is left alone."""
        labeled = batch.labeled
        candidates = label_candidates(labeled.evidence)
        truth = labeled.mask > 0.5
        right = (candidates.teacher == truth).float()
        # the reward's class balance: control and policy then weigh right and wrong alike
        weight = class_balance(truth | candidates.claimed)
        inputs = self.prepare(labeled.evidence)
        for _ in range(STEPS):
            logits = self(inputs)
            loss = (functional.binary_cross_entropy_with_logits(logits, right, reduction="none") * weight).mean()
            take_step(self, optimizer, loss)
        accepted = torch.sigmoid(logits.detach()) >= self.accept_prob
        return {
            "loss": loss.item(),
            "accepted_share": accepted.float().mean().item(),
            "accepted_precision": ((right * accepted).sum() / accepted.sum().clamp(min=1)).item(),
        }
