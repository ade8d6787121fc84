"""The reward of accepting a label, one pure function per term.

Every term is a map of *the value of accepting label `target`* at each cell; ignoring a cell earns 0 in all of them, so
`RewardTerms` of a sampled action map is a lookup, and each term can be computed by hand.

- correctness (labeled images only): +1 right, -wrong_cost wrong, minus what the fixed-threshold rule earns at
  the cell. The rule's share is the same for all maps of a group, so it never moves a gradient: it makes the logged
  number readable (0 = no better than the rule).
- agreement: the prior against the prediction made *without* it. The guided prediction never enters: it follows the
  prior.
- consistency: the other predictions support the label.
- coverage: accepted share, counted apart on claimed foreground and on the rest, so that accepting only background does
  not pay. As credit per cell it is the penalty's first-order change (a broadcast of the penalty would tell a thousand
  cells the same small number, mostly noise).
- utility: the gradient this label sends to the last layer points with the labeled loss's gradient.

Correctness, agreement, consistency and coverage are *class-balanced* per sample: foreground cells, 5-10 % of a grid,
weigh in sum as much as the rest. Foreground here is what the truth (where known), the teacher or the prior calls
foreground. Weighing by the truth alone would make accepting a wrong object nearly free, since its cells are truly
background; weighing by the claims alone would make labelling a missed object as background nearly free.
Source: ours; the paper says only that utility is rewarded.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from l2l_ray.config import SelectorConfig
from l2l_ray.selector.rules import threshold_accepts
from l2l_ray.selector.state import Candidates, label_candidates
from l2l_ray.types import Action, Evidence

MIN_CLASS_SHARE = 0.02  # caps the weight of a cell of a tiny object at 25 background cells
_EPS = 1e-12


@dataclass(frozen=True)
class RewardTerms:
    """Weighted reward of K action maps per sample; the single terms are kept as means over the K maps, for the log.

    `total` is the sum of the terms. `coverage` in it is credit; `coverage_penalty` is the quantity itself.
    `gate_reward` is what an open gate earns by each labeled sample's label as a whole (a shut gate earns 0); it is 0
    where `used` is False, that is where the map accepts no object cell.
    """

    total: Float[Tensor, "K B G G"]
    gate_reward: Float[Tensor, "K N"]
    used: Bool[Tensor, "K N"]
    correctness: Float[Tensor, "B G G"]
    agreement: Float[Tensor, "B G G"]
    consistency: Float[Tensor, "B G G"]
    coverage: Float[Tensor, "B G G"]
    utility: Float[Tensor, "B G G"]
    coverage_penalty: Float[Tensor, "K B"]


@dataclass(frozen=True)
class LabelValues:
    """The value of accepting the teacher's or the prior's label at each cell; the arithmetic is per label."""

    teacher: Float[Tensor, "B G G"]
    prior: Float[Tensor, "B G G"]

    def chosen(self, action: Int[Tensor, "K B G G"]) -> Float[Tensor, "K B G G"]:
        """Look up the value of each cell's action; ignoring has value 0."""
        value = torch.where(action == Action.PRIOR, self.prior, self.teacher)
        return value.masked_fill_(action == Action.IGNORE, 0.0)

    def scaled(self, weight: Tensor | float) -> LabelValues:
        """Return both values times a weight."""
        return LabelValues(self.teacher * weight, self.prior * weight)

    def plus(self, other: LabelValues) -> LabelValues:
        """Return the sum per label."""
        return LabelValues(self.teacher + other.teacher, self.prior + other.prior)


def class_balance(foreground: Bool[Tensor, "*B G G"]) -> Float[Tensor, "*B G G"]:
    """Return cell weights under which both classes of a sample weigh the same; their mean over the grid is 1.

    A class that is absent leaves all the weight to the other. Below `MIN_CLASS_SHARE` a class weighs less than half.
    """
    share = foreground.float().mean((-2, -1), keepdim=True)
    classes = (share > 0).float() + (share < 1).float()
    shares = torch.where(foreground, share, 1 - share)
    return 1 / (classes * shares.clamp(min=MIN_CLASS_SHARE))


def correctness(
    target: Bool[Tensor, "*B G G"], mask: Bool[Tensor, "*B G G"], wrong_cost: float
) -> Float[Tensor, "*B G G"]:
    """Return the value of accepting `target`: +1 where it is the truth, -wrong_cost where not."""
    return torch.where(target == mask, 1.0, -wrong_cost)


def rule_earning(
    mask_probs: Float[Tensor, "*B G G"], mask: Bool[Tensor, "*B G G"], threshold: float, wrong_cost: float
) -> Float[Tensor, "*B G G"]:
    """Return what the fixed-threshold rule earns at each cell, on the scale of `correctness`."""
    return correctness(mask_probs > 0.5, mask, wrong_cost) * threshold_accepts(mask_probs, threshold)


