"""How many trials fit, who is asked for their priors, and what a trial reports while it runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from ray import tune

from l2l_ray.actors import priors, tuning
from l2l_ray.actors.cluster import prior_of_actors
from l2l_ray.actors.logs import KeptNotes
from l2l_ray.actors.tuning import Reports, Watch, ask_priors, max_concurrent, run_trial, trial_resources
from l2l_ray.config import RunConfig
from l2l_ray.errors import ClusterError
from l2l_ray.loop.inference.asking import Question
from l2l_ray.loop.inference.priors import Answered, LocalMllm, fill_priors
from l2l_ray.loop.progress import Status
from l2l_ray.loop.state.example_files import read_priors
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.prior.loading import identify_prior
from l2l_ray.prior.shared_store import open_store
from l2l_ray.sweep.folder import SweepFolder
from l2l_ray.sweep.space import Grid
from l2l_ray.sweep.survey import Asked
from l2l_ray.sweep.trials import trials_of
from l2l_ray.types import Example
from tests.actors.dying_prior import FINE, KILLS, DyingPrior, NeverStarts
from tests.loop.canned_mllm import CannedMllm
from tests.ray_runs import held
from tests.sweep_trials import measure
from tests.whole_run import changed


def test_how_many_trials_fit_is_what_one_run_needs_into_each_node() -> None:
    config = RunConfig()  # 2 labelers x 0.25 + 1 worker x 0.5 = 1 CPU
    assert max_concurrent(config, [{"CPU": 2.0}]) == 2
    assert max_concurrent(config, [{"CPU": 1.5}, {"CPU": 2.5}]) == 3
    with_gpu = changed(config, cluster={"worker_resources": {"CPU": 1.0, "GPU": 1.0}})
    assert max_concurrent(with_gpu, [{"CPU": 64.0, "GPU": 2.0}, {"CPU": 64.0}]) == 2


def test_a_trial_goes_where_a_train_worker_would_and_has_its_memory() -> None:
    worker = {"CPU": 4.0, "GPU": 1.0, "steady": 0.01, "memory": 1e9, "fast_disk": 0.0}
    config = changed(RunConfig(), cluster={"worker_resources": worker})
    assert trial_resources(config) == {"CPU": 4.5, "GPU": 1.0, "steady": 0.01, "memory": 1e9}  # 2 labelers x 0.25 CPU
    node = {"CPU": 64.0, "GPU": 4.0, "memory": 3e9}
    assert (
        max_concurrent(config, [{**node, "steady": 1.0}, node]) == 3
    )  # as its memory allows, on the steady node alone
    with pytest.raises(ClusterError, match=r"need 0.01 steady \(1 trial x 0.01\), have 0"):
        max_concurrent(config, [node])


def test_a_cluster_too_small_for_one_trial_is_refused_at_once_unless_nodes_come() -> None:
    with pytest.raises(ClusterError, match=r"need 1 CPU \(1 trial x 1\), have 0.5; .* set cluster.autoscaled"):
        max_concurrent(RunConfig(), [{"CPU": 0.5}])
    assert max_concurrent(changed(RunConfig(), cluster={"autoscaled": True}), [{"CPU": 0.5}]) is None


def test_each_version_is_reported_once_in_order_with_its_own_figure(
    smoke: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(tune, "report", told.append)
    run = RunFolder.open(smoke).create()

    notes = KeptNotes()
    reports, status = Reports(smoke, notes), Status(shards_total=1)
    measure(run, 0, 0.0)
    measure(run, 1, 0.1)  # before the kill, say: this process has not seen it being measured
    reports.update(status, 1)
    reports.update(status, 1)
    measure(run, 2, 0.2)
    logging.getLogger("l2l_ray.device").warning("out of memory")
    status.mean_iou["l2l v2 val"] = 0.2
    reports.update(status, 1)
    reports.bring_up_to_date()
    first, second = {"version": 1, "val_mean_iou": 0.1}, {"version": 2, "val_mean_iou": 0.2}
    assert told == [{**first, "notes": []}, {**second, "notes": ["out of memory"]}]


@dataclass
class Ended:
    """What `Watch` reads of Tune's own trial, which only a running Tune makes."""

    config: dict[str, str]
    last_result: dict[str, Any]


