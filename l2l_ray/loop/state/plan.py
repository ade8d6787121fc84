"""What can be done next: a pure state machine shared by `LocalHost` and the Ray driver.

It is told what exists (priors of a set, published versions, committed shards, finished evaluations) and says which work
items are ready: label shards of the rounds a version unlocks, evaluate a version on val, and, once all versions of a
method have a val figure, evaluate the best of them on the test splits - once. Because everything is derived from what
lies on disk, a resumed driver rebuilds the same plan by telling it the same facts.

The zero-shot row of the results is a method named `prior_only` with the single version 0 and nothing to label.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field

from l2l_ray.loop.state.staleness import rounds_unlocked_by
from l2l_ray.selector.registry import PRIOR_ONLY, stores_labels

VAL = "val"


@dataclass(frozen=True, slots=True)
class LabelItem:
    """Label one shard of one round with one version.

    Example: `LabelItem("l2l", 1, 4, 1)`
    """

    method: str
    round: int
    shard: int
    version: int

    def __str__(self) -> str:
        """Return it in words for messages."""
        return f"shard {self.shard} of {self.method} round {self.round}"


@dataclass(frozen=True, slots=True)
class EvalItem:
    """Evaluate one version on sentences [start, stop) of a split.

    Example: `EvalItem("l2l", 3, "testA", 0, 512)`
    """

    method: str
    version: int
    split: str
    start: int
    stop: int

    @property
    def group(self) -> tuple[str, int, str]:
        """All items of one group make one result."""
        return self.method, self.version, self.split

    def __str__(self) -> str:
        """Return it in words for messages."""
        return f"{self.split} {self.start}-{self.stop} of {self.method} v{self.version}"


WorkItem = LabelItem | EvalItem


@dataclass
class Plan:
    """Ready work, in order: labels before evaluations, earlier rounds before later ones.

    Args:
        methods: Selectors of this job, in training order.
        rounds: Rounds per method; versions 0..rounds are published.
        lag: See `staleness`.
        num_shards: Labelling shards per round.
        split_sizes: Sentences per evaluation split, empty splits left out; without val the last version is taken.
        chunk: Sentences per evaluation item.
    """

    methods: Sequence[str]
    rounds: int
    lag: int
    num_shards: int
    split_sizes: dict[str, int]
    chunk: int
    _priors: set[str] = field(default_factory=set)
    _versions: dict[str, set[int]] = field(default_factory=dict)
    _label_queue: deque[Iterator[LabelItem]] = field(default_factory=deque)  # the open shards, round by round
    _eval_queue: list[EvalItem] = field(default_factory=list)
    _open_parts: dict[tuple[str, int, str], set[EvalItem]] = field(default_factory=dict)
    _committed: Container[tuple[str, int, int]] = field(default_factory=set)
    _scores: dict[tuple[str, int, str], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Queue the zero-shot row: it needs no training."""
        self.split_sizes = {split: size for split, size in self.split_sizes.items() if size}
        self._versions = {method: set() for method in (*self.methods, PRIOR_ONLY)}
        self._versions[PRIOR_ONLY].add(0)
        for split in self.split_sizes:
            self._queue_evaluation(PRIOR_ONLY, 0, split)

    def priors_ready(self, name: str) -> None:
        """Take note that the priors of a set (`unlabeled`, `val`, ...) are complete."""
        self._priors.add(name)

    def publish(self, method: str, version: int) -> None:
        """Take note that a version exists, and queue what it unlocks; a second time changes nothing."""
        if version in self._versions[method]:
            return
        self._versions[method].add(version)
        if stores_labels(method):
            for round_index in rounds_unlocked_by(version, self.lag, self.rounds):
                self._label_queue.append(self._open_shards(method, round_index, version))
        if VAL in self.split_sizes:
            self._queue_evaluation(method, version, VAL)
        elif version == self.rounds:
            self._queue_tests(method)

    def restore(
        self,
        committed: Container[tuple[str, int, int]],
        mean_ious: dict[tuple[str, int, str], float],
        published: dict[str, set[int]],
    ) -> None:
        """Bring a fresh plan up to date with what lies on disk.

        Args:
            committed: The ledger, or (method, round, shard) of its entries.
            mean_ious: (method, version, split) of finished evaluations -> their mean_iou.
            published: Versions on disk, by method.
        """
        self._committed = committed
        for group, mean_iou in mean_ious.items():
            self.record(*group, mean_iou)
        for method, versions in published.items():
            for version in sorted(versions):
                self.publish(method, version)

    def next(self) -> WorkItem | None:
        """Take the next ready item; None when nothing is ready now."""
        while self._label_queue and "unlabeled" in self._priors:
            if (label := next(self._label_queue[0], None)) is not None:
                return label
            self._label_queue.popleft()
        for index, item in enumerate(self._eval_queue):
            if item.split in self._priors:
                return self._eval_queue.pop(index)
        return None

    def done(self, item: EvalItem) -> bool:
        """Take note that an item is finished; True, once, when it was the last part of its group."""
        parts = self._open_parts.get(item.group, set())
        if item not in parts:
            return False
        parts.remove(item)
        return not parts

    def record(self, method: str, version: int, split: str, mean_iou: float) -> None:
        """Take note of a finished evaluation; the last val figure of a method unlocks its test splits."""
        if (method, version, split) in self._scores:
            return
        self._scores[method, version, split] = mean_iou
        self._eval_queue = [item for item in self._eval_queue if item.group != (method, version, split)]
        self._open_parts.pop((method, version, split), None)
        if split == VAL and method != PRIOR_ONLY and self._val_complete(method):
            self._queue_tests(method)

    def best_version(self, method: str) -> int:
        """Return the trained version with the highest val mean_iou; the last one where there is no val split."""
        if method == PRIOR_ONLY:
            return 0
        scored = {v: self._scores.get((method, v, VAL), float(v)) for v in range(1, self.rounds + 1)}
        return max(scored, key=lambda v: scored[v])

    @property
    def finished(self) -> bool:
        """Whether every figure of the final table exists."""
        return all(
            self._trained(method) and (method, self.best_version(method), split) in self._scores
            for method in (*self.methods, PRIOR_ONLY)
            for split in self.split_sizes
        ) and not any(self._open_parts.values())

    def _open_shards(self, method: str, round_index: int, version: int) -> Iterator[LabelItem]:
        for shard in range(self.num_shards):
            if (method, round_index, shard) not in self._committed:
                yield LabelItem(method, round_index, shard, version)

    def _trained(self, method: str) -> bool:
        return method == PRIOR_ONLY or self.rounds in self._versions[method]

    def _val_complete(self, method: str) -> bool:
        return all((method, v, VAL) in self._scores for v in range(1, self.rounds + 1))

    def _queue_tests(self, method: str) -> None:
        for split in self.split_sizes:
            if split != VAL:
                self._queue_evaluation(method, self.best_version(method), split)

    def _queue_evaluation(self, method: str, version: int, split: str) -> None:
        group = (method, version, split)
        if group in self._scores or group in self._open_parts:
            return
        size = self.split_sizes[split]
        items = [
            EvalItem(method, version, split, start, min(start + self.chunk, size))
            for start in range(0, size, self.chunk)
        ]
        self._eval_queue += items
        self._open_parts[group] = set(items)
