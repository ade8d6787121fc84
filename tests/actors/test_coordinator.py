"""The coordinator without Ray: what it remembers, and who it wakes."""

from __future__ import annotations

import asyncio
import json

import pytest

from l2l_ray.actors.coordinator import MOST_NOTES, Coordinator, RunStopped
from l2l_ray.config import RunConfig
from l2l_ray.errors import CheckpointError, LedgerError
from l2l_ray.loop.state.ledger import Ledger, LedgerEntry
from l2l_ray.loop.state.position import Stage
from l2l_ray.loop.state.run_folder import RunFolder


def _entry(shard: int, round_index: int = 0) -> LedgerEntry:
    path = f"l2l/labels/r{round_index:03d}-s{shard:05d}.parquet"
    return LedgerEntry("l2l", round_index, shard, path, "9f", 0, 16, 12, 0.6, 0.1)


def _version(run: RunFolder, version: int, **figures: float) -> None:
    folder = run.version_dir("l2l", version)
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(figures))
    (folder / "version.json").write_text(json.dumps({"method": "l2l", "version": version, "step": 0}))


@pytest.fixture
def run(smoke: RunConfig) -> RunFolder:
    return RunFolder.open(smoke).create()


def test_the_first_commit_of_a_shard_wins(run: RunFolder) -> None:
    async def story() -> None:
        coordinator = Coordinator(run.config, 2, 1)
        assert await coordinator.commit(_entry(0))
        assert not await coordinator.commit(_entry(0))
        assert await coordinator.has(("l2l", 0, 0)) and not await coordinator.has(("l2l", 0, 1))

    asyncio.run(story())
    assert len(run.ledger_path.read_text().splitlines()) == 1


def test_labels_wake_the_waiter_when_the_last_shard_is_in(run: RunFolder) -> None:
    async def story() -> None:
        coordinator = Coordinator(run.config, 2, 1)
        waiter = asyncio.create_task(coordinator.wait_labels("l2l", 0, 10.0))
        await coordinator.commit(_entry(1))
        await asyncio.sleep(0.05)
        assert not waiter.done()
        await coordinator.commit(_entry(0))
        assert await waiter
        assert len(Ledger(run.ledger_path).entries("l2l", 0)) == 2, "whoever waited reads the file"

    asyncio.run(story())


def test_it_shows_what_training_waits_for_while_it_waits(run: RunFolder) -> None:
    async def story() -> None:
        coordinator = Coordinator(run.config, 1, 1)
        labels = asyncio.create_task(coordinator.wait_labels("l2l", 0, 10.0))
        await asyncio.sleep(0.05)
        assert (await coordinator.news(0, 1.0)).status.training_waits_for == "the labels of l2l round 0"
        await coordinator.commit(_entry(0))
        await labels
        assert (await coordinator.news(0, 1.0)).status.training_waits_for == ""
        assert await coordinator.wait_labels("l2l", 1, 0.01) is None
        assert (await coordinator.news(0, 1.0)).status.training_waits_for == ""

    asyncio.run(story())


def test_it_shows_what_training_waits_for_outside_of_the_run(run: RunFolder) -> None:
    async def story() -> None:
        coordinator = Coordinator(run.config, 1, 1)
        news = await coordinator.news(0, 1.0)
        await coordinator.training_waits("another run")
        assert (await coordinator.news(news.number, 1.0)).status.training_waits_for == "another run"
        await coordinator.training_waits("")
        assert (await coordinator.news(0, 1.0)).status.training_waits_for == ""
        await coordinator.stop("disk full")
        with pytest.raises(RunStopped, match="disk full"):
            await coordinator.training_waits("another run")

    asyncio.run(story())


def test_a_wait_ends_after_its_timeout(run: RunFolder) -> None:
    coordinator = Coordinator(run.config, 2, 1)
    assert asyncio.run(coordinator.wait_labels("l2l", 0, 0.05)) is None


def test_a_round_with_nothing_to_label_is_complete(run: RunFolder) -> None:
    assert asyncio.run(Coordinator(run.config, 0, 1).wait_labels("l2l", 0, 0.05)) == 0


def test_priors_are_ready_when_their_file_is_there(run: RunFolder) -> None:
    async def story() -> None:
        coordinator = Coordinator(run.config, 2, 1)
        waiter = asyncio.create_task(coordinator.wait_priors("val", 10.0))
        await coordinator.priors_progress("val", 3, 4)
        await asyncio.sleep(0.05)
        assert not waiter.done()
        run.priors_path("val").parent.mkdir()
        run.priors_path("val").touch()
        await coordinator.priors_progress("val", 4, 4)
        assert await waiter

    asyncio.run(story())


def test_priors_that_a_run_already_had_are_ready_at_once(run: RunFolder) -> None:
    run.priors_path("val").parent.mkdir()
    run.priors_path("val").touch()
    assert asyncio.run(Coordinator(run.config, 2, 1).wait_priors("val", 0.05))
    assert not asyncio.run(Coordinator(run.config, 2, 1).wait_priors("testA", 0.05))