@pytest.mark.parametrize(
    ("result", "event", "said"),
    [
        ({"version": 2, "val_mean_iou": 0.25}, "finished", "finished, val mean IoU 25.0 %, 3 s"),
        ({"failed": "no room"}, "failed", "failed: no room"),
        ({}, "failed", "failed: it ended without a figure on val of version 2; start again with --resume"),
        ({"version": 1, "val_mean_iou": 0.25}, "failed", "failed: it ended without a figure on val of version 2"),
    ],
)
def test_a_trial_has_finished_with_the_figure_of_its_last_version_alone(
    smoke: RunConfig, capsys: pytest.CaptureFixture[str], result: dict[str, Any], event: str, said: str
) -> None:
    trials = trials_of(smoke, {"loop.rounds": Grid((2, 3))}, "s")
    folder = SweepFolder(smoke.root / "s")
    folder.path.mkdir(parents=True)
    ended: Any = Ended({"trial": trials[0].id}, {"time_total_s": 3.0, **result})
    Watch(folder, trials, 0).on_trial_complete(0, [], ended)
    assert [line["event"] for line in folder.events()] == [event]
    assert f"1/2 {trials[0].id} (rounds=2 seed=0): {said}" in capsys.readouterr().out


def test_what_a_trial_warns_of_is_said_with_its_name(smoke: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    trials = trials_of(smoke, {"loop.rounds": Grid((2, 3))}, "s")
    folder = SweepFolder(smoke.root / "s")
    reporting: Any = Ended({"trial": trials[0].id}, {})
    result = {"version": 2, "val_mean_iou": 0.25, "notes": ["out of memory"]}
    Watch(folder, trials, 0).on_trial_result(0, [], reporting, result)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1 and said[0].endswith(f"0/2 {trials[0].id} (rounds=2 seed=0): note: out of memory")


class Broken(LocalMllm):
    """A language model whose own code fails."""

    def ask(self, batches: Iterator[list[Question]]) -> Iterator[Answered]:
        """Fail."""
        raise RuntimeError("boom")


def test_a_trial_that_fails_as_nobody_expected_leaves_where_it_happened(
    smoke: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(tune, "report", told.append)
    broken: Any = Broken(smoke.prior)  # a trial is given one that knows its answers
    run_trial({"trial": "t"}, {"t": smoke}, {"t": broken})
    ((failed, notes),) = ((one["failed"], one["notes"]) for one in told)
    path = smoke.run_dir / "error.txt"
    assert failed == f"RuntimeError: boom; where it happened is in {path}"
    assert "Traceback" in path.read_text() and "in ask" in path.read_text()
    assert not notes


def _asked(config: RunConfig, *texts: str) -> Asked:
    """Return what a trial t asks about: these texts, of no picture."""
    examples = [Example(number, number, number, "none", 8, 8, text) for number, text in enumerate(texts)]
    return Asked(config, {example.sent_id: example for example in examples}, ["t"])


def test_a_question_that_kills_the_model_is_not_asked_again_by_a_trial(
    ray_local: str, smoke: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(priors, "PriorActor", DyingPrior)
    config = changed(smoke, prior={"batch_size": 1}, cluster={"max_item_retries": 1})
    asked = _asked(config, FINE, KILLS)
    known = ask_priors(config, SweepFolder(config.root / "s"), [asked])["t"]
    run = RunFolder.open(config).create()
    with open_store(config.cache_dir) as store:
        assert fill_priors("labeled", list(asked.examples.values()), run, store, known, 1) == 0
    found = read_priors(run.priors_path("labeled"))
    assert found[1].failure.startswith("died: 2 prior actors") and found[0].reply


def test_where_the_store_has_every_prior_no_actor_is_started_for_a_sweep(
    ray_local: str, smoke: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(priors, "PriorActor", NeverStarts)
    asked, canned = _asked(smoke, FINE), CannedMllm()
    identity = identify_prior(prior_of_actors(smoke))
    canned.fingerprint = identity.fingerprint
    with open_store(smoke.cache_dir) as store:
        fill_priors("labeled", list(asked.examples.values()), RunFolder.open(smoke).create(), store, canned, 1)
    known = ask_priors(smoke, SweepFolder(smoke.root / "s"), [asked])["t"]
    assert known.identity() == identity


def test_a_sweep_waits_in_line_for_its_prior_actors(
    ray_local: str, smoke: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(priors, "PriorActor", DyingPrior)
    told, say = held("prior-0", {"prior_gpu": 1.0})
    monkeypatch.setattr(tuning, "say", say)
    ask_priors(smoke, SweepFolder(smoke.root / "s"), [_asked(smoke, FINE)])
    assert told[0] == "waiting for 1 prior_gpu (0 free); held by prior-0 of l2l-other-1a2b"
    assert told[-1] == "the language model was asked about 1 of 1 text"
