"""What a list says of runs: going on, stopped, finished, of another version, damaged in every way we could think of."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from l2l_ray.config import config_yaml
from l2l_ray.errors import DataError
from l2l_ray.loop.state.lease import held
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.overview.listing import ListedRun, list_runs, look
from l2l_ray.sweep.folder import SweepFolder
from tests.object_store import ObjectStore
from tests.opened_files import opened_files

Copy = Callable[..., RunFolder]


def listed(run: RunFolder) -> ListedRun:
    return look(run.path, run.path.parent)


def forgotten(run: RunFolder) -> RunFolder:
    """Return a copied run whose config says where it lies, and that was begun by `l2l run`, not by a test."""
    (run.path / "config.yaml").write_text(config_yaml(run.config))
    env = json.loads((run.path / "env.json").read_text())
    (run.path / "env.json").write_text(json.dumps({**env, "command": "/x/l2l run --preset smoke"}))
    return run


def test_a_finished_run_is_listed_with_its_main_figure(whole_run: RunFolder) -> None:
    found = listed(whole_run)
    results = json.loads((whole_run.path / "results.json").read_text())
    main = results["rows"][-1]["splits"]["val"]
    assert (found.name, found.state, found.done, found.detail, found.go_on) == ("whole", "finished", 1.0, "", "")
    assert (found.dataset, found.labeled_frac, found.methods) == ("refshapes", 0.34, ("supervised", "l2l"))
    assert found.figure is not None and found.figure.split == "val"
    ends = main["interval"]["mean_iou"]
    assert found.figure[1:4] == (main["mean_iou"], ends["low"], ends["high"])
    files = [path for path in whole_run.path.rglob("*") if path.is_file()]
    assert found.num_bytes == sum(path.stat().st_size for path in files)
    assert found.active == max(path.stat().st_mtime for path in files)


def test_a_run_that_somebody_works_in_says_who(copied: Copy) -> None:
    run = copied()
    with held(run.path, "a local run"):
        found = listed(run)
        assert found.state == "running" and found.detail.startswith(f"a local run, process {os.getpid()} on ")
        assert found.go_on == ""
    assert listed(run).state == "stopped"


def test_a_run_that_has_just_begun_has_no_config_yet(tmp_path: Path) -> None:
    path = tmp_path / "new"
    path.mkdir()
    with held(path, "a local run"):
        assert look(path, tmp_path).state == "running"
        (path / "keep").write_text("")
    shutil.copytree(path, tmp_path / "killed")
    (tmp_path / "killed" / "keep").unlink()
    (tmp_path / "killed" / "lease").mkdir(exist_ok=True)
    found = look(tmp_path / "killed", tmp_path)
    assert found.state == "stopped" and "before anything was written" in found.detail


def gave_up(run: RunFolder, *names: str) -> None:
    """Remove files of a run as one that had not come so far."""
    for name in names:
        path = run.path / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    lines = (run.path / "digests.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if not any(json.loads(line)["path"].startswith(name) for name in names)]
    (run.path / "digests.jsonl").write_text("".join(kept))


@pytest.mark.parametrize(
    ("lost", "steps", "where"),
    [
        ((), 22, "trained; figures or report are missing"),
        (("train/l2l-v0002",), 19, "in l2l round 1"),
        (("train/l2l-v0002", "train/l2l-v0001"), 16, "in l2l round 0"),
        (("train/l2l-v0002", "train/l2l-v0001", "train/l2l-v0000"), 16, "in l2l round 0"),
        (("train",), 0, "before the first version"),
    ],
)
def test_a_stopped_run_says_how_far_it_is_and_how_it_goes_on(
    copied: Copy, lost: tuple[str, ...], steps: int, where: str
) -> None:
    run = forgotten(copied())
    gave_up(run, "results.json", "selection.json", *lost)
    found = listed(run)
    # Steps: burn-in 4, two folds of 3, then two rounds of 3 steps of two methods: 22.
    assert (found.state, found.detail) == ("stopped", where) and found.done == pytest.approx(steps / 22)
    assert found.go_on == f"l2l run --config {run.path / 'config.yaml'} --resume"
    assert found.figure is not None and found.figure.version == 2, "the last that was measured"


def test_a_run_that_was_moved_goes_on_where_it_is(copied: Copy) -> None:
    run = forgotten(copied())
    moved = run.path.rename(run.path.with_name("its new name"))
    found = look(moved, moved.parent)
    assert found.go_on.endswith(f"--run_root {moved.parent} --name 'its new name' --resume")


@pytest.mark.parametrize(
    ("command", "directory", "goes_on"),
    [
        ("/venv/bin/l2l label photos --preset smoke", None, "l2l label photos --preset smoke"),
        ("/venv/bin/l2l label photos", "/my data", "cd '/my data' && l2l label photos"),
        ("benchmarks/x.py --seed 3", "/code", "with what began it: cd /code && benchmarks/x.py --seed 3"),
        (None, None, "l2l run --config "),
        (None, "/code", "l2l run --config "),
        (7, None, "with what began it: 7"),
    ],
)
def test_what_began_a_run_goes_on_with_it_and_there(
    copied: Copy, command: object, directory: object, goes_on: str
) -> None:
    run = forgotten(copied())
    (run.path / "env.json").write_text(json.dumps({"command": command, "directory": directory}))
    assert listed(run).go_on.startswith(goes_on)


def test_a_run_on_ray_goes_on_there_and_a_trial_with_its_sweep(copied: Copy) -> None:
    run = forgotten(copied())
    with held(run.path, "a Ray job"):
        pass
    assert listed(run).go_on.startswith("ray job submit -- python jobs/selfevolve.py --config ")
    (run.path.parent / "sweep.json").write_text(json.dumps({"words": ["label_ratio", "--preset", "my own"]}))
    assert listed(run).go_on == "python jobs/sweep.py label_ratio --preset 'my own' --resume"
    given = {"script": "/code/jobs/sweep.py", "words": ["my.py"], "directory": "/here"}
    (run.path.parent / "sweep.json").write_text(json.dumps(given))
    assert listed(run).go_on == "cd /here && python /code/jobs/sweep.py my.py --resume"
    sweep = SweepFolder(run.path.parent)
    sweep.log("stopped", run.path.name, version=1)
    assert (listed(run).state, listed(run).detail, listed(run).go_on) == ("stopped", "by its sweep, at version 1", "")
    sweep.log("started", run.path.name)
    assert listed(run).go_on.endswith("my.py --resume")
    (run.path.parent / "sweep.json").write_text("{")
    assert listed(run).go_on.startswith("ray job submit")


@pytest.mark.parametrize(
    ("name", "content", "detail"),
    [
        ("config.yaml", None, "config.yaml is absent"),
        ("config.yaml", b"", "config.yaml holds no settings"),
        ("config.yaml", b"- 1", "config.yaml holds no settings"),
        ("config.yaml", b"loop: {a: [", "config.yaml is not YAML: "),
        ("config.yaml", b"\xff\xfe\x00", "config.yaml cannot be read: "),
        ("results.json", None, "results.json is lost; going on makes it again"),
        ("results.json", b'{"rows": [', "results.json has 10 bytes instead of "),
        (
            "results.json",
            b'{"rows": [{"method": 3, "splits": [1]}], "dataset": [1]}',
            "results.json has 56 bytes instead of ",
        ),
        ("examples/val.parquet", None, "examples/val.parquet is lost"),
    ],
)
def test_damage_is_named(copied: Copy, name: str, content: bytes | None, detail: str) -> None:
    run = copied(without=())
    path = run.path / name
    path.unlink() if content is None else path.write_bytes(content)
    found = listed(run)
    assert found.state == "damaged" and found.detail.startswith(detail.partition(" instead")[0])
    assert bool(found.go_on) == (name != "config.yaml")


def test_results_that_are_no_results_are_damage_where_nothing_was_promised_of_them(copied: Copy) -> None:
    run = copied(without=("digests.jsonl",))
    (run.path / "results.json").write_text("[")
    assert listed(run).detail.startswith("results.json is not JSON")


def test_a_run_of_another_version_is_named_with_what_made_it(copied: Copy) -> None:
    run = copied(without=())
    text = (run.path / "config.yaml").read_text()
    (run.path / "config.yaml").write_text(text + "horizon: 3\n")
    found = listed(run)
    assert found.state == "of another version" and found.detail.startswith("made by l2l-ray ")
    assert found.detail.endswith(", whose settings this one does not read (horizon)")
    assert found.figure is not None, "its results are shown all the same"
    (run.path / "env.json").write_text("3")
    assert listed(run).detail.startswith("of an unknown version")


@pytest.mark.parametrize("place", [("name: l2l", "name: {}"), ("- supervised", "- {}"), ("- supervised", "- '{}@0.8'")])
def test_a_run_whose_selector_is_not_found_here_says_where_to_put_it(copied: Copy, place: tuple[str, str]) -> None:
    run = copied(without=())
    text, (before, after) = (run.path / "config.yaml").read_text(), place
    assert before in text
    (run.path / "config.yaml").write_text(text.replace(before, after.format("my_rules:mean_certainty")))
    found = listed(run)
    assert found.state == "selector not found" and "put its folder on PYTHONPATH" in found.detail


@pytest.mark.parametrize("content", ['{"pid": "x", "started": "y", "process": 4}', "{", "[]", "\0"])
def test_a_lease_that_is_none_hides_nothing(copied: Copy, content: str) -> None:
    run = copied(without=())
    (run.path / "lease").mkdir()
    (run.path / "lease" / "000003.json").write_text(content)
    assert listed(run).name == "whole" and listed(run).num_bytes > 0


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    found = look(tmp_path / "gone", tmp_path)
    assert found.state == "damaged" and found.detail.startswith("cannot be read: ") and "gone" in found.detail


def test_runs_are_found_in_folders_and_nothing_else_is(copied: Copy, tmp_path: Path) -> None:
    run = copied(without=())
    root = run.path.parent
    for place in ("compare/refshapes/row", "sweep/trial", ".hidden/run", "data/mine", "cache/x", "a/b/c/d/e/deep"):
        (root / place).mkdir(parents=True)
        (root / place / "config.yaml").write_text("{}")
    (root / "sweep" / "priors-0").mkdir()
    (root / "sweep" / "priors-0" / "metrics.jsonl").write_text("")
    (root / "whole" / "panels" / "config.yaml").write_text("{}")
    (root / "a file").write_text("")
    (root / "circle").symlink_to(root)
    (root / "link").symlink_to(run.path)
    names = {found.name: found.group for found in list_runs(root)}
    expected = {"whole": "", "link": "", "compare/refshapes/row": "compare/refshapes", "sweep/trial": "sweep"}
    assert names == expected
    (root / "data" / "config.yaml").write_text("{}")
    assert "data" in {found.name for found in list_runs(root)}, "a run may be called so"


def test_the_last_active_comes_first(copied: Copy) -> None:
    first, second = copied(name="first"), copied(name="second")
    os.utime(first.path / "FINISHED" if first.finished else first.path / "config.yaml", (9e9, 9e9))
    assert [run.name for run in list_runs(first.path.parent)] == ["first", "second"]
    os.utime(second.path / "config.yaml", (9.1e9, 9.1e9))
    assert [run.name for run in list_runs(first.path.parent)] == ["second", "first"]


def test_what_is_no_run_root_is_refused(whole_run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no run root .*nowhere; give the folder of all runs"):
        list_runs(tmp_path / "nowhere")
    with pytest.raises(
        DataError, match=f"is a run folder, not a folder of runs; give the one above it: {whole_run.path.parent}"
    ):
        list_runs(whole_run.path)
    assert list_runs(tmp_path) == []


def test_runs_in_an_object_store_are_listed_too(store: ObjectStore, whole_run: RunFolder) -> None:
    root = store.place("runs")
    for path in sorted(path for path in whole_run.path.rglob("*") if path.is_file()):
        (root / "group" / "whole" / path.relative_to(whole_run.path)).write_bytes(path.read_bytes())
    (root / "broken" / "env.json").write_text("{}")
    broken, found = sorted(list_runs(root), key=lambda run: run.name)
    assert (broken.state, broken.detail.partition(";")[0]) == ("damaged", "config.yaml is absent")
    here = listed(whole_run)
    assert (found.name, found.state, found.figure) == ("group/whole", "finished", here.figure)
    assert found.num_bytes == here.num_bytes and found.active > here.active - 60


def test_nothing_is_written_and_no_heavy_library_is_loaded(copied: Copy) -> None:
    run = copied()
    before = {path: path.stat().st_mtime_ns for path in run.path.parent.rglob("*")}
    code = (
        "import sys; from l2l_ray import cli; cli.main(['runs', '--run_root', sys.argv[1]]); "
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    words = [sys.executable, "-c", code, str(run.path.parent)]
    out = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120).stdout.splitlines()
    assert out[1].startswith("whole ")
    assert not {"torch", "pandas", "pyarrow", "transformers", "ray", "matplotlib"} & set(out[-1].split())
    assert {path: path.stat().st_mtime_ns for path in run.path.parent.rglob("*")} == before


def test_of_a_run_a_handful_of_small_files_is_read(whole_run: RunFolder) -> None:
    with opened_files() as opened:
        listed(whole_run)
    read = {path for path in map(Path, opened) if path.is_relative_to(whole_run.path) and path.is_file()}
    assert whole_run.path / "config.yaml" in read and len(read) < 10
    assert sum(path.stat().st_size for path in read) < 200_000
