"""One whole run of the method, shrunk to seconds, made once per test session and only read; what tests compare of runs;
and a disk that is full for the length of a `with` block.

The run keeps its embedded data, priors and burn-in under `run_root/cache`. Other runs under the same root therefore
branch from the same burn-in and ask the MLLM nothing, as runs under one root do outside of tests.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from l2l_ray.config import RunConfig, smoke_config
from l2l_ray.loop.state.run_folder import RunFolder

Outcome = dict[str, Any]
FullDisk = Callable[[int], AbstractContextManager[None]]


def changed(config: RunConfig, **fields: Any) -> RunConfig:
    """Return the config with some fields changed; a dict changes fields of that section."""
    content = config.model_dump()
    for name, value in fields.items():
        content[name] = content[name] | value if isinstance(value, dict) else value
    return RunConfig.model_validate(content)


def tiny_config(root: Path) -> RunConfig:
    """Return the smoke preset with fewer of everything, in full precision, so that equal means equal."""
    return changed(
        smoke_config(),
        run_root=str(root),
        name="whole",
        compare=("supervised",),
        data={"num_train_refs": 36, "num_eval_refs": 4, "benchmark_frac": 0.34},
        selector={"warmup_updates": 2, "round_updates": 1, "update_batch": 6, "max_unlabeled": 8, "group_size": 3},
        loop={
            "burn_in_steps": 4, "fold_steps": 3, "round_steps": 3, "labeled_batch": 4, "unlabeled_batch": 4,
            "shard_size": 9, "eval_batch": 32, "autocast": False,
        },
    )  # fmt: skip


class Killed(BaseException):
    """Stands in for SIGKILL: nothing of ours catches it."""


def kill_at(patch: pytest.MonkeyPatch, target: str, when: str) -> None:
    """Kill the run where a file or folder gets its name, "before" or "after" it."""
    replace = os.replace

    def dies(source: str | Path, final: str | Path) -> None:
        hit = str(final).endswith(target)
        if hit and when == "before":
            raise Killed
        replace(source, final)
        if hit:
            raise Killed

    patch.setattr(os, "replace", dies)


def killed_before(config: RunConfig, target: str) -> RunFolder:
    """Run until the file or folder whose path ends in `target` would get its name."""
    from l2l_ray.loop.local import run_local

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, target, "before")
        run_local(config)
    return RunFolder(config.run_dir, config)


def run_up_to_the_report(config: RunConfig) -> RunFolder:
    """Run until all figures are there; drawing them takes as long as making them."""
    return killed_before(config, "panels/index.json")


@contextmanager
def single_thread() -> Iterator[None]:
    """Let torch compute on one thread: sums are then added up in one order."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Run the test on one torch thread."""
    with single_thread():
        yield


@pytest.fixture
def full_disk() -> FullDisk:
    """Give a function of a limit in bytes: no file can grow beyond it, and a write fails part of the way, really."""

    @contextmanager
    def limited(limit: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Give a finished run of `tiny_config`, one for all test processes. Read it; work on a copy of it (`copied`)."""
    from l2l_ray.loop.local import run_local

    shared = tmp_path_factory.getbasetemp()
    shared = (shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared) / "whole"
    config = tiny_config(shared)
    with FileLock(f"{shared}.lock"), single_thread():
        run = RunFolder(config.run_dir, config)
        return run if run.finished else run_local(config)


def copy_file(source: str, target: str) -> None:
    """Copy a file of a run; weights become links: they are most of its bytes, and are replaced, never written into."""
    is_large = Path(source).suffix in (".safetensors", ".pt")
    os.link(source, target) if is_large else shutil.copy2(source, target)


@pytest.fixture
def copied(whole_run: RunFolder, tmp_path: Path) -> Callable[..., RunFolder]:
    """Give a function that copies the finished run into a root of its own; nobody has held it.

    The cache there is empty, so training makes its own burn-in, unless the copy is `with_burn_in`.
    """

    def copy(without: tuple[str, ...] = ("FINISHED",), with_burn_in: bool = False, **fields: Any) -> RunFolder:
        config = changed(whole_run.config, run_root=str(tmp_path / "copies"), **fields)
        ignored = shutil.ignore_patterns(*without, "lease")
        shutil.copytree(whole_run.path, config.run_dir, ignore=ignored, copy_function=copy_file)
        if with_burn_in:
            places = (run.cache_dir / "burn_in" for run in (whole_run.config, config))
            shutil.copytree(*places, copy_function=copy_file)
        return RunFolder(config.run_dir, config)

    return copy


def ledger_lines(run: RunFolder, method: str) -> list[dict[str, Any]]:
    """Return the ledger's lines of one method by key, without how long each took and which attempt's file it is."""
    from l2l_ray.loop.state.ledger import Ledger

    ledger = Ledger(run.ledger_path)
    entries = [entry for key in sorted(ledger.keys()) for entry in ledger.entries(*key[:2]) if entry.key == key]
    return [{**asdict(entry), "seconds": 0.0, "path": ""} for entry in entries if entry.method == method]


def weights(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every weight file of a version or burn-in."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}


def label_weights(folder: Path) -> dict[str, bytes]:
    """Return the weights of a version that label; which students are still there depends on when a run was stopped."""
    return {name: found for name, found in weights(folder).items() if name != "student.safetensors"}


def outcome(run: RunFolder, method: str) -> Outcome:
    """Return all that a method of a run came to: weights that label, ledger, figures per version, final row."""
    from l2l_ray.report.record import read_run

    results = json.loads((run.path / "results.json").read_text())
    points = read_run(run.path).points_of(method)
    return {
        "weights": {v: label_weights(run.version_dir(method, v)) for v in sorted(run.published(method))},
        "ledger": ledger_lines(run, method),
        "points": [{name: v for name, v in point.items() if not name.startswith("seconds.")} for point in points],
        "row": next(row for row in results["rows"] if row["method"] == method),
        "zero-shot": results["rows"][0],
    }


def assert_same(found: Outcome, expected: Outcome, but: tuple[str, ...] = ()) -> None:
    """Compare two outcomes part by part, so that a failure names the part and not megabytes of weights."""
    for part in expected.keys() - {"weights", *but}:
        assert found[part] == expected[part], part
    assert found["weights"].keys() == expected["weights"].keys()
    for version, files in expected["weights"].items():
        different = [name for name, content in files.items() if found["weights"][version].get(name) != content]
        assert not different, f"version {version}"
