"""One optimiser step of the student: labeled truth and accepted pixels in one forward pass.

Denominators are the *global* batch sizes, and every draw is keyed by (seed, stream, step), so neither the number of
workers nor a restart changes what a step computes. Each rank computes the sum over its own share times the number of
ranks; averaging gradients over ranks then gives the global value. So the samples of a rank may also go through the
student in pieces (`pieces`), whose gradients add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from l2l_ray.config import AugmentConfig, LoopConfig, SegmenterConfig
from l2l_ray.data.augment import flip_where, paste, strong_augment, weak_crop, weak_flip
from l2l_ray.data.words import reworded, swap_left_right
from l2l_ray.device import clip_gradient
from l2l_ray.loop.inference.inputs import Inputs
from l2l_ray.loop.inference.networks import run_segmenter
from l2l_ray.loop.training.pieces import Pieces
from l2l_ray.randomness import keyed_uniform, sample_key
from l2l_ray.segmenter.losses import segmentation_loss
from l2l_ray.segmenter.model import Segmenter, SegmenterOutput

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor, nn

FUSED_FROM = 20_000_000  # weights that learn; ten times those of the shipped segmenter


@dataclass(frozen=True)
class TrainBatch:
    """This rank's share of a global batch.

    Example: `TrainBatch(inputs, target, pixel_weight)` with `pixel_weight` all ones for labeled samples.
    """

    inputs: Inputs
    target: Float[Tensor, "B G G"]  # in [0, 1]
    pixel_weight: Float[Tensor, "B G G"]  # in [0, 1]; 0 removes the pixel

    def to(self, device: torch.device) -> TrainBatch:
        """Move everything to `device`."""
        return TrainBatch(self.inputs.to(device), self.target.to(device), self.pixel_weight.to(device))

    def __getitem__(self, rows: slice) -> TrainBatch:
        """Return some of the samples, in order."""
        return TrainBatch(self.inputs[rows], self.target[rows], self.pixel_weight[rows])


def augment(
    batch: TrainBatch,
    config: AugmentConfig,
    seed: int,
    stream: str,
    step: int,
    positions: Sequence[int],
    donors: TrainBatch | None = None,
) -> TrainBatch:
    """Change images, maps and words together, keyed by (seed, stream, step, position in the global batch).

    Args:
        batch: One rank's share.
        config: How often and how far.
        seed: The run's seed.
        stream: Names the sequence of draws.
        step: The step's place in the stream.
        positions: Place of each sample in the global batch.
        donors: A labeled sample per sample, whose object may be pasted; None pastes nothing.
    """
    keys = [sample_key(seed, "view", stream, step, position) for position in positions]
    inputs = batch.inputs
    images, expressions, flipped = weak_flip(inputs.images, inputs.expressions, keys, config.flip_prob)
    phrases = [_mirrored(p) if f else p for p, f in zip(inputs.phrases, flipped.tolist(), strict=True)]
    maps = [flip_where(values, flipped) for values in (batch.target, batch.pixel_weight, inputs.proposal)]
    target, weight, proposal = maps
    if config.crop_prob:
        keep = _referent(target, proposal, inputs.has_prior)
        maps.append(torch.where(weight > 0, weight * target, 0.0))
        images, maps, cropped = weak_crop(
            images, maps, keep, expressions, keys, config.crop_prob, config.crop_min_side_frac
        )
        target, weight, proposal, believed = maps
        # The weighted mean, so that the target of a removed cell is not read by its neighbours either.
        target = torch.where(cropped[:, None, None] & (weight > 0), believed / weight, target)
    if donors is not None:
        keep = _referent(target, proposal, inputs.has_prior)
        theirs = donors.inputs
        images, pasted = paste(
            images, keep, expressions, theirs.images, donors.target > 0.5, theirs.expressions, keys, config.paste_prob
        )
        target, weight = target.masked_fill(pasted, 0.0), weight.masked_fill(pasted, 1.0)
    if config.reword_prob:
        wanted = keyed_uniform(keys, 1, "reword")[:, 0] < config.reword_prob
        expressions = [reworded(e, k) if w else e for e, k, w in zip(expressions, keys, wanted, strict=True)]
    inputs = replace(
        inputs,
        images=strong_augment(images, keys, config.strong),
        expressions=expressions,
        phrases=phrases,
        proposal=proposal,
    )
    return TrainBatch(inputs, target, weight)


def _referent(
    target: Float[Tensor, "B G G"], proposal: Float[Tensor, "B G G"], has_prior: Bool[Tensor, " B"]
) -> Bool[Tensor, "B G G"]:
    """Return what a crop must keep and a paste must not cover: the target and, where there is one, the proposal.

    Without a target cell there is nothing to keep: the referent is not known, so such a sample is left alone.
    """
    known = (target > 0.5).flatten(1).any(dim=1)[:, None, None]
    return known & ((target > 0.5) | ((proposal > 0.5) & has_prior[:, None, None]))


def _mirrored(phrase: str) -> str:
    return swap_left_right(phrase) or ""


def drop_priors(
    batch: TrainBatch, config: SegmenterConfig, seed: int, stream: str, step: int, positions: Sequence[int], at: int
) -> TrainBatch:
    """Hide priors at a rate ramped from 0 to `prior_dropout` over `prior_dropout_ramp_steps` (`at` = steps so far).

    Source: ours; a trial that dropped 30 % from the first step never learned to ground.
    """
    ramp = 1.0 if config.prior_dropout_ramp_steps == 0 else min(1.0, at / config.prior_dropout_ramp_steps)
    rate = config.prior_dropout * ramp
    draws = [sample_key(seed, "prior_dropout", stream, step, position) / 2**63 for position in positions]
    device = batch.inputs.has_prior.device
    dropped = torch.tensor([draw < rate for draw in draws], dtype=torch.bool, device=device)
    return replace(batch, inputs=batch.inputs.without_prior(dropped))


def learning_rate_factor(step: int, total_steps: int, config: LoopConfig) -> float:
    """Return (1 - step / total_steps) ** lr_decay_power (poly, as LAVT), times a linear warm-up, in (0, 1]."""
    poly: float = (1 - min(step, total_steps - 1) / total_steps) ** config.lr_decay_power
    return min(1.0, (step + 1) / config.lr_warmup_steps) * poly


def train_step(
    student: nn.Module,
    optimizer: torch.optim.Optimizer,
    labeled: TrainBatch,
    unlabeled: TrainBatch | None,
    config: LoopConfig,
    factor: float,
    world_size: int = 1,
    num_views: int = 1,
    pieces: Pieces | None = None,
) -> dict[str, float]:
    """Take one optimiser step.

    Args:
        student: The segmenter, or its DDP wrapper.
        optimizer: Its groups carry `base_lr`; the step uses base_lr * factor.
        labeled: This rank's labeled samples.
        unlabeled: This rank's pseudo-labeled samples, all their views; None trains on labeled ones alone.
        config: Batch sizes, weights, clipping.
        factor: Learning-rate factor of this step.
        world_size: Ranks whose gradients are averaged.
        num_views: How many views of each pseudo-labeled sample there are; its loss is the mean over them.
        pieces: How many samples go through the student at once; None = all.

    Returns:
        loss, loss_labeled, loss_unlabeled: this rank's share times the number of ranks, an estimate of the global loss.
    Raises:
        ConfigError: There is not enough memory, and nothing is left to halve; or the gradient is no number any more,
            and nothing has been changed by it.
    """
    both = labeled if unlabeled is None else joined([labeled, unlabeled])
    count = len(labeled.inputs)

    def losses_of(rows: slice) -> tuple[Float[Tensor, ""], Float[Tensor, " 3"]]:
        """Return the loss of some samples, and its terms without their gradients."""
        part = both[rows]
        num_labeled = min(max(count - rows.start, 0), len(part.inputs))
        output = run_segmenter(student, part.inputs, config.autocast)
        loss_labeled, loss_unlabeled = (
            _loss(output, part, some, size, config)
            for some, size in (
                (slice(0, num_labeled), config.labeled_batch),
                (slice(num_labeled, None), config.unlabeled_batch * num_views),
            )
        )
        loss = loss_labeled + config.unlabeled_weight * loss_unlabeled
        # Gradients are averaged over ranks.
        return loss * world_size, torch.stack([loss, loss_labeled, loss_unlabeled]).detach()

    summed = (pieces or Pieces(None)).sum_of(losses_of, len(both.inputs), student, optimizer)
    clip_gradient(student, config.grad_clip, "loop.lr", config.lr)
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    optimizer.step()
    return dict(zip(("loss", "loss_labeled", "loss_unlabeled"), (summed * world_size).tolist(), strict=True))


def _loss(
    output: SegmenterOutput, batch: TrainBatch, rows: slice, denominator: int, config: LoopConfig
) -> Float[Tensor, ""]:
    """Return the loss of some samples of a batch; 0 of none."""
    target, weight = batch.target[rows], batch.pixel_weight[rows]
    if not len(target):
        return output.mask_logits.new_zeros(())
    weights = (config.dice_weight, config.deep_weight)
    return segmentation_loss(_rows(output, rows), target, weight, denominator, *weights)


def make_optimizer(student: Segmenter, config: LoopConfig) -> torch.optim.AdamW:
    """Return AdamW over the segmenter's parameter groups, remembering each group's base learning rate.

    On GPUs, and for large networks, it is torch's fused one: one pass over all weights. It rounds differently, so small
    networks on CPUs, whose step it does not shorten, keep the plain one and their results.
    """
    groups = student.parameter_groups(
        config.lr, config.encoder_lr_scale, config.weight_decay, config.backbone_lr_scale, config.text_lr_scale
    )
    for group in groups:
        group["base_lr"] = group["lr"]
    on_gpu = next(student.parameters()).device.type == "cuda"
    is_large = sum(parameter.numel() for group in groups for parameter in group["params"]) >= FUSED_FROM
    return torch.optim.AdamW(groups, lr=config.lr, fused=True if on_gpu or is_large else None)


def joined(batches: Sequence[TrainBatch]) -> TrainBatch:
    """Return the samples of several batches as one, in order."""
    parts = [batch.inputs for batch in batches]
    inputs = Inputs(
        images=torch.cat([part.images for part in parts]),
        expressions=[expression for part in parts for expression in part.expressions],
        phrases=[phrase for part in parts for phrase in part.phrases],
        proposal=torch.cat([part.proposal for part in parts]),
        prior_score=torch.cat([part.prior_score for part in parts]),
        has_prior=torch.cat([part.has_prior for part in parts]),
    )
    target = torch.cat([batch.target for batch in batches])
    return TrainBatch(inputs, target, torch.cat([batch.pixel_weight for batch in batches]))


def _rows(output: SegmenterOutput, rows: slice) -> SegmenterOutput:
    return SegmenterOutput(
        mask_logits=output.mask_logits[rows],
        level_logits=tuple(level[rows] for level in output.level_logits),
    )
