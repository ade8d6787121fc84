"""The plan: every item once, in time, whatever the order of work, and the same from any point of a resumed run."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2l_ray.loop.state.plan import VAL, EvalItem, LabelItem, Plan, WorkItem
from l2l_ray.loop.state.staleness import label_version
from l2l_ray.selector.registry import PRIOR_ONLY

Group = tuple[str, int, str]
SETS = ("labeled", "unlabeled", "val", "testA", "testB")


def _plan(
    methods: Iterable[str] = ("l2l",), rounds: int = 2, lag: int = 0, shards: int = 3, chunk: int = 10, **sizes: int
) -> Plan:
    plan = Plan(tuple(methods), rounds, lag, shards, sizes or {"val": 25, "testA": 10}, chunk)
    for name in SETS:
        plan.priors_ready(name)
    return plan


def _drain(plan: Plan) -> list[WorkItem]:
    items = []
    while (item := plan.next()) is not None:
        items.append(item)
    return items


def _mean_iou(group: Group) -> float:
    """Give a figure in [0, 1) that depends on the group alone."""
    return random.Random(repr(group)).random()


class Host:
    """Trains and works through a plan as a host does, in an order drawn from a seed; knows what is on disk."""

    def __init__(self, methods: tuple[str, ...], rounds: int, lag: int, shards: int, sizes: dict[str, int]) -> None:
        self.arguments = (methods, rounds, lag, shards, sizes, 10)
        self.committed: set[tuple[str, int, int]] = set()
        self.scores: dict[Group, float] = {}
        self.published: set[tuple[str, int]] = set()
        self.given: list[WorkItem] = []

    def fresh_plan(self, rng: random.Random) -> Plan:
        plan = Plan(*self.arguments)
        for name in SETS:
            plan.priors_ready(name)
        scores = {group: self.scores[group] for group in rng.sample(sorted(self.scores), len(self.scores))}
        published = {method: {v for m, v in self.published if m == method} for method, _ in sorted(self.published)}
        plan.restore(self.committed, scores, published)
        return plan

    def _trainable(self, plan: Plan) -> list[tuple[str, int]]:
        methods, rounds, _, shards, *_ = self.arguments
        ready = []
        for method in methods:
            version = sum(m == method for m, _ in self.published)
            labeled = method == "supervised" or all((method, version - 1, s) in self.committed for s in range(shards))
            if version <= rounds and (version == 0 or labeled):
                ready.append((method, version))
        return ready[:1]  # methods are trained one after the other

    def run(self, rng: random.Random, events: int) -> bool:
        """Start from what is on disk and do at most so many things; True when the plan says it is finished."""
        plan = self.fresh_plan(rng)
        in_flight: list[WorkItem] = []
        for _ in range(events):
            if (item := plan.next()) is not None:
                in_flight.append(item)
                self.given.append(item)
            trainable = self._trainable(plan)
            if trainable and (not in_flight or rng.random() < 0.3):
                self.published.add(trainable[0])
                plan.publish(*trainable[0])
            elif in_flight:
                self._finish(plan, in_flight.pop(rng.randrange(len(in_flight))))
            elif item is None:
                assert plan.finished, "nothing to do, nothing in flight, not finished"
                return True
        return False

    def _finish(self, plan: Plan, item: WorkItem) -> None:
        if isinstance(item, LabelItem):
            assert item.version == label_version(item.round, self.arguments[2])
            assert (item.method, item.version) in self.published
            self.committed.add((item.method, item.round, item.shard))
        elif plan.done(item):
            self.scores[item.group] = _mean_iou(item.group)
            plan.record(*item.group, self.scores[item.group])


HOSTS = st.builds(
    Host,
    methods=st.sampled_from([("l2l",), ("supervised", "l2l"), ("accept_all", "supervised", "l2l")]),
    rounds=st.integers(1, 3),
    lag=st.integers(0, 3),
    shards=st.integers(0, 3),
    sizes=st.sampled_from(
        [{"val": 25, "testA": 10, "testB": 7}, {"val": 5}, {"testA": 12}, {"val": 11, "test": 0}, {}]
    ),
)


def _expected(host: Host) -> tuple[set[tuple[str, int, int]], set[Group]]:
    methods, rounds, _, shards, sizes, _ = host.arguments
    labels = {(m, r, s) for m in methods if m != "supervised" for r in range(rounds) for s in range(shards)}
    splits = [split for split, size in sizes.items() if size]
    groups: set[Group] = {(PRIOR_ONLY, 0, split) for split in splits}
    for method in methods:
        best = rounds
        if VAL in splits:
            groups |= {(method, v, VAL) for v in range(rounds + 1)}
            best = max(range(1, rounds + 1), key=lambda v: _mean_iou((method, v, VAL)))
        groups |= {(method, best, split) for split in splits if split != VAL}
    return labels, groups


@given(host=HOSTS, seed=st.integers(0, 2**32))
def test_without_failures_every_item_is_handed_out_exactly_once(host: Host, seed: int) -> None:
    assert host.run(random.Random(seed), events=10_000)
    assert set(Counter(host.given).values()) <= {1}
    assert (host.committed, set(host.scores)) == _expected(host)


@given(host=HOSTS, seed=st.integers(0, 2**32), stops=st.lists(st.integers(1, 20), max_size=6))
def test_resuming_from_any_prefix_ends_with_the_same_work(host: Host, seed: int, stops: list[int]) -> None:
    rng = random.Random(seed)
    for events in stops:
        before = set(host.committed)
        host.given = []
        host.run(rng, events)
        again = {(i.method, i.round, i.shard) for i in host.given if isinstance(i, LabelItem)} & before
        assert not again, "a committed shard was labeled again"
    assert host.run(rng, events=10_000)
    assert (host.committed, set(host.scores)) == _expected(host)


def test_labels_come_before_evaluations_and_early_rounds_first() -> None:
    plan = _plan(lag=1, shards=2)
    plan.publish("l2l", 0)
    items = _drain(plan)
    assert items[:4] == [LabelItem("l2l", r, s, 0) for r in (0, 1) for s in (0, 1)]
    assert {item.method for item in items[4:]} == {PRIOR_ONLY, "l2l"}


def test_nothing_is_ready_before_its_priors_are() -> None:
    plan = Plan(("l2l",), 1, 0, 1, {"val": 5, "testA": 5}, 10)
    plan.publish("l2l", 0)
    assert plan.next() is None
    plan.priors_ready("testA")
    assert plan.next() == EvalItem(PRIOR_ONLY, 0, "testA", 0, 5)
    assert plan.next() is None
    plan.priors_ready("unlabeled")
    assert plan.next() == LabelItem("l2l", 0, 0, 0)


def test_a_split_is_cut_into_chunks_and_the_last_one_closes_the_group() -> None:
    plan = _plan(val=25)
    items = _drain(plan)
    assert items == [EvalItem(PRIOR_ONLY, 0, "val", *cut) for cut in ((0, 10), (10, 20), (20, 25))]
    parts = [item for item in items if isinstance(item, EvalItem)]
    assert [plan.done(part) for part in parts] == [False, False, True]
    assert not plan.done(parts[-1]), "a result that arrives twice must not close its group again"


@pytest.mark.parametrize("method", ["supervised", "online"])
def test_what_stores_no_labels_and_the_zero_shot_row_have_no_shards(method: str) -> None:
    plan = _plan(methods=(method,))
    for version in range(3):
        plan.publish(method, version)
    assert not any(isinstance(item, LabelItem) for item in _drain(plan))


def test_telling_twice_changes_nothing() -> None:
    plan = _plan()
    plan.publish("l2l", 0)
    plan.publish("l2l", 0)
    items = _drain(plan)
    assert set(Counter(items).values()) == {1}


def test_tests_are_read_once_for_the_version_that_is_best_on_val() -> None:
    plan = _plan(rounds=3)
    for version in range(4):
        plan.publish("l2l", version)
    _drain(plan)
    for version, score in ((1, 0.3), (2, 0.5), (3, 0.4)):
        assert not _drain(plan)
        plan.record("l2l", version, "val", score)
    assert plan.best_version("l2l") == 2
    assert _drain(plan) == [EvalItem("l2l", 2, "testA", 0, 10)]
    plan.record("l2l", 0, "val", 0.9)  # the burn-in's figure comes last, and is no candidate
    assert _drain(plan) == []
    assert plan.best_version("l2l") == 2


def test_without_val_the_last_version_is_taken() -> None:
    plan = _plan(testA=10)
    for version in range(3):
        assert plan.best_version("l2l") == 2
        plan.publish("l2l", version)
    tests = [item for item in _drain(plan) if item.method == "l2l" and isinstance(item, EvalItem)]
    assert tests == [EvalItem("l2l", 2, "testA", 0, 10)]


@pytest.mark.parametrize("sizes", [{"val": 0, "testA": 10}, {"val": 0}])
def test_an_empty_split_is_left_out_and_cannot_hold_up_the_end(sizes: dict[str, int]) -> None:
    plan = _plan(methods=("supervised",), rounds=1, **sizes)
    for version in (0, 1):
        plan.publish("supervised", version)
    for item in _drain(plan):
        if isinstance(item, EvalItem) and plan.done(item):
            plan.record(*item.group, 0.5)
    assert plan.finished


def test_an_item_says_in_words_what_it_is() -> None:
    assert str(LabelItem("l2l", 2, 7, 1)) == "shard 7 of l2l round 2"
    assert str(EvalItem("l2l", 3, "testA", 0, 512)) == "testA 0-512 of l2l v3"
