"""ASHA that compares like with like: Ray Tune's own scheduler, one for each group of trials that may be ranked.

A trial reports the val figure of every version, in order, so that all are compared after the same number of rounds. At
versions 1, 2, 4, ... but never at the last, one that is below the median of the rivals that got there before it is
stopped. Rivals share seed, data and number of rounds: more labeled images always win, seeds draw other images, and the
learning rate falls until a trial's own last round.

Source: Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning"; reduction factor 2 is ours, because
sweeps here are small.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

REDUCTION_FACTOR = 2
METRIC = "val_mean_iou"  # what a trial reports beside `version`; more is better
Figures = Mapping[int, float]  # version -> val figure


class LikeWithLike(FIFOScheduler):
    """Decides after each version whether a trial goes on.

    Args:
        rivals: Trial id -> the group in which it is ranked. Tune's trials have the id as `config["trial"]`.
        rounds: Trial id -> its last version, at which it is not stopped any more; at least 2, the same for rivals.
        known: What earlier starts of the sweep measured: trial id -> figures. Nothing of it is decided again.
        on_stop: Told of a trial that is stopped, and at which version.
    """

    def __init__(
        self,
        rivals: Mapping[str, str],
        rounds: Mapping[str, int],
        known: Mapping[str, Figures],
        on_stop: Callable[[str, int], None],
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._on_stop = on_stop
        groups = {
            group: ASHAScheduler(
                "version", METRIC, "max", max_t=rounds[trial] - 1, reduction_factor=REDUCTION_FACTOR,
                stop_last_trials=False,
            )
            for trial, group in rivals.items()
        }  # fmt: skip
        # Tune gives a trial another id in every start; here it keeps its own.
        self._asha = {trial: groups[group] for trial, group in rivals.items()}
        self._same = {trial: TuneTrial("known", trial_id=trial, stub=True) for trial in rivals}
        for trial, asha in self._asha.items():
            asha.on_trial_add(None, self._same[trial])  # type: ignore[arg-type]
            for version, figure in sorted(known.get(trial, {}).items()):
                self.decide(trial, version, figure)

    def decide(self, trial: str, version: int, figure: float) -> bool:
        """Take in a figure; return whether the trial stays in the race."""
        result = {"version": version, METRIC: figure}
        action = self._asha[trial].on_trial_result(None, self._same[trial], result)  # type: ignore[arg-type]
        return action != TrialScheduler.STOP

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Accept what Tune says: the groups know their metric."""
        return True

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        """Decide on what a trial reports; a report without a figure changes nothing."""
        if METRIC not in result:
            return str(TrialScheduler.CONTINUE)
        own_id, version = str(trial.config["trial"]), int(result["version"])
        if self.decide(own_id, version, float(result[METRIC])):
            return str(TrialScheduler.CONTINUE)
        self._on_stop(own_id, version)
        return str(TrialScheduler.STOP)
