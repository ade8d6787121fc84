"""What selectors that learn share: how their network's scores become labels, and how far their gate opens."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from l2l_ray.config import SelectorConfig
from l2l_ray.selector.base import Decision, LabeledEvidence, Selector
from l2l_ray.selector.network import IMPOSSIBLE, PolicyInput, PolicyNetwork, decision_probs, prepare
from l2l_ray.selector.reward import truth_ious
from l2l_ray.types import Candidate, Evidence

ROUNDING = 1e-6  # of a value in [0, 1], single precision


class LearnedSelector(PolicyNetwork, Selector):
    """The policy network as a selector; a subclass says how it learns."""

    average: Tensor  # running mean IoU of the guided label on labeled images; negative before the first batch

    def __init__(self, config: SelectorConfig) -> None:
        """Build the network."""
        super().__init__(config)
        self.gate_is_graded = config.gate
        self.register_buffer("average", torch.tensor(-1.0))

    @torch.no_grad()
    def observe(self, inputs: PolicyInput, found: Float[Tensor, "B K"]) -> float:
        """Take in the IoU of a labeled batch's candidates and return what a label costs.

        A label costs the average of the guided labels and `gate_margin`: using the better ones pays, whether the
        teacher is poor or good. At the first batch the gate is set to open for half of its guided labels. A batch
        without any guided label is passed over: it says nothing of labels.
        """
        labeled = inputs.candidates.possible[:, Candidate.GUIDED]
        if labeled.any():
            mean = found[:, Candidate.GUIDED].mean()
            if not self.has_started:
                self.average.copy_(mean)
                self.linear.bias.sub_(self.scores(inputs).amax(1)[labeled].median())
            self.average.lerp_(mean, 0.1)
        return self.cost

    @property
    def has_started(self) -> bool:
        """Whether it has seen a labeled batch; until then its gate is open everywhere."""
        return bool(self.average >= 0)

    @property
    def cost(self) -> float:
        """What using a label costs, as an IoU."""
        return float((self.average + self.config.reward.gate_margin).clamp(0.02, 0.98))

    @torch.no_grad()
    def decide(self, evidence: Evidence, keys: Sequence[int]) -> Decision:
        """Take the candidate with the best score, where its gate is open, and the cells that are likelier kept.

        `gate` is the sigmoid of the score after the version's shift, so a viewer can sort by doubt. Deterministic:
        exploration is part of learning, not of labelling.
        """
        del keys
        inputs = prepare(evidence)
        scores = self.scores(inputs) + self.gate_shift
        best, source = scores.max(1)
        label = inputs.candidates.taken(source)
        keep = torch.ones_like(label)
        if self.config.cells:
            keep = self.keep_logits(inputs, label) > 0
        gate = torch.sigmoid(best) if self.config.gate else label.flatten(1).any(1).float()
        decided = torch.where(gate >= 0.5, source + 1, 0)  # 0: leaving it out
        log_probs = decision_probs(scores).log().gather(1, decided[:, None])[:, 0]
        return Decision(gate, keep.float(), source, log_probs)

    @torch.no_grad()
    def settle(self, labeled: Sequence[LabeledEvidence], unlabeled: Sequence[Evidence]) -> dict[str, float]:
        """Open the gate as far as it pays on the labeled images, and as far on unlabeled ones, see `matching_shift`.

        With all of them at hand a label costs their mean, not the running one, which no update may have begun.
        """
        scores, found = [], []
        for part in labeled:
            best, label = self._surest(part.evidence)
            scores.append(best)
            found.append(truth_ious(torch.stack([label, part.evidence.mask_probs > 0.5], dim=1), part.mask > 0.5))
        taken, guided = torch.cat(found).unbind(1)
        cost = guided.mean() + self.config.reward.gate_margin
        self.gate_shift.copy_(-best_threshold(torch.cat(scores), taken, cost))
        metrics = super().settle(labeled, unlabeled)
        if unlabeled:
            others = torch.cat([self._surest(part)[0] for part in unlabeled])
            metrics["open_rate_unshifted"] = (others + self.gate_shift >= 0).float().mean().item()
            if (others > IMPOSSIBLE).any():  # else they say nothing of how sure a label is
                self.gate_shift.copy_(matching_shift(metrics["open_rate_labeled"], others))
        return metrics

    def _surest(self, evidence: Evidence) -> tuple[Float[Tensor, " B"], Bool[Tensor, "B G G"]]:
        """Return each sample's best score, -1e4 where no object cell of the label is kept, and the label."""
        inputs = prepare(evidence)
        best, source = self.scores(inputs).max(1)
        label = inputs.candidates.taken(source)
        if self.config.cells:
            kept = (label & (self.keep_logits(inputs, label) > 0)).flatten(1).any(1)
            best = best.masked_fill(~kept, IMPOSSIBLE)
        return best, label


def best_threshold(scores: Float[Tensor, " N"], values: Float[Tensor, " N"], cost: float | Tensor) -> Float[Tensor, ""]:
    """Return the score from which on using labels pays most: the sum of value - cost over them is the largest.

    Labels of one score are used together. Of cuts that pay the same, that which uses more is taken: at a cost of the
    mean value, using all pays as much as using none. Where no label pays, it lies just above the highest score. What is
    `IMPOSSIBLE` has no object cell and is no label; where there is none, the gate stays shut.
    """
    is_label = scores > IMPOSSIBLE
    if not is_label.any():
        return scores.new_tensor(-IMPOSSIBLE)
    ordered, order = scores[is_label].sort(descending=True)
    gained = (values[is_label][order].double() - cost).cumsum(0)
    gained[gained.abs() < ROUNDING * len(gained)] = 0.0
    gained[:-1][ordered[1:] == ordered[:-1]] = -math.inf  # a cut among equals is none
    gained = torch.cat([gained.new_zeros(1), gained])
    count = len(gained) - 1 - int(gained.flip(0).argmax())
    return ordered[count - 1] if count else ordered[0] + 1e-3


def matching_shift(rate: float, scores: Float[Tensor, " M"]) -> Float[Tensor, ""]:
    """Return what to add to scores of unlabeled images so that a share `rate` of them is at least 0.

    The labeled images are seen through teachers that never saw them, as they were after the burn-in; the unlabeled ones
    through a teacher that has trained on its own labels of them since, and is surer of everything. Without the shift
    the gate drifts open over the rounds. It supposes that labels do not get worse, and keeps the share that is used.
    Where fewer than that have a label at all, it opens for those; one of them at least has one.
    """
    count = min(round(rate * len(scores)), int((scores > IMPOSSIBLE).sum()))
    ordered = scores.sort(descending=True).values
    return -ordered[count - 1] if count else -ordered[0] - 1e-3
