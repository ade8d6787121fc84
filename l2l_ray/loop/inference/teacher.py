"""The teacher: an exponential moving average of the student, and the evidence a selector decides by.

A teacher guided by the prior's soft proposal follows it, so that the two agree says little. Two predictions are
evidence because they do not see the proposal: without the prior, and without it on the mirrored image. What the same
image's other expressions claim is evidence too. Two more predictions, under a moved proposal and by the version before,
told a learned selector nothing new (docs/experiments.md).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from l2l_ray.data.words import swap_left_right
from l2l_ray.loop.inference.networks import autocast, run_segmenter
from l2l_ray.segmenter.adapters import plain_state
from l2l_ray.selector.candidates import candidates_of, rival_ious
from l2l_ray.types import Candidate, Evidence

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from l2l_ray.loop.inference.inputs import Inputs, Rivals
    from l2l_ray.segmenter.model import Segmenter


@torch.no_grad()
def update_teacher(teacher: torch.nn.Module, student: torch.nn.Module, step: int, ema_decay: float) -> None:
    """Move the teacher towards the student: decay min(1 - 1 / (step + 1), ema_decay), every tensor, adapters merged.

    Source: Tarvainen & Valpola 2017 (Mean Teacher), with the warm-up of its reference settings.
    """
    decay = min(1 - 1 / (step + 1), ema_decay)
    learned = plain_state(student)
    floats = [(t, learned[name]) for name, t in teacher.state_dict().items() if t.is_floating_point()]
    torch._foreach_lerp_([t for t, _ in floats], [s for _, s in floats], 1 - decay)


@torch.inference_mode()
def predict(segmenter: Segmenter, inputs: Inputs, use_autocast: bool) -> Float[Tensor, "B G G"]:
    """Return mask logits with the prior, fp32, on the grid."""
    mask_logits: Tensor = run_segmenter(segmenter, inputs, use_autocast).mask_logits
    return mask_logits


@torch.inference_mode()
def gather_evidence(teacher: Segmenter, inputs: Inputs, rivals: Rivals, use_autocast: bool) -> Evidence:
    """Make the three predictions of a batch that a selector may look at, and compare them with the rivals' labels.

    Args:
        teacher: The version that labels.
        inputs: The batch.
        rivals: The batch's rivals; those outside the batch cost one prediction each, as many at once as it has samples.
        use_autocast: bfloat16 for the networks; the evidence is fp32.
    """
    device = inputs.images.device
    with autocast(device, use_autocast):
        tokens = teacher.tokenize(inputs.expressions).to(device)
        phrases = teacher.tokenize(inputs.phrases).to(device)
        no_prior = torch.zeros_like(inputs.has_prior)
        encoded = teacher.encode(inputs.images, tokens)
        guided = teacher.decode(encoded, inputs.proposal, inputs.prior_score, inputs.has_prior, phrases)
        unguided = teacher.decode(encoded, inputs.proposal, inputs.prior_score, no_prior, None)
        swapped = [swap_left_right(expression) for expression in inputs.expressions]
        words = [new or old for new, old in zip(swapped, inputs.expressions, strict=True)]
        mirrored = teacher.encode(inputs.images.flip(-1), teacher.tokenize(words).to(device))
        flipped = teacher.decode(mirrored, inputs.proposal, inputs.prior_score, no_prior, None)
    unguided_probs = unguided.mask_logits.sigmoid()
    # Where mirroring would change the meaning, that prediction adds nothing: repeat the unguided one.
    safe = torch.tensor([new is not None for new in swapped], device=device)[:, None, None]
    alone = Evidence(
        mask_probs=guided.mask_logits.sigmoid(),
        mask_probs_unguided=unguided_probs,
        mask_probs_flipped=torch.where(safe, flipped.mask_logits.sigmoid().flip(-1), unguided_probs),
        proposal=inputs.proposal,
        prior_score=inputs.prior_score,
        has_prior=inputs.has_prior,
        rival_iou=_no_rivals(inputs),
    )
    labels = [alone.mask_probs > 0.5]
    if (further := rivals.inputs) is not None:
        parts = [further[start : start + len(inputs)] for start in range(0, len(further), len(inputs))]
        labels += [predict(teacher, part, use_autocast) > 0 for part in parts]
    found = rival_ious(candidates_of(alone).masks, torch.cat(labels), rivals.is_rival)
    return replace(alone, rival_iou=found)


def _no_rivals(inputs: Inputs) -> Float[Tensor, "B K"]:
    return torch.zeros(len(inputs), len(Candidate), device=inputs.proposal.device)


@torch.inference_mode()
def guided_evidence(teacher: Segmenter, inputs: Inputs, use_autocast: bool) -> Evidence:
    """Return the guided prediction in every place of the evidence, and no rivals: enough for most rules.

    It is half of the work.
    """
    probs = predict(teacher, inputs, use_autocast).sigmoid()
    return Evidence(
        mask_probs=probs,
        mask_probs_unguided=probs,
        mask_probs_flipped=probs,
        proposal=inputs.proposal,
        prior_score=inputs.prior_score,
        has_prior=inputs.has_prior,
        rival_iou=_no_rivals(inputs),
    )
