"""What training needs from whoever hosts it: one process (`LocalHost`) or a worker on Ray (`RayHost`).

Training is the same code under both. Where the Ray host waits for labelers, the local one labels on the spot; where
Ray's driver evaluates a published version, the local host does so before it goes on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import nn

from l2l_ray.loop.state.position import Position, Stage
from l2l_ray.loop.state.versions import Write

T = TypeVar("T")
LOOK_EVERY_STEPS = 10  # so often a rank asks whether its machine goes away: all ranks meet for the answer


@runtime_checkable
class Host(Protocol):
    """The host of one training rank."""

    rank: int
    world_size: int
    device: torch.device

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Return the model, wrapped for data-parallel training where there are several ranks."""

    def barrier(self) -> None:
        """Wait for all ranks."""

    def broadcast(self, value: T) -> T:
        """Return rank 0's value on every rank."""

    def priors(self, name: str) -> Path:
        """Wait until the priors of an example set are complete; return their file."""

    def labels(self, method: str, round_index: int) -> list[Path]:
        """Wait until every shard of a round is committed; return the files in shard order."""

    def publish(self, position: Position, write: Write, metrics: dict[str, float]) -> None:
        """Keep a training state; at step 0 it is a version, which labels and is evaluated.

        Every rank calls, rank 0 writes.
        """

    def resume_point(self, method: str) -> Path | None:
        """Return the folder from which a method goes on, or None."""

    def leaves_soon(self) -> bool:
        """Whether a rank's machine was told that it will be taken away; True once per notice, on every rank.

        Every rank asks equally often: under Ray they agree on the answer.
        """

    def waits_for(self, what: str) -> None:
        """Show what outside of this run training waits for; "" = nothing any more."""

    def progress(self, stage: Stage, done: int, total: int, values: dict[str, float]) -> None:
        """Report how many of a stage's steps are done; cheap."""
