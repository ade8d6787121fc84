"""How RPLE learns: group-relative policy gradient over decisions about labels.

One update (`rple.Rple.update`): sample `group_size` decisions per image from the current policy (leave out, or take one
of the candidates), reward them (`reward.py`), subtract the group's mean, divide by one standard deviation of the whole
batch, and take `inner_epochs` clipped steps. The cells of the label that was taken are decided and rewarded alike, each
cell for itself.

Choices that matter
- One scale for the batch, not one per image: dividing each image's rewards by their own deviation would make a label
  that is hardly better than nothing as loud as one that saves the sample, and so erase the costs.
- The decisions of a group share one random number, shifted by 1/K from one to the next. Each alone is an exact
  sample of the policy; together they spread evenly over the choices, which removes most of the sampling noise of a
  small group.
- KL is to `reference`, the policy as of the version before, and exact: there are few choices.

Source: clipped ratio PPO (Schulman et al. 2017), group baseline GRPO (Shao et al. 2024), global instead of per-group
scale after Dr. GRPO (Liu et al. 2025); the shared random number is ours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from jaxtyping import Float, Int
from torch import Tensor

_STD_FLOOR = 1e-3


def sample_group(probs: Float[Tensor, "*N C"], size: int, generator: torch.Generator) -> Int[Tensor, " K *N"]:
    """Draw `size` choices per row of probabilities; each is marginally an exact sample of its row."""
    noise = torch.rand(probs.shape[:-1], generator=generator, device=generator.device).to(probs.device)
    shift = torch.arange(size, device=probs.device) / size
    drawn = (noise + shift.view(-1, *(1 for _ in noise.shape))) % 1
    below = probs.cumsum(-1)[..., :-1]  # inverse CDF: one uniform number gives the exact categorical distribution
    return (drawn[..., None] >= below).sum(-1)


def group_advantage(reward: Float[Tensor, " K *N"]) -> Float[Tensor, " K *N"]:
    """Return rewards minus the group's mean, over one standard deviation of all of them."""
    centered = reward - reward.mean(0, keepdim=True)
    return centered / centered.square().mean().sqrt().clamp(min=_STD_FLOOR)


def clipped_loss(
    log_probs: Float[Tensor, " K *N"], old: Float[Tensor, " K *N"], advantage: Float[Tensor, " K *N"], clip: float
) -> Float[Tensor, ""]:
    """Return PPO's clipped surrogate, negated, as a mean."""
    ratio = (log_probs - old).exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).mean()


def entropy(probs: Float[Tensor, "*NC"]) -> Float[Tensor, "*N"]:
    """Return the entropy of each row, nats."""
    return -torch.xlogy(probs, probs).sum(-1)


def floor_loss(probs: Float[Tensor, "*NC"], floor: float) -> Float[Tensor, ""]:
    """Return how far the entropy lies below `floor` nats, as a mean: so far the policy is pushed to stay undecided."""
    return functional.relu(floor - entropy(probs)).mean()


def kl_divergence(probs: Float[Tensor, "*NC"], reference: Float[Tensor, "*NC"]) -> Float[Tensor, ""]:
    """Return the exact KL(policy || reference), as a mean over rows."""
    return (torch.xlogy(probs, probs) - torch.xlogy(probs, reference)).sum(-1).mean()
