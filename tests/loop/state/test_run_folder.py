"""One run, one folder: it starts in an empty place, resumes under the same settings, and stays once it is finished."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from l2l_ray.config import RunConfig, read_config
from l2l_ray.errors import CheckpointError, ConfigError, DataError, OutageError
from l2l_ray.loop.state.ledger import Ledger, LedgerEntry
from l2l_ray.loop.state.position import Position
from l2l_ray.loop.state.run_folder import RunFolder, continued
from l2l_ray.loop.state.version_record import write_position
from l2l_ray.types import Skip
from tests.whole_run import changed


def _with(config: RunConfig, **changes: object) -> RunConfig:
    return RunConfig.model_validate(config.model_dump() | changes)


def test_a_new_run_saves_its_config_and_environment(smoke: RunConfig) -> None:
    run = RunFolder.open(smoke).create()
    assert run.path == smoke.run_dir
    assert read_config(run.path / "config.yaml") == smoke
    environment = json.loads((run.path / "env.json").read_text())
    assert environment["seed"] == smoke.loop.seed
    assert environment["git"]
    assert environment["versions"]["torch"][0].isdigit()


def test_looking_writes_nothing(smoke: RunConfig) -> None:
    run = RunFolder.open(smoke)
    assert run.path == smoke.run_dir and not smoke.root.exists()


def test_the_environment_is_saved_where_there_is_no_git(smoke: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    run = RunFolder.open(smoke).create()
    assert json.loads((run.path / "env.json").read_text())["git"] == "unknown"


def test_a_place_that_cannot_be_written_is_named(smoke: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    beside = _with(smoke, run_root=str(tmp_path / "file"))
    with pytest.raises(
        ConfigError, match=r"cannot start a run in .*/file/smoke: .*/file is a file; choose another --run"
    ):
        RunFolder.open(beside)
    with pytest.raises(ConfigError, match=r"cannot start a run in .*/file/smoke: .*; choose another --run_root"):
        RunFolder(beside.run_dir, beside).create()
    run = RunFolder.open(smoke).create()
    (run.path / "skips.jsonl").mkdir()
    with pytest.raises(
        DataError, match=r"cannot write .*skips\.jsonl: .*; check its place and permissions and start again"
    ):
        run.save_skips([])


def test_no_run_lies_in_another_one_or_around_others(smoke: RunConfig) -> None:
    first = RunFolder.open(smoke.model_copy(update={"name": "compare/refshapes/first"})).create()
    (smoke.root / "lost").mkdir()
    (smoke.root / "lost" / "ledger.jsonl").touch()
    RunFolder.open(smoke.model_copy(update={"name": "compare/refshapes/second"}))
    for name, message in (
        ("compare/refshapes/first/inner", f"{first.path} is a run itself"),
        ("lost/inner", "lost is a run itself"),
        ("compare/refshapes", f"others lie in it, as {first.path}"),
        ("compare", f"others lie in it, as {first.path}"),
    ):
        with pytest.raises(ConfigError, match=f"{message}.*; choose another --name"):
            RunFolder.open(smoke.model_copy(update={"name": name}))


def test_a_run_that_began_under_a_name_that_no_list_shows_is_still_read(smoke: RunConfig) -> None:
    hidden = smoke.model_copy(update={"name": "data/.hidden"})
    with pytest.raises(ConfigError, match="--name cannot be 'data/.hidden': cache and data hold what runs share"):
        RunFolder.open(hidden)
    folder = RunFolder(hidden.run_dir, hidden).create()
    assert read_config(folder.path / "config.yaml") == hidden
    assert RunFolder.open(hidden.model_copy(update={"resume": True})).path == folder.path


def test_an_unfinished_run_needs_resume(smoke: RunConfig) -> None:
    RunFolder.open(smoke).create()
    with pytest.raises(ConfigError, match=r"unfinished run lies in .*smoke; continue it with --resume"):
        RunFolder.open(smoke)
    assert RunFolder.open(_with(smoke, resume=True)).path == smoke.run_dir


def test_a_run_of_another_version_of_the_code_is_not_resumed(smoke: RunConfig) -> None:
    saved = RunFolder.open(smoke).create().path / "config.yaml"
    content = yaml.safe_load(saved.read_text())
    content["selector"] |= {"credit_radius": 1}
    saved.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=r"smoke/config\.yaml is no config of this version .* or start another run: "):
        RunFolder.open(_with(smoke, resume=True))


def test_a_command_that_is_repeated_starts_a_run_and_then_continues_it(smoke: RunConfig) -> None:
    again = _with(smoke, resume_if_begun=True)
    assert not RunFolder.open(again).create().config.resume
    assert RunFolder.open(again).config.resume
    RunFolder.open(again).create().mark_finished()
    assert RunFolder.open(again).finished
    with pytest.raises(ConfigError, match="started with other settings"):
        RunFolder.open(_with(again, compare=("supervised",)))


def test_what_says_how_much_fits_into_memory_may_change_when_a_run_goes_on(smoke: RunConfig) -> None:
    RunFolder.open(smoke).create()
    loop = {"micro_batch": 2, "eval_batch": 4, "compile": True}
    prior = {"batch_size": 2, "device": "cpu", "max_wait_s": 1.0, "timeout_s": 9.0}
    again = changed(_with(smoke, resume=True), loop=loop, segmenter={"checkpoint_activations": True}, prior=prior)
    resumed = RunFolder.open(again)
    assert resumed.config.loop.micro_batch == 2 and resumed.config.segmenter.checkpoint_activations


def test_a_name_that_nobody_used_cannot_be_resumed(smoke: RunConfig) -> None:
    with pytest.raises(
        ConfigError, match=r"no run in .*/smoke to continue \(runs there: none\); start it without --res"
    ):
        RunFolder.open(_with(smoke, resume=True))
    assert not smoke.root.exists()
    RunFolder.open(smoke).create()
    with pytest.raises(ConfigError, match=r"no run in .*/smok to continue \(did you mean --name smoke\?\)"):
        RunFolder.open(_with(smoke, resume=True, name="smok"))
    with pytest.raises(ConfigError, match=r"\(runs there: smoke\)"):
        RunFolder.open(_with(smoke, resume=True, name="other"))


def test_who_may_start_or_continue_asks_which(smoke: RunConfig) -> None:
    assert not continued(_with(smoke, resume=True)).resume
    RunFolder.open(smoke).create()
    assert continued(smoke).resume and RunFolder.open(continued(smoke)).path == smoke.run_dir


def _refuse(config: RunConfig, error: Exception, published: bool = False) -> RunFolder:
    run = RunFolder.open(config)
    with pytest.raises(type(error), match=str(error)), run.held("a local run"):
        run.create()
        run.log_event({"event": "priors"})
        (run.path / "examples").mkdir(exist_ok=True)
        if published:
            run.version_dir("l2l", 0).mkdir(parents=True)
            write_position(run.version_dir("l2l", 0), Position("l2l"))
        raise error
    return run


@pytest.mark.parametrize("name", ["smoke", "deep/in/smoke"])
def test_a_refused_start_leaves_nothing(smoke: RunConfig, name: str) -> None:
    smoke.root.mkdir()
    _refuse(_with(smoke, name=name), ConfigError("no such model"))
    assert list(smoke.root.iterdir()) == []


def test_a_refused_start_removes_only_its_own(smoke: RunConfig) -> None:
    smoke.run_dir.mkdir(parents=True)
    (smoke.run_dir / "notes.txt").touch()
    _refuse(smoke, ConfigError("no such model"))
    assert [path.name for path in smoke.run_dir.iterdir()] == ["notes.txt"]


def test_what_resume_can_continue_stays(smoke: RunConfig) -> None:
    run = _refuse(smoke, DataError("no space left; start again with --resume"))
    assert run.events() and (run.path / "config.yaml").exists()
    _refuse(continued(smoke), ConfigError("no such model"))  # not made by this start
    assert (run.path / "config.yaml").exists()
    published = _refuse(_with(smoke, name="published"), ConfigError("a bad label"), published=True)
    assert published.published("l2l") == {0} and (published.path / "config.yaml").exists()
    unserved = _refuse(_with(smoke, name="unserved"), OutageError("the server is away"))
    assert (unserved.path / "config.yaml").exists(), "--resume, which the message names, goes on"
    other = RunFolder.open(_with(smoke, name="stopped"))
    with pytest.raises(KeyboardInterrupt), other.held("a local run"):
        other.create()
        raise KeyboardInterrupt
    assert (other.path / "config.yaml").exists()


def test_what_is_committed_in_a_backup_without_its_holders_is_read(smoke: RunConfig) -> None:
    run = RunFolder.open(smoke).create()

    def commit(shard: int) -> None:
        with RunFolder.open(continued(smoke)).held("a Ray job") as held:
            assert Ledger(run.ledger_path, held.epoch).commit(LedgerEntry("l2l", 0, shard, "x", "0", 0, 1, 1, 0.5, 1.0))

    commit(0)
    commit(1)
    shutil.rmtree(run.path / "lease")
    commit(2)
    assert Ledger(run.ledger_path).complete("l2l", 0, 3)


def test_a_finished_run_opens_and_says_so(smoke: RunConfig) -> None:
    run = RunFolder.open(smoke).create()
    assert not run.finished
    run.mark_finished()
    assert RunFolder.open(smoke).finished


def test_resuming_under_other_settings_is_refused_by_field_name(smoke: RunConfig) -> None:
    RunFolder.open(smoke).create()
    loop = smoke.loop.model_dump() | {"rounds": 9}
    changed = _with(smoke, resume=True, loop=loop, compare=("pwa",))
    with pytest.raises(ConfigError, match=r"compare was \[\], now \['pwa'\]; loop\.rounds was 2, now 9"):
        RunFolder.open(changed)


def test_where_and_how_fast_may_change_between_start_and_resume(smoke: RunConfig) -> None:
    RunFolder.open(smoke).create()
    cluster = smoke.cluster.model_dump() | {"num_workers": 4, "prior_resources": {"GPU": 1.0}}
    assert RunFolder.open(_with(smoke, resume=True, cluster=cluster)).config.cluster.num_workers == 4


def test_a_start_that_was_killed_before_the_config_was_saved_starts_again(smoke: RunConfig) -> None:
    smoke.run_dir.mkdir(parents=True)
    (smoke.run_dir / "config.tmp").write_text("loop: {rou")
    assert read_config(RunFolder.open(smoke).create().path / "config.yaml") == smoke


def test_only_whole_versions_count_as_published(smoke: RunConfig) -> None:
    run = RunFolder.open(smoke).create()
    whole = ["l2l-v0000", "l2l-v0012", "pwa-v0003"]
    names = [*whole, Position("l2l", 1, 40).folder_name, ".l2l-v0002.77.tmp"]
    for name in names:
        (run.train_dir / name).mkdir(parents=True)
        write_position(run.train_dir / name, Position(name.split("-")[0]))
    (run.train_dir / "l2l-v0005").mkdir()  # no version.json: not whole
    assert run.published("l2l") == {0, 12}
    assert run.published("pwa") == {3}
    assert run.version_dir("l2l", 12).name == "l2l-v0012"


def test_events_survive_a_crash_in_the_middle_of_a_line(smoke: RunConfig) -> None:
    run = RunFolder.open(smoke).create()
    assert run.events() == []
    run.log_event({"event": "train", "version": 1})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"event": "tra')
    assert run.events() == [{"event": "train", "version": 1}]
    run.log_event({"event": "train", "version": 2})
    assert [event["version"] for event in run.events()] == [1, 2]


def test_skips_come_back(smoke: RunConfig) -> None:
    run = RunFolder.open(smoke).create()
    assert run.skips() == []
    skips = [Skip("missing_image", 7, "/data/12.jpg", "no such file"), Skip("empty", 8, "", "the sentence is empty")]
    run.save_skips(skips)
    assert run.skips() == skips
    run.save_skips([])
    assert run.skips() == []
    assert (run.path / "skips.jsonl").exists()


def test_methods_are_the_compared_ones_and_the_main_one_last(smoke: RunConfig) -> None:
    assert RunFolder(Path(), _with(smoke, compare=("supervised", "fixed_threshold@0.8"))).methods == (
        "supervised",
        "fixed_threshold@0.8",
        "l2l",
    )


def test_a_full_disk_is_named_and_loses_no_event(smoke: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder.open(smoke).create()
    run.log_event({"event": "train", "version": 1})
    real = Path.open

    def full(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if mode == "ab+":
            raise OSError(28, "No space left on device")
        return real(self, mode, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(DataError, match="metrics.jsonl.*No space left.*start again with --resume"):
            run.log_event({"event": "train", "version": 2})
    assert run.events() == [{"event": "train", "version": 1}]


def test_the_end_of_a_run_removes_what_killed_processes_left(smoke: RunConfig) -> None:
    run = RunFolder.open(smoke).create()
    (run.train_dir / ".l2l-v0001.7.tmp").mkdir(parents=True)
    (run.train_dir / ".l2l-v0001.7.tmp" / "teacher.safetensors").touch()
    (run.path / "l2l" / "labels").mkdir(parents=True)
    (run.path / "l2l" / "labels" / ".r000-s00000.parquet.7.tmp").touch()
    run.mark_finished()
    assert run.finished and not list(run.path.rglob("*.tmp"))


@pytest.mark.parametrize("content", ["[]", "{}", "not JSON", '{"method": "l2l", "version": null}'])
def test_a_choice_that_cannot_be_read_is_one_line(smoke: RunConfig, content: str) -> None:
    run = RunFolder(smoke.run_dir, smoke)
    run.path.mkdir(parents=True)
    (run.path / "selection.json").write_text(content)
    with pytest.raises(CheckpointError, match="has chosen no version yet"):
        run.chosen_version()
