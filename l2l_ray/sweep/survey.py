"""What must be known before a sweep starts: whether each trial can run, and which texts the MLLM is asked about.

Every trial's data are looked at as far as files say (no picture is opened), so that a share that gives too few labeled
images is refused before hours are spent on the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from l2l_ray.config import RunConfig
from l2l_ray.errors import ConfigError
from l2l_ray.loop.state.candidates import Candidates
from l2l_ray.loop.state.enough import candidates_of, num_images, num_labeled_needed, num_val_images
from l2l_ray.sweep.trials import Trial
from l2l_ray.types import Example


@dataclass
class Asked:
    """The texts that some trials ask one MLLM about, in one way.

    Example: `survey(trials)[0].examples`
    """

    config: RunConfig
    examples: dict[int, Example] = field(default_factory=dict)  # by sent_id
    trials: list[str] = field(default_factory=list)  # their ids


def survey(trials: Sequence[Trial]) -> list[Asked]:
    """Check that every trial has the data it needs; return what their priors are asked for, each text once.

    Raises:
        ConfigError: Some cannot run; the message names each such point, what it has and what it needs.
        DataError: The data set cannot be read.
    """
    problems: dict[str, str] = {}
    asked: dict[object, Asked] = {}
    for same in _by_data(trials):
        try:
            found = candidates_of(same[0].config)
        except ConfigError as error:
            problems |= {trial.words(): str(error) for trial in same}
            continue
        for trial in same:
            if problem := _problem(trial.config, found):
                problems[trial.words()] = problem
            group = asked.setdefault(_source(trial.config), Asked(trial.config))
            group.trials.append(trial.id)
            sets: list[Sequence[Example]] = [found.labeled, found.unlabeled, *found.splits.values()]
            group.examples.update((example.sent_id, example) for examples in sets for example in examples)
    if problems:
        what = "; ".join(f"{point}: {problem}" for point, problem in list(problems.items())[:3])
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise ConfigError(f"{len(problems)} of {len(trials)} trials cannot run, so none was started: {what}{more}")
    return list(asked.values())


def _by_data(trials: Sequence[Trial]) -> list[list[Trial]]:
    """Return the trials in groups that work on the same items."""
    groups: dict[object, list[Trial]] = {}
    for trial in trials:
        groups.setdefault((trial.config.data, trial.config.loop.expressions_per_ref), []).append(trial)
    return list(groups.values())


def _source(config: RunConfig) -> object:
    """Return what decides whom the MLLM is asked about, and how, but for which images are labeled."""
    chosen = {"labeled_frac": None, "split_seed": 0, "split_file": None, "val_from_labeled": 0.0, "benchmark_frac": 1.0}
    return config.prior, config.data.model_copy(update=chosen)


def _problem(config: RunConfig, found: Candidates) -> str | None:
    has, needs = num_images(found.labeled), num_labeled_needed((config.selector.name,))
    if has < needs:
        return (
            f"{has} labeled image, and {config.selector.name} needs {needs}, to learn from one what it does on the "
            "other; choose larger shares in the space, or more data"
        )
    if not num_val_images(config, found):
        return (
            f"no val to compare trials on: {config.data.dataset} has none, and none of its {has} labeled images can be "
            "held out; add a val split, or raise data.val_from_labeled"
        )
    return None
