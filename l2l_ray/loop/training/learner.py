"""A selector in training: its optimiser, its updates, and how its state is kept and sent.

Source: ours.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from l2l_ray.config import SelectorConfig
from l2l_ray.loop.state.checkpoint import load_weights, save_weights
from l2l_ray.loop.training.rewards import CrossFitted, StoredEvidence
from l2l_ray.selector.objective import update_selector
from l2l_ray.selector.policy import RplePolicy
from l2l_ray.selector.rules import make_selector

TRAINED_SELECTORS = ("l2l", "logistic")


class SelectorLearner:
    """A selector with its optimiser; for rules without parameters every update does nothing."""

    def __init__(self, method: str, section: SelectorConfig, feature_width: int, device: torch.device) -> None:
        torch.manual_seed(0)  # the policy's start is part of the method, not of the run's seed
        self.method = method
        self._section = section
        self._device = device
        self.selector = make_selector(section, feature_width).to(device)
        parameters = list(self.selector.parameters())
        self._optimizer = torch.optim.Adam(parameters, lr=section.lr) if parameters else None

    def update(
        self,
        rewards: CrossFitted,
        evidence: StoredEvidence | None,
        gradient: torch.Tensor,
        updates: int,
        seed: int,
        round_index: int,
    ) -> dict[str, float]:
        """Run some updates against the policy as it was before them; return the mean of each metric."""
        policy = self.selector
        reference = copy.deepcopy(policy).requires_grad_(False) if isinstance(policy, RplePolicy) else None
        sums: dict[str, float] = {}
        generator = torch.Generator(device="cpu")
        for number in range(updates):
            generator.manual_seed(seed * 1_000_003 + (round_index + 1) * 10_007 + number)
            labeled = rewards.batch(self._section.update_batch, seed, round_index, number)
            unlabeled = None
            if evidence is not None:
                unlabeled = evidence.batch(self._section.update_batch, seed, round_index, number)
            terms = update_selector(
                self.selector, self._optimizer, labeled, unlabeled, gradient, self._section, generator, reference
            )
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value / updates
        return {f"policy/{name}": value for name, value in sums.items()}

    def send(self) -> dict[str, Any]:
        """Return the selector's state for other ranks."""
        return {name: tensor.cpu() for name, tensor in self.selector.state_dict().items()}

    def receive(self, state: dict[str, Any]) -> None:
        """Take over rank 0's state."""
        self.selector.load_state_dict(state)

    def save(self, folder: Path, state: dict[str, Any]) -> None:
        """Write the weights to `folder` and the optimiser into `state`."""
        save_weights(self.selector, folder / "selector.safetensors")
        state["selector_optimizer"] = self._optimizer.state_dict() if self._optimizer else {}

    def load(self, folder: Path, state: dict[str, Any]) -> None:
        """Read what `save` wrote."""
        load_weights(self.selector, folder / "selector.safetensors", self._device)
        if self._optimizer:
            self._optimizer.load_state_dict(state["selector_optimizer"])
