"""Points and seeds as trials: each a whole config, named by the hash of everything in it that decides its result.

One seed moves both the labeled draw (`data.split_seed`) and training (`loop.seed`): what differs between seeds is then
all that chance decides, the data set apart.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from l2l_ray.config import EMBEDDED, NO_RESULT, RunConfig, config_fields, dump_without, field_value, idle_fields
from l2l_ray.config.messages import meant
from l2l_ray.errors import ConfigError
from l2l_ray.sweep.space import Space, Values, draw

SEED_FIELDS = ("loop.seed", "data.split_seed")
# Of a trial's config: which run it is and where it works, not what it does.
_NOT_SWEPT = NO_RESULT | {"compare"}
_ID_DIGITS = 12


@dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    Example: `trials_of(config, {"data.labeled_frac": Grid((0.01, 0.05))}, "my-sweep", [0, 1])[0].id`
    """

    id: str
    values: Values
    seed: int
    config: RunConfig

    def words(self) -> str:
        """Return point and seed for a person: `labeled_frac=0.1 selector=l2l seed=0`."""
        return f"{point_text(self.values)} seed={self.seed}"

    @property
    def rivals(self) -> str:
        """Return what it shares with the trials it may be ranked against: seed, data and number of rounds."""
        data = {field: value for field, value in self.values.items() if field.startswith("data.")}
        return json.dumps([self.seed, data, self.config.loop.rounds], sort_keys=True)


def point_text(values: Mapping[str, Any]) -> str:
    """Return a point for a person, fields by their shortest names that differ."""
    names = short_names(list(values))
    return " ".join(f"{names[field]}={value:g}" if isinstance(value, float) else f"{names[field]}={value}"
                    for field, value in values.items())  # fmt: skip


def short_names(fields: Sequence[str]) -> dict[str, str]:
    """Return the last part of each field's path; two parts where another field ends so too; `selector` for its name."""
    last = [field.rpartition(".")[2] for field in fields]
    return {
        field: field.split(".")[-2]
        if end == "name"
        else ".".join(field.split(".")[-2:])
        if last.count(end) > 1
        else end
        for field, end in zip(fields, last, strict=True)
    }


def trials_of(
    config: RunConfig,
    space: Space,
    sweep_name: str,
    seeds: Sequence[int] = (0,),
    num_samples: int | None = None,
    draw_seed: int = 0,
) -> list[Trial]:
    """Return every trial of a sweep, each once, in the order in which they start.

    Args:
        config: What all trials share; its `compare` is left out, because a trial is one selector.
        space: Config field -> domain.
        sweep_name: Folder of the sweep under the run root.
        seeds: Every point is run with each.
        num_samples: As in `space.draw`.
        draw_seed: As in `space.draw`.
    Raises:
        ConfigError: A field does not exist, is no part of a sweep or has no effect in any trial; a point's values do
            not fit; or a seed is negative or given twice.
    """
    _require_sweepable(space)
    if "data.benchmark_frac" in space and config.data.root != EMBEDDED:
        raise ConfigError(
            "a sweep over data.benchmark_frac is one of the embedded data, and data.root names others; sweep "
            "data.labeled_frac, which holds for every data set"
        )
    if len(set(seeds)) < len(seeds) or not seeds or min(seeds) < 0:
        raise ConfigError(f"--seeds must be different numbers from 0 up, got {list(seeds)}; write e.g. --seeds 0 1 2")
    own = {field: field_value(config, field) for field in space}
    trials: dict[str, Trial] = {}
    for values in draw(space, own, num_samples, draw_seed):
        for seed in seeds:
            bare = _bare(config, values, seed)
            name = trial_id(bare)
            named = bare.model_copy(update={"name": f"{sweep_name}/{name}", "resume": False, "resume_if_begun": False})
            trials.setdefault(name, Trial(name, values, seed, named))
    _require_effect(space, list(trials.values()))
    return list(trials.values())


def trial_id(config: RunConfig) -> str:
    """Return the hash that names a config's trial; two that differ only in what changes no result have the same."""
    content = dump_without(config, NO_RESULT)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:_ID_DIGITS]


def _bare(config: RunConfig, values: Mapping[str, Any], seed: int) -> RunConfig:
    try:
        return config.with_values({**values, **dict.fromkeys(SEED_FIELDS, seed), "compare": ()})
    except ConfigError as error:
        raise ConfigError(f"the sweep's point {point_text(values)} cannot be: {error}") from None


def _require_sweepable(space: Space) -> None:
    known = [field.path for field in config_fields(RunConfig)]
    for path in space:
        if path not in known:
            hint = meant([path], known)
            raise ConfigError(f"the sweep's field {path!r} does not exist; {hint}docs/config.md lists every field")
        if path in SEED_FIELDS:
            raise ConfigError(f"the sweep's field {path!r} is no part of a space; use --seeds 0 1 2")
        if {path, path.split(".")[0]} & _NOT_SWEPT:
            raise ConfigError(f"the sweep's field {path!r} changes no result; take it out of the space")


def _require_effect(space: Space, trials: Sequence[Trial]) -> None:
    """Refuse a field that is idle in every trial: nobody should wait for a table of equal rows."""
    idle: dict[str, str] = {}
    for number, trial in enumerate(trials):
        here = {name: i.sentence() for i in idle_fields(trial.config, "sweep") if not i.on for name in i.fields}
        idle = here if number == 0 else {name: why for name, why in idle.items() if name in here}
    if found := [field for field in space if field in idle]:
        raise ConfigError(f"the sweep would change nothing by {found[0]}: {idle[found[0]]}; choose another space")
