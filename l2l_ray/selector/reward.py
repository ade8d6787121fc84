"""The reward of taking a label, one pure function per term.

- label (labeled images): IoU of the label with the truth, minus what a label costs, which is the mean IoU of the guided
  labels plus `gate_margin`; leaving a sample out earns 0. So using a label pays when it is better than average, whether
  the teacher is poor or good. With a fixed cost a poor teacher's gate stayed shut.
- cells (labeled images): +1 for keeping a right cell of the label, -wrong_cost for a wrong one; ignoring earns 0. So
  keeping a cell pays when it is right with probability above wrong_cost / (1 + wrong_cost). *Class-balanced* per
  sample: cells that the truth or the label calls object, 5-10 % of a grid, weigh in sum as much as the rest. A sample
  weighs as much as it is likely to be used: cells of labels that are left out teach nothing, and where half of the
  labels are wrong, no object cell of any would pay.
- unlabeled images: what the IoU would be, judged by two terms that need no truth, how far the label agrees with the
  prior and how far the predictions repeat it. How much each counts is not set but follows from how well it tells the
  IoU on the labeled images (`TermWeights`): a prior that is often wrong is trusted less, and being sure of a wrong
  object earns no more than such labels are worth on labeled images.

Source: ours; the paper says that utility is rewarded, from multimodal priors and model predictions.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from l2l_ray.selector.candidates import Candidates, ious
from l2l_ray.types import Candidate

MIN_CLASS_SHARE = 0.02  # caps the weight of a cell of a tiny object at 25 background cells
TERMS = ("agreement", "stability")
# What a label must be repeated by: the predictions that do not see the proposal.
_INDEPENDENT = (Candidate.UNGUIDED, Candidate.FLIPPED)


def truth_ious(masks: Bool[Tensor, "B K G G"], truth: Bool[Tensor, "B G G"]) -> Float[Tensor, "B K"]:
    """Return the IoU of every candidate with the truth; 0 where both are empty."""
    return ious(torch.cat([truth[:, None], masks], dim=1))[:, 0, 1:]


def decision_values(label_values: Float[Tensor, "B K"], cost: float) -> Float[Tensor, "B K+1"]:
    """Return what leaving a sample out earns (0), then what taking each candidate does."""
    return torch.cat([torch.zeros_like(label_values[:, :1]), label_values - cost], dim=1)


def cell_values(
    label: Bool[Tensor, "B G G"], truth: Bool[Tensor, "B G G"], wrong_cost: float
) -> Float[Tensor, "B G G"]:
    """Return the class-balanced value of keeping each cell of a label."""
    return torch.where(label == truth, 1.0, -wrong_cost) * class_balance(label | truth)


def class_balance(foreground: Bool[Tensor, "*B G G"]) -> Float[Tensor, "*B G G"]:
    """Return cell weights under which both classes of a sample weigh the same; their mean over the grid is 1.

    A class that is absent leaves all the weight to the other. Below `MIN_CLASS_SHARE` a class weighs less than half.
    """
    share = foreground.float().mean((-2, -1), keepdim=True)
    classes = (share > 0).float() + (share < 1).float()
    shares = torch.where(foreground, share, 1 - share)
    return 1 / (classes * shares.clamp(min=MIN_CLASS_SHARE))


def unlabeled_terms(candidates: Candidates) -> Float[Tensor, "B K T"]:
    """Return the terms that need no truth, per candidate, in [0, 1]; the last axis is `TERMS`.

    agreement: IoU with the prior's mask; of the prior's own label, with the prediction made without it. Without a prior
    it is 0. stability: mean IoU with the unguided and the mirrored prediction, itself left out.
    """
    found = ious(candidates.masks)
    agreement = found[:, :, Candidate.PRIOR].clone()
    agreement[:, Candidate.PRIOR] = found[:, Candidate.PRIOR, Candidate.UNGUIDED]
    others = torch.zeros(len(Candidate), len(Candidate), device=found.device)
    others[:, list(_INDEPENDENT)] = 1
    others.fill_diagonal_(0)
    stability = (found * others).sum(2) / others.sum(1)
    return torch.stack([agreement, stability], dim=2)


class TermWeights(nn.Module):
    """How much each unlabeled term counts: a running linear regression of the IoU on the terms, on labeled images."""

    moments: Tensor
    products: Tensor

    def __init__(self, decay: float = 0.9, ridge: float = 0.01) -> None:
        """Start without an opinion: every label is worth 0 until the first labeled batch.

        Args:
            decay: Share of the past kept per batch.
            ridge: Pull of the weights towards 0, against a batch that says little.
        """
        super().__init__()
        self._decay, self._ridge = decay, ridge
        size = len(TERMS) + 1
        self.register_buffer("moments", torch.zeros(size, size))
        self.register_buffer("products", torch.zeros(size))

    def observe(self, terms: Float[Tensor, "B K T"], values: Float[Tensor, "B K"], counts: Bool[Tensor, "B K"]) -> None:
        """Take in one labeled batch: terms and IoU of the candidates that count."""
        rows, targets = _with_one(terms[counts]), values[counts]
        if len(rows):
            self.moments.lerp_(rows.T @ rows / len(rows), 1 - self._decay)
            self.products.lerp_(rows.T @ targets / len(rows), 1 - self._decay)

    @property
    def weights(self) -> Float[Tensor, " W"]:
        """The weight of each term, then the constant."""
        ridge = torch.eye(len(self.products), device=self.moments.device)
        ridge[-1, -1] = 1e-3  # the mean is not pulled towards 0
        ridge *= self._ridge * self.moments[-1, -1].clamp(min=1e-6)
        found: Tensor = torch.linalg.solve(self.moments + ridge, self.products)
        return found

    def value(self, terms: Float[Tensor, "B K T"]) -> Float[Tensor, "B K"]:
        """Return the IoU that the terms speak for, in [0, 1]."""
        return (_with_one(terms) @ self.weights).clamp(0, 1)


def _with_one(terms: Float[Tensor, "*N T"]) -> Float[Tensor, "*N W"]:
    return torch.cat([terms, torch.ones_like(terms[..., :1])], dim=-1)
