"""The policy network of RPLE: it says which candidate label to take, if any, and which cells of it to keep.

Which label: one small network reads the row of `candidates.relations` of each candidate and gives it a *score*, the
same network for all. A softmax over the scores says which candidate, a sigmoid of the taken one's score whether it is
used at all; together one distribution over "leave out" and the candidates (`decision_probs`). It starts as a
confidence gate: it takes the guided label where the guided prediction is surer of it than of the median labeled one
(`learned.LearnedSelector.observe`), and counts as less sure what a rival claims too. Labeled images are few, a hundred
sentences at 1 %, so what it learns is added to that start: a linear layer, and a small network whose last layer starts
at zero.

Which cells: two convolutions over `candidates.cell_evidence` of the taken label, added to a linear start that keeps a
cell where the predictions support the label on average.

Everything runs in float32, also under autocast: labels are told apart by small differences of their scores.
Source: that labels are accepted by pixel and by sample is the paper's; the network and its start are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from jaxtyping import Bool, Float
from torch import Tensor, nn

from l2l_ray.config import SelectorConfig
from l2l_ray.selector.candidates import (
    CELL_CHANNELS,
    PREDICTIONS,
    RELATIONS,
    Candidates,
    candidates_of,
    cell_evidence,
    relations,
)
from l2l_ray.types import Candidate, Evidence

START_SHARPNESS = 8.0  # a label that is 0.1 surer than the median is used with probability 0.69
START_RIVAL = -1.0  # what a label loses whose object a rival claims whole: as much as one that is 0.125 less sure
START_OTHER = -2.0  # score that candidates other than the guided one start behind by
START_KEEP = 2.0  # keep-logit of a cell that every prediction supports fully, above one that none decides
IMPOSSIBLE = -1e4  # softmax gives exactly 0, and 0 * log-prob stays 0 instead of NaN


@dataclass(frozen=True)
class PolicyInput:
    """What the network reads of a batch, prepared once and reused by every pass."""

    candidates: Candidates
    relations: Float[Tensor, "B K R"]
    has_prior: Bool[Tensor, " B"]


def prepare(evidence: Evidence) -> PolicyInput:
    """Return what the network reads."""
    candidates = candidates_of(evidence)
    return PolicyInput(candidates, relations(evidence, candidates), evidence.has_prior)


class PolicyNetwork(nn.Module):
    """Scores candidate labels and their cells; `rple.Rple` and `scorer.Scorer` decide and learn with it."""

    gate_shift: Tensor  # added to scores before the gate, set once per version

    def __init__(self, config: SelectorConfig) -> None:
        """Build the network.

        Args:
            config: The selector section.
        """
        super().__init__()
        self.config = config
        hidden, cells = config.hidden, max(4, config.hidden // 2)
        self.linear = nn.Linear(len(RELATIONS), 1)
        self.hidden = nn.Linear(len(RELATIONS), hidden)
        self.score = nn.Linear(hidden, 1, bias=False)
        self.cell_linear = nn.Conv2d(len(CELL_CHANNELS), 1, 1)
        self.cell_hidden = nn.Sequential(
            nn.Conv2d(len(CELL_CHANNELS), cells, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(cells, cells, 3, padding=2, dilation=2),
            nn.ReLU(),
        )
        self.cell_head = nn.Conv2d(cells, 1, 1)
        self.register_buffer("gate_shift", torch.zeros(()))
        self._start()

    def _start(self) -> None:
        for layer in (self.linear, self.score, self.cell_linear, self.cell_head):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)
        with torch.no_grad():
            self.linear.weight[0, RELATIONS.index("inside_guided")] = START_SHARPNESS
            self.linear.weight[0, RELATIONS.index("rival_iou")] = START_RIVAL
            for prediction in PREDICTIONS:
                self.cell_linear.weight[0, prediction] = START_KEEP / len(PREDICTIONS)
            for candidate in Candidate:
                if candidate != Candidate.GUIDED:
                    self.linear.weight[0, RELATIONS.index(f"is_{candidate.name.lower()}")] = START_OTHER

    def scores(self, inputs: PolicyInput) -> Float[Tensor, "B K"]:
        """Return the score of every candidate; one that is not possible has -1e4."""
        seen = inputs.relations
        if not self.config.rivals:
            seen = seen.clone()
            seen[:, :, RELATIONS.index("rival_iou")] = 0.0
        with torch.autocast(seen.device.type, enabled=False):
            found = self.linear(seen) + self.score(functional.relu(self.hidden(seen)))
        scores: Tensor = found[:, :, 0].masked_fill(~self.possible(inputs), IMPOSSIBLE)
        return scores

    def possible(self, inputs: PolicyInput) -> Bool[Tensor, "B K"]:
        """Return which candidates can be taken: those with an object cell; of switched-off ones the guided one."""
        possible = inputs.candidates.possible
        if self.config.candidates:
            return possible
        return possible & (torch.arange(possible.shape[1], device=possible.device) == Candidate.GUIDED)

    def keep_logits(self, inputs: PolicyInput, label: Bool[Tensor, "B G G"]) -> Float[Tensor, "B G G"]:
        """Return the logit of keeping each cell of a label."""
        cells = cell_evidence(inputs.candidates, label, inputs.has_prior)
        with torch.autocast(cells.device.type, enabled=False):
            logits: Tensor = self.cell_linear(cells) + self.cell_head(self.cell_hidden(cells))
        return logits[:, 0]


def decision_probs(scores: Float[Tensor, "B K"]) -> Float[Tensor, "B K+1"]:
    """Return the probability of leaving the sample out, then of taking each candidate.

    A candidate is taken with softmax(scores) times sigmoid(its score). Probabilities below 1e-6 are raised to that, so
    that their logarithm is finite; they have no gradient.
    """
    chosen = functional.softmax(scores, dim=1)
    left_out = (chosen * torch.sigmoid(-scores)).sum(1, keepdim=True)  # 1 - sum(taken), without its cancellation
    return torch.cat([left_out, chosen * torch.sigmoid(scores)], dim=1).clamp(min=1e-6)
