"""How RPLE learns: group-relative policy gradient over label maps, with credit assigned in space.

One update (`rple.Rple.update`): sample `group_size` label maps and gates per image from the current policy, reward
them (`reward.py`), subtract the group's mean *at each cell*, divide by one standard deviation of the whole
batch, and take `inner_epochs` clipped steps.

Choices that matter
- One scale for the batch, not one per cell or image: dividing each cell by its own deviation would turn "right +1,
  wrong -2" into +-1 and so erase the costs and the class balance.
- The K maps of a group share one random number per block, shifted by 1/K from map to map. Each map alone is an exact
  sample of the policy; together they spread evenly over the actions, which removes most of the sampling noise of a
  small group.
- A block is (2 credit_radius + 1)^2 cells, the window rewards are averaged over: cells that share credit explore
  together. With independent exploration the window would only add the neighbours' noise.
- The ratio depends on a cell's action only, so the clipped sum over K maps is exactly a sum over 3 actions of the
  summed positive and negative advantages. No tensor of K maps enters autograd.
- The gate's baseline is its own expected reward, known exactly; so a gate that is nearly always open still learns to
  shut.
- The gate sees labeled samples alone. With unlabeled ones, whose reward has no correctness, it learned to tell the two
  apart and shut on every unlabeled one (docs/experiments.md).
- The gate's reward for a poor teacher's labels is negative on average, and a gate that stays shut leaves the student
  nothing to learn. So a label is measured against the batch's mean while that is negative: the better part of bad
  labels is used, and all good ones once the teacher is good.

KL is to `reference`, the policy as of the version before, which the caller keeps as a frozen copy.
Source: clipped ratio PPO (Schulman et al. 2017), group baseline GRPO (Shao et al. 2024), global instead of per-group
scale after Dr. GRPO (Liu et al. 2025); shared credit after PixelRL (Furuta et al. 2019); sampling and gate are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from jaxtyping import Bool, Float, Int
from torch import Tensor

from l2l_ray.config import SelectorConfig
from l2l_ray.selector.network import PolicyOutput, sample_actions
from l2l_ray.selector.reward import RewardTerms
from l2l_ray.types import Action

_STD_FLOOR = 1e-3


@dataclass(frozen=True)
class Rollout:
    """What was sampled from the old policy and what it earned; constants of the inner epochs.

    The advantages are kept per action, as the mean over the group: positive ones, and the size of negative ones.
    """

    old_log_probs: Float[Tensor, "B 3 G G"]
    positive_advantage: Float[Tensor, "B 3 G G"]
    negative_advantage: Float[Tensor, "B 3 G G"]
    gate: Bool[Tensor, "K N"]
    gate_advantage: Float[Tensor, "K N"]
    old_gate_logit: Float[Tensor, " N"]  # of the N labeled samples, the first ones of the batch


@torch.no_grad()
def sample_group(
    output: PolicyOutput, config: SelectorConfig, generator: torch.Generator
) -> tuple[Int[Tensor, "K B G G"], Bool[Tensor, "K B"]]:
    """Draw K action maps and gates per sample; each is marginally an exact sample of the policy."""
    probs = output.log_probs().exp()
    batch, grid = probs.shape[0], probs.shape[-1]
    block = 2 * config.credit_radius + 1
    offset = torch.randint(block, (2,), generator=generator, device=generator.device).tolist()
    blocks = (grid - 1) // block + 2
    noise = torch.rand((batch, blocks, blocks), generator=generator, device=generator.device).to(probs.device)
    noise = noise.repeat_interleave(block, 1).repeat_interleave(block, 2)
    noise = noise[:, offset[0] : offset[0] + grid, offset[1] : offset[1] + grid]
    gate_noise = torch.rand(batch, generator=generator, device=generator.device).to(probs.device)
    shift = torch.arange(config.group_size, device=probs.device) / config.group_size
    action = sample_actions(probs, (noise + shift[:, None, None, None]) % 1)
    gate = (gate_noise + shift[:, None]) % 1 < torch.sigmoid(output.gate_logit)
    return action, gate


def share_credit(reward: Float[Tensor, "K B G G"], radius: int) -> Float[Tensor, "K B G G"]:
    """Return rewards averaged over windows of (2 radius + 1)^2 cells, cut at the border."""
    if radius == 0:
        return reward
    flat = reward.flatten(0, 1)[:, None]
    return functional.avg_pool2d(flat, 2 * radius + 1, 1, radius, count_include_pad=False).view_as(reward)


def group_advantage(reward: Float[Tensor, "K B G G"]) -> Float[Tensor, "K B G G"]:
    """Return rewards minus the group's mean at each cell, over one standard deviation of all cells and samples."""
    centered = reward - reward.mean(0, keepdim=True)
    return centered / centered.square().mean().sqrt().clamp(min=_STD_FLOOR)


