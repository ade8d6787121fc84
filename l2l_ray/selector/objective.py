"""How RPLE learns: group-relative policy gradient over decisions about labels.

One update (`rple.Rple.update`): sample `group_size` decisions per image from the current policy (leave out, or take one
of the candidates), reward them (`reward.py`), subtract the group's mean, divide by one standard deviation of the whole
batch, and take one step. The cells of the label that was taken are decided and rewarded alike, each cell for itself.

Choices that matter
- One scale for the batch, not one per image: dividing each image's rewards by their own deviation would make a label
  that is hardly better than nothing as loud as one that saves the sample, and so erase the costs.
- The decisions of a group share one random number, shifted by 1/K from one to the next. Each alone is an exact
  sample of the policy; together they spread evenly over the choices, which removes most of the sampling noise of a
  small group. The price: the group's mean is not independent of its members, so the expected step is not exactly the
  gradient of the expected reward. With random policies over 5 choices the cosine between the two is 0.999 on average
  and at least 0.98 for the 6 of the default, 0.93 for 3; with 2 it may point elsewhere (0.4).
- One step per drawn group, so there is no ratio to clip. A second step made the policy fit the few labeled images too
  closely, an entropy floor changed nothing; a KL term to the version before is gone untested (docs/experiments.md).

Source: policy gradient REINFORCE (Williams 1992), group baseline GRPO (Shao et al. 2024), global instead of per-group
scale after Dr. GRPO (Liu et al. 2025); the shared random number is ours.
"""

from __future__ import annotations

import torch
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


def policy_loss(
    probs: Float[Tensor, "*N C"], choice: Int[Tensor, " K *N"], advantage: Float[Tensor, " K *N"]
) -> Float[Tensor, ""]:
    """Return the loss whose gradient is the policy gradient's estimate, negated: grad log p x advantage, averaged."""
    log_probs = probs.log().expand(len(choice), *probs.shape)
    return -(log_probs.gather(-1, choice[..., None])[..., 0] * advantage).mean()


def entropy(probs: Float[Tensor, "*NC"]) -> Float[Tensor, "*N"]:
    """Return the entropy of each row, nats."""
    return -torch.xlogy(probs, probs).sum(-1)