def agreement(
    target: Bool[Tensor, "*B G G"],
    proposal: Float[Tensor, "*B G G"],
    mask_probs_unguided: Float[Tensor, "*B G G"],
    has_prior: Bool[Tensor, "*B"],
) -> Float[Tensor, "*B G G"]:
    """Return how far prior and unguided prediction jointly back `target`, in [-1, 1].

    With evidence a = 2q-1 and b = 2u-1: both on the same side give +|ab| to their label and -|ab| to the other;
    contradiction gives -|ab| to either label; without a prior the value is 0.
    """
    prior, unguided = 2 * proposal - 1, 2 * mask_probs_unguided - 1
    joint = prior * unguided
    contradicted = (joint < 0) | (target != (unguided > 0))
    return torch.where(contradicted, -joint.abs(), joint.abs()) * has_prior[..., None, None]


def consistency(target: Bool[Tensor, "*B G G"], evidence: Evidence) -> Float[Tensor, "*B G G"]:
    """Return the mean support of `target` by the unguided, mirrored and perturbed predictions, in [-1, 1]."""
    support = (evidence.mask_probs_unguided + evidence.mask_probs_flipped + evidence.mask_probs_perturbed) * (2 / 3) - 1
    return torch.where(target, support, -support)


def coverage_penalty(
    accepted: Bool[Tensor, "*K G G"], claimed: Bool[Tensor, "*B G G"], coverage_target: float
) -> Float[Tensor, "*K"]:
    """Return -(squared gap of the accepted share to the target), averaged over claimed foreground and the rest.

    `claimed` may lack leading dimensions of `accepted` (K maps of one batch).
    """
    gaps, present = _coverage_gaps(accepted, claimed, coverage_target)
    return -(gaps.square() * present).sum(-1) / present.sum(-1)


def coverage_credit(
    accepted: Bool[Tensor, "*K G G"], claimed: Bool[Tensor, "*B G G"], coverage_target: float
) -> Float[Tensor, "*K G G"]:
    """Return each accepted cell's part in `coverage_penalty`: its first derivative, times the number of cells."""
    gaps, _ = _coverage_gaps(accepted, claimed, coverage_target)
    gap = torch.where(claimed, gaps[..., 0, None, None], gaps[..., 1, None, None])
    return -2 * gap * class_balance(claimed) * accepted


def _coverage_gaps(accepted: Tensor, claimed: Tensor, coverage_target: float) -> tuple[Tensor, Tensor]:
    """Return share - target for (claimed, rest), and which of the two exist, both [..., 2]."""
    classes = torch.stack((claimed, ~claimed), dim=-3).float()
    sizes = classes.sum((-2, -1))
    shares = (classes * accepted.unsqueeze(-3)).sum((-2, -1)) / sizes.clamp(min=1)
    present = (sizes > 0).float().expand_as(shares)
    return (shares - coverage_target) * present, present


def project_gradient(features: Float[Tensor, "B F G G"], gradient: Float[Tensor, " D"]) -> Float[Tensor, "B G G"]:
    """Return [f, 1] . `gradient` of every cell; `gradient` is the labeled loss's, over [weight, bias], bias last."""
    return torch.einsum("bfyx,f->byx", features.float(), gradient[:-1].float()) + gradient[-1].float()


def gradient_alignment(
    target: Bool[Tensor, "B G G"], mask_probs: Float[Tensor, "B G G"], projected: Float[Tensor, "B G G"]
) -> Float[Tensor, "B G G"]:
    """Return the dot product of each cell's last-layer gradient with the labeled one.

    For a last layer with logit w.f + b and binary cross-entropy the cell's gradient is (p - t) [f, 1]: no backward
    pass.

    Args:
        target: The label t whose loss is differentiated.
        mask_probs: Probabilities p of that last layer.
        projected: From `project_gradient`.
    """
    return (mask_probs.float() - target.float()) * projected


def utility(
    target: Bool[Tensor, "B G G"], mask_probs: Float[Tensor, "B G G"], projected: Float[Tensor, "B G G"]
) -> Float[Tensor, "B G G"]:
    """Return `gradient_alignment` over the root-mean-square alignment of the teacher's own labels, clipped to [-1, 1].

    The scale does not depend on the action, and the sign is the alignment's.
    """
    own = gradient_alignment(mask_probs > 0.5, mask_probs, projected)
    scale = own.square().mean().sqrt()
    return (gradient_alignment(target, mask_probs, projected) / (scale + _EPS)).clamp(-1, 1)