@torch.no_grad()
def make_rollout(
    output: PolicyOutput,
    action: Int[Tensor, "K B G G"],
    gate: Bool[Tensor, "K B"],
    terms: RewardTerms,
    config: SelectorConfig,
) -> Rollout:
    """Turn sampled maps and their rewards into the constants of the surrogate."""
    advantage = group_advantage(share_credit(terms.total, config.credit_radius))
    better, worse = advantage.clamp(min=0), -advantage.clamp(max=0)
    members = [action == member for member in Action]
    known = terms.gate_reward.shape[1]
    gate_logit, gate = output.gate_logit[:known].detach(), gate[:, :known]
    average = terms.gate_reward.sum() / terms.used.sum().clamp(min=1)
    gate_reward = (terms.gate_reward - average.clamp(max=0)) * terms.used  # over an average label's, or over no label's
    return Rollout(
        old_log_probs=output.log_probs().detach(),
        positive_advantage=torch.stack([(better * taken).mean(0) for taken in members], dim=1),
        negative_advantage=torch.stack([(worse * taken).mean(0) for taken in members], dim=1),
        gate=gate,
        gate_advantage=gate * gate_reward - torch.sigmoid(gate_logit) * gate_reward.mean(0),
        old_gate_logit=gate_logit,
    )


def grpo_loss(
    output: PolicyOutput, rollout: Rollout, anchor: PolicyOutput | None, config: SelectorConfig
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """Return the loss to minimise (mean per cell) and detached scalar metrics."""
    log_probs = output.log_probs()
    probs = log_probs.exp()
    ratio = (log_probs - rollout.old_log_probs).exp()
    positive, negative = rollout.positive_advantage, rollout.negative_advantage
    surrogate = clipped_surrogate(ratio, positive, negative, config.clip).sum(1).mean()
    entropy = -(probs * log_probs).sum(1)
    entropy_gap = functional.relu(config.entropy_floor - entropy).mean()
    kl = _kl(log_probs, anchor.log_probs()).mean() if anchor is not None else torch.zeros_like(surrogate)
    loss = -surrogate + config.kl * kl + entropy_gap
    if config.gate:
        loss = loss + _gate_loss(output, rollout, anchor, config)
    weight = positive + negative
    clipped = ((ratio - 1).abs() > config.clip) & (weight > 0)
    metrics = {
        "loss": loss,
        "entropy": entropy.mean(),
        "kl": kl,
        "clip_fraction": clipped.float().sum() / (weight > 0).sum().clamp(min=1),
        "gate": torch.sigmoid(output.gate_logit).mean(),
    }
    return loss, {name: value.detach() for name, value in metrics.items()}


def clipped_surrogate(ratio: Tensor, positive: Tensor, negative: Tensor, clip: float) -> Tensor:
    """Return positive * min(ratio, 1 + clip) - negative * max(ratio, 1 - clip): PPO's min(), split by the sign.

    Both advantages are sizes, at least 0.
    """
    return positive * ratio.clamp(max=1 + clip) - negative * ratio.clamp(min=1 - clip)


def _gate_loss(
    output: PolicyOutput, rollout: Rollout, anchor: PolicyOutput | None, config: SelectorConfig
) -> Float[Tensor, ""]:
    known = len(rollout.old_gate_logit)
    log_probs = _gate_log_probs(output.gate_logit[:known])
    old = _gate_log_probs(rollout.old_gate_logit)
    ratio = torch.where(rollout.gate, (log_probs - old)[:, 1].exp(), (log_probs - old)[:, 0].exp())
    advantage = rollout.gate_advantage
    loss = -clipped_surrogate(ratio, advantage.clamp(min=0), -advantage.clamp(max=0), config.clip).mean()
    entropy = -(log_probs.exp() * log_probs).sum(1)
    loss = loss + functional.relu(config.entropy_floor - entropy).mean()
    if anchor is not None:
        loss = loss + config.kl * _kl(log_probs, _gate_log_probs(anchor.gate_logit[:known])).mean()
    return loss


def _gate_log_probs(gate_logit: Float[Tensor, " B"]) -> Float[Tensor, "B 2"]:
    return torch.stack((functional.logsigmoid(-gate_logit), functional.logsigmoid(gate_logit)), dim=1)


def _kl(log_probs: Tensor, reference: Tensor) -> Tensor:
    """Return the exact KL(policy || reference) over dimension 1."""
    return (log_probs.exp() * (log_probs - reference)).sum(1)