def test_what_is_only_shown_may_fail_to_be_written(run: RunFolder) -> None:
    (run.path / "state.json").mkdir()  # as a full disk, this is in the way of the file

    async def story() -> None:
        coordinator = Coordinator(run.config, 2, 1)
        waiter = asyncio.create_task(coordinator.wait_labels("l2l", 0, 10.0))
        assert await coordinator.commit(_entry(0))
        await asyncio.sleep(0.05)
        await coordinator.stop("disk full")
        with pytest.raises(RunStopped, match="disk full"):
            await waiter

    asyncio.run(story())


def test_stop_releases_everybody(run: RunFolder) -> None:
    async def story() -> None:
        coordinator = Coordinator(run.config, 2, 1)
        waiter = asyncio.create_task(coordinator.wait_labels("l2l", 0, 10.0))
        await asyncio.sleep(0.05)
        await coordinator.stop("disk full")
        with pytest.raises(RunStopped, match="disk full"):
            await waiter
        with pytest.raises(RunStopped, match="disk full"):
            await coordinator.wait_priors("val", 10.0)
        with pytest.raises(RunStopped, match="disk full"):
            await coordinator.progress(Stage("l2l", 0), 1, 4, {})
        with pytest.raises(RunStopped, match="disk full"):
            await coordinator.find_versions()

    asyncio.run(story())


def test_an_error_of_training_is_kept_for_the_driver(run: RunFolder) -> None:
    async def story() -> None:
        coordinator = Coordinator(run.config, 2, 1)
        first = await coordinator.news(0, 10.0)
        assert first.training_error is None
        waiter = asyncio.create_task(coordinator.news(first.number, 10.0))
        await asyncio.sleep(0.05)
        assert not waiter.done()
        await coordinator.report_error(CheckpointError("disk full"))
        error = (await waiter).training_error
        assert isinstance(error, CheckpointError) and str(error) == "disk full"

    asyncio.run(story())


def test_the_driver_learns_what_actors_warn_of_each_line_once_and_not_without_end(run: RunFolder) -> None:
    async def story() -> tuple[str, ...]:
        coordinator = Coordinator(run.config, 2, 1)
        for line in ["out of memory", "out of memory", *map(str, range(2 * MOST_NOTES))]:
            await coordinator.noted(line)
        return (await coordinator.news(0, 0.0)).notes

    notes = asyncio.run(story())
    assert notes[:2] == ("out of memory", "0")
    assert len(notes) == MOST_NOTES + 1 and notes[-1].startswith("there is more to warn of")


def test_a_restarted_coordinator_knows_what_lies_on_disk(run: RunFolder) -> None:
    asyncio.run(Coordinator(run.config, 2, 1).commit(_entry(0)))
    _version(run, 0)
    again = Coordinator(run.config, 2, 1)
    assert asyncio.run(again.has(("l2l", 0, 0))) and not asyncio.run(again.has(("l2l", 0, 1)))
    assert asyncio.run(again.news(0, 1.0)).published == {("l2l", 0)}


def test_on_a_node_that_does_not_see_the_folder_it_makes_none(smoke: RunConfig) -> None:
    config = smoke.model_copy(update={"cluster": smoke.cluster.model_copy(update={"start_timeout_s": 0.1})})
    with pytest.raises(LedgerError, match=r"config\.yaml is not seen here, .*: put cluster-wide runs there"):
        Coordinator(config, 2, 1)
    assert not smoke.root.exists()


def test_each_version_is_logged_once_whoever_looks(run: RunFolder) -> None:
    coordinator = Coordinator(run.config, 2, 1)
    _version(run, 0)
    asyncio.run(coordinator.find_versions())
    asyncio.run(coordinator.find_versions())
    _version(run, 1, loss=0.5)
    Coordinator(run.config, 2, 1)
    Coordinator(run.config, 2, 1)
    events = [event for event in run.events() if event["event"] == "train"]
    assert [(e["version"], e.get("loss")) for e in events] == [(0, None), (1, 0.5)]


def test_a_half_written_version_is_not_published(run: RunFolder) -> None:
    run.version_dir("l2l", 0).mkdir(parents=True)
    (run.train_dir / ".l2l-v0001.77.tmp").mkdir()
    (run.train_dir / ".l2l-v0001.77.tmp" / "version.json").write_text("{}")
    assert asyncio.run(Coordinator(run.config, 2, 1).news(0, 1.0)).published == frozenset()


def test_a_mid_round_state_is_no_version(run: RunFolder) -> None:
    folder = run.train_dir / "l2l-v0001-s00010"
    folder.mkdir(parents=True)
    (folder / "version.json").write_text("{}")
    assert asyncio.run(Coordinator(run.config, 2, 1).news(0, 1.0)).published == frozenset()


def test_the_state_file_says_how_far_the_run_is(run: RunFolder) -> None:
    async def story() -> None:
        coordinator = Coordinator(run.config, 2, 1)
        await coordinator.commit(_entry(0))
        await coordinator.progress(Stage("l2l", 0), 3, 4, {"loss": 0.7})
        await coordinator.evaluated("l2l", 1, "val", 0.41)
        await coordinator.stop("the end")

    asyncio.run(story())
    state = json.loads((run.path / "state.json").read_text())
    assert state["shards_committed"] == 1 and state["shards_total"] == 4
    assert state["train"] == {"stage": "l2l round 0", "done": 3, "total": 4, "loss": 0.7}
    assert state["mean_iou"] == {"l2l v1 val": 0.41} and state["stopped"] == "the end"