def total_reward(
    action: Int[Tensor, "K B G G"],
    evidence: Evidence,
    mask: Bool[Tensor, "N G G"],
    projected: Float[Tensor, "B G G"] | None,
    config: SelectorConfig,
) -> RewardTerms:
    """Return the weighted reward of K action maps per sample.

    Args:
        action: Sampled actions.
        evidence: Evidence of B samples; their features are not read.
        mask: Truth of the *first* N samples, the labeled images; the other B - N have correctness 0.
        projected: From `project_gradient`, for the utility term; None makes that term 0.
        config: The selector section (reward weights, rule threshold).
    """
    weights, candidates, known = config.reward, label_candidates(evidence), len(mask)
    truth = torch.cat((mask, candidates.teacher[known:]))
    balance = class_balance(truth | candidates.claimed)
    known_balance = (
        weights.correctness * balance * (torch.arange(len(truth), device=mask.device) < known)[:, None, None]
    )
    right, agreed, stable, useful = _label_values(evidence, candidates, truth, projected, weights.wrong_cost)
    right, agreed = right.scaled(known_balance), agreed.scaled(weights.agreement * balance)
    stable, useful = stable.scaled(weights.consistency * balance), useful.scaled(weights.utility)
    rule = known_balance * rule_earning(evidence.mask_probs, truth, config.threshold, weights.wrong_cost)
    accepted = action != Action.IGNORE
    coverage = weights.coverage * coverage_credit(accepted, candidates.claimed, weights.coverage_target)
    taken = _taken_share(action)
    gate, used = gate_reward(action[:, :known], candidates.first(known), mask, weights.wrong_cost)
    return RewardTerms(
        total=right.plus(agreed).plus(stable).plus(useful).chosen(action) + coverage - rule,
        gate_reward=gate,
        used=used,
        correctness=_mean_value(right, taken) - rule,
        agreement=_mean_value(agreed, taken),
        consistency=_mean_value(stable, taken),
        coverage=coverage.mean(0),
        utility=_mean_value(useful, taken),
        coverage_penalty=weights.coverage * coverage_penalty(accepted, candidates.claimed, weights.coverage_target),
    )


def gate_reward(
    action: Int[Tensor, "K N G G"], candidates: Candidates, mask: Bool[Tensor, "N G G"], wrong_cost: float
) -> tuple[Float[Tensor, "K N"], Bool[Tensor, "K N"]]:
    """Return the reward of training on each accepted label as a whole, and whether it is trained on at all.

    The reward is IoU (1 + wrong_cost) - wrong_cost: +1 per right object cell and -wrong_cost per wrong one, averaged
    over the union of the label's object and the truth. So using a label pays when its IoU exceeds
    wrong_cost / (1 + wrong_cost). Only accepted cells count. A label without an accepted object cell is never trained
    on (`loop/training/pseudo.py`) and has reward 0. Background far from both would drown the difference between a right
    object and a wrong one.
    """
    target = torch.where(action == Action.PRIOR, candidates.prior, candidates.teacher)
    accepted = action != Action.IGNORE
    used = (accepted & target).flatten(-2).any(-1)
    union = (accepted & (target | mask)).sum((-2, -1))
    iou = (accepted & target & mask).sum((-2, -1)) / union.clamp(min=1)
    return torch.where(used, iou * (1 + wrong_cost) - wrong_cost, 0.0), used


def _label_values(
    evidence: Evidence, candidates: Candidates, truth: Tensor, projected: Tensor | None, wrong_cost: float
) -> tuple[LabelValues, LabelValues, LabelValues, LabelValues]:
    """Return correctness, agreement, consistency and utility of both labels, unweighted."""
    probs, flat = evidence.mask_probs, torch.zeros_like(evidence.mask_probs) if projected is None else projected
    labels = (candidates.teacher, candidates.prior)
    independent = (evidence.proposal, evidence.mask_probs_unguided, evidence.has_prior)
    return (
        LabelValues(*(correctness(label, truth, wrong_cost) for label in labels)),
        LabelValues(*(agreement(label, *independent) for label in labels)),
        LabelValues(*(consistency(label, evidence) for label in labels)),
        LabelValues(*(utility(label, probs, flat) for label in labels)),
    )


def _taken_share(action: Int[Tensor, "K B G G"]) -> LabelValues:
    """Return how often each label was taken over the K maps, in [0, 1]."""
    return LabelValues((action == Action.TEACHER).float().mean(0), (action == Action.PRIOR).float().mean(0))


def _mean_value(values: LabelValues, taken: LabelValues) -> Float[Tensor, "B G G"]:
    return values.teacher * taken.teacher + values.prior * taken.prior
