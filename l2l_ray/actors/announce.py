"""What Ray's train controller runs of ours. A file of its own, so that the controller's process imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ray
from ray.train import Checkpoint, UserCallback

if TYPE_CHECKING:
    from ray.actor import ActorHandle

    from l2l_ray.actors.coordinator import Coordinator

ANSWER_TIMEOUT_S = 120.0  # the coordinator answers in milliseconds; it may be restarting


class Announce(UserCallback):
    """Tells the coordinator that a version lies on disk, once every rank has reported it."""

    def __init__(self, coordinator: ActorHandle[Coordinator]) -> None:
        self._coordinator = coordinator

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        """Publish what was reported."""
        if checkpoint is not None:
            ray.get(self._coordinator.rescan.remote(), timeout=ANSWER_TIMEOUT_S)
