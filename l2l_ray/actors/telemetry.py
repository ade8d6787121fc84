"""The figures that Ray's metrics agents export (Prometheus format, names prefixed `ray_`), in one table.

Each process makes a `Meters` of its own; Ray adds the labels of the process. The same figures also go into the run
folder (`metrics.jsonl`, `state.json`), because the dashboard draws time series only where Prometheus and Grafana run.
"""

from __future__ import annotations

from dataclasses import dataclass

from ray.util.metrics import Counter, Gauge, Histogram


@dataclass(frozen=True, slots=True)
class _Spec:
    kind: type[Counter] | type[Gauge] | type[Histogram]
    description: str
    tags: tuple[str, ...] = ()


# Upper bounds of latency buckets, seconds: tiny models answer in 0.1 s, an 8 B model in tens of seconds.
_LATENCY_BOUNDS_S = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]

METRICS: dict[str, _Spec] = {
    "l2l_labels_total": _Spec(Counter, "Pseudo-labels committed"),
    "l2l_labels_per_s": _Spec(Gauge, "Pseudo-labels committed per second, over the last half minute"),
    "l2l_accepted_frac": _Spec(Gauge, "Share of pixels accepted in the last committed shard", ("method",)),
    "l2l_round": _Spec(Gauge, "Newest published version of a method; version r + 1 ends round r", ("method",)),
    "l2l_mean_iou": _Spec(Gauge, "mean_iou of the newest evaluated version", ("method", "split")),
    "l2l_reward": _Spec(Gauge, "Mean reward term of the last policy updates", ("method", "term")),
    "l2l_train": _Spec(Gauge, "Training figures of the last report: losses, norms, shares", ("name",)),
    "l2l_train_done_frac": _Spec(Gauge, "Share of the current training stage that is done", ("stage",)),
    "l2l_prior_latency_s": _Spec(Histogram, "Seconds of one MLLM batch", ("actor",)),
    "l2l_prior_queue": _Spec(Gauge, "Questions waiting in a prior actor", ("actor",)),
    "l2l_prior_answers_total": _Spec(Counter, "Questions answered by a prior actor", ("actor",)),
    "l2l_prior_batch": _Spec(Gauge, "Questions in the last MLLM batch", ("actor",)),
    "l2l_label_shard_s": _Spec(Histogram, "Seconds to label one shard", ("actor",)),
}


class Meters:
    """The metrics of one process, made when first used.

    Ray's agent forgets a gauge that was not set for two report intervals, so whoever sets gauges calls `refresh` about
    once a second.

    Example: `Meters(run="refshapes-l2l-s0").set("l2l_round", 2, method="l2l")`
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._made: dict[str, Counter | Gauge | Histogram] = {}
        self._gauges: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}

    def set(self, name: str, value: float, /, **tags: str) -> None:
        """Set a gauge."""
        meter = self._get(name)
        assert isinstance(meter, Gauge), f"{name} is no gauge"
        meter.set(value, tags={"run": self._run, **tags})
        self._gauges[name, tuple(sorted(tags.items()))] = value

    def refresh(self) -> None:
        """Set every gauge again to its last value."""
        for (name, tags), value in list(self._gauges.items()):
            self.set(name, value, **dict(tags))

    def add(self, name: str, value: float, /, **tags: str) -> None:
        """Add to a counter; adding 0 changes nothing."""
        meter = self._get(name)
        assert isinstance(meter, Counter), f"{name} is no counter"
        if value > 0:
            meter.inc(value, tags={"run": self._run, **tags})

    def observe(self, name: str, value: float, /, **tags: str) -> None:
        """Add one observation to a histogram."""
        meter = self._get(name)
        assert isinstance(meter, Histogram), f"{name} is no histogram"
        meter.observe(value, tags={"run": self._run, **tags})

    def _get(self, name: str) -> Counter | Gauge | Histogram:
        if name not in self._made:
            spec = METRICS[name]
            tags = ("run", *spec.tags)
            if spec.kind is Histogram:
                self._made[name] = Histogram(name, spec.description, _LATENCY_BOUNDS_S, tags)
            else:
                self._made[name] = spec.kind(name, spec.description, tag_keys=tags)
        return self._made[name]
