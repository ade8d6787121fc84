"""Where training stands, as typed records: the position a version folder holds, and the stage a rank reports."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from l2l_ray.config import RunConfig


@dataclass(frozen=True, slots=True)
class Position:
    """From where training can continue: `step` student steps after `version`, inside the round that starts with it.

    `means` are the loss terms of those steps, as their part of the round's mean.

    Example: `Position("l2l", 2)` is the published version 2; `Position("l2l", 2, 40)` lies inside the round after it;
    `Position(None, 0, 40)` lies inside the burn-in, which belongs to no method.
    """

    method: str | None
    version: int = 0
    step: int = 0
    means: dict[str, float] = field(default_factory=dict)

    @property
    def folder_name(self) -> str:
        """Name of its folder below `train/`: `l2l-v0002`, or `l2l-v0002-s00040` inside a round."""
        name = f"{self.method}-v{self.version:04d}"
        return f"{name}-s{self.step:05d}" if self.step else name

    @classmethod
    def named(cls, folder_name: str) -> Position | None:
        """Return the position that a folder is named after, without its means; None where the name is none of these."""
        found = re.fullmatch(r"(.+)-v(\d{4,})(?:-s(\d{5,}))?", folder_name)
        return cls(found[1], int(found[2]), int(found[3] or 0)) if found else None


@dataclass(frozen=True, slots=True)
class Stage:
    """What training is at: a part of the burn-in (`method` None), or a round of one method.

    `number` is the round; in the burn-in 0 is the network trained on all labeled rows and k + 1 that without fold k.

    Example: `Stage("l2l", 2).label` is "l2l round 2"; `Stage(None, 1).label` is "burn-in fold 0".
    """

    method: str | None
    number: int

    @property
    def label(self) -> str:
        """The stage in words."""
        if self.method is not None:
            return f"{self.method} round {self.number}"
        return f"burn-in fold {self.number - 1}" if self.number else "burn-in"

    def steps_before(self, config: RunConfig, num_folds: int) -> int:
        """Return how many student steps of the job come before this stage.

        Args:
            config: The run's config.
            num_folds: Parts of the burn-in beside the first; 0 where no selector of the job learns.
        """
        loop = config.loop
        if self.method is None:
            return loop.burn_in_steps + (self.number - 1) * loop.fold_steps if self.number else 0
        rounds = (*config.compare, config.selector.name).index(self.method) * loop.rounds + self.number
        return loop.burn_in_steps + num_folds * loop.fold_steps + rounds * loop.round_steps
