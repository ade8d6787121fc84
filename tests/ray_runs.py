"""What the end-to-end and kill tests share: one small run, ways to start it, and what "the same result" means.

Tolerance. Runs differ in how batches are put together (micro-batches of the prior, shards, one or two train workers),
so in the order in which floats are added: each step differs by about 1e-7 and the optimiser amplifies it. In float32,
after the 10 steps of this run, teacher weights have to agree within 2e-4, accepted pixels up to one in a thousand,
mean_iou within 0.005. (Measured with two workers on 2 cores: 2e-5, none, below 1e-6.)
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from safetensors.numpy import load_file

from l2l_ray.actors.cluster import actor_options, end_in_order, start_actor, wait_ready
from l2l_ray.config import RunConfig, save_config
from l2l_ray.loop.state.ledger import Ledger, read_shard
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.storage import local_copy
from l2l_ray.types import PseudoLabel
from tests.whole_run import changed, tiny_config

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS_TOLERANCE = 2e-4
PIXELS_TOLERANCE = 0.001
MEAN_IOU_TOLERANCE = 0.005
WAIT_S = 600.0  # generous: test machines have two cores and other work


def ray_config(root: Path, name: str, num_workers: int = 1) -> RunConfig:
    """Return the run of `tests/whole_run.py` with smaller shards, so that a kill finds one in work, and checkpoints."""
    cluster = {"num_workers": num_workers, "threads_per_worker": 1, "start_timeout_s": WAIT_S}
    return changed(tiny_config(root), name=name, loop={"shard_size": 2, "checkpoint_steps": 2}, cluster=cluster)


class Holder:
    """An actor of another job, which does nothing but hold what it asked for."""

    def ready(self) -> bool:
        return True


def held(name: str, resources: dict[str, float]) -> tuple[list[str], Callable[[str], None]]:
    """Have another job hold resources until the first line is said; return what was said so far, and a `say`."""
    told, holder = list[str](), start_actor(Holder, actor_options(name, "l2l-other-1a2b", resources))
    wait_ready("holder", [holder], WAIT_S)

    def say(line: str) -> None:
        told.append(line)
        if len(told) == 1:
            end_in_order([holder])

    return told, say


@contextmanager
def started_job(config: RunConfig, address: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Start `jobs/selfevolve.py` as a user would, on the cluster at `address`; it does not outlive the block.

    The run root is told by `L2L_HOME`, in the job's environment alone: actors must find it in their config.
    """
    file = config.root / f"{config.run_name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    save_config(config.model_copy(update={"run_root": None}), file)
    job = subprocess.Popen(
        [sys.executable, "jobs/selfevolve.py", "--config", str(file), *words],
        cwd=ROOT,
        env={**os.environ, "RAY_ADDRESS": address, "PYTHONPATH": str(ROOT), "L2L_HOME": str(config.root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with job:
        try:
            yield job
        finally:
            job.kill()


def wait_for(condition: Callable[[], bool], what: str, job: subprocess.Popen[str] | None = None) -> None:
    """Wait until a condition holds; fail when it takes too long or the job ends first."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        if job is not None and job.poll() is not None and not condition():
            raise AssertionError(f"the job ended before {what}: {job.stdout.read() if job.stdout else ''}")
        assert time.monotonic() < deadline, f"not within {WAIT_S:g} s: {what}"
        time.sleep(0.02)


def ledger_keys(run: RunFolder) -> list[tuple[str, int, int]]:
    """Return the key of every whole ledger line, repeated ones included."""
    text = run.ledger_path.read_text() if run.ledger_path.exists() else ""
    lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return [(line["method"], line["round"], line["shard"]) for line in lines]


def actors(config: RunConfig | None = None, **wanted: str) -> list[Any]:
    """Return the living actors that have these properties, of one run or of all, from Ray's state API."""
    from ray.util.state import list_actors

    filters: list[tuple[str, str, Any]] = [("state", "=", "ALIVE"), *((k, "=", v) for k, v in wanted.items())]
    found = list(list_actors(filters=filters, limit=100, detail=True))
    return [a for a in found if config is None or a.ray_namespace.startswith(f"l2l-{config.run_name}-")]


def listening(pids: Iterable[int]) -> list[tuple[int, str, int]]:
    """Return on which addresses and TCP ports these processes listen: process id, address, port."""
    found = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):  # it ended meanwhile
            for one in psutil.Process(pid).net_connections("inet"):
                if one.status == psutil.CONN_LISTEN:
                    found.append((pid, one.laddr.ip.removeprefix("::ffff:"), one.laddr.port))
    return found


def signaled(number: signal.Signals, what: str, config: RunConfig | None = None, **wanted: str) -> int:
    """Send a signal to the one living actor that has these properties; its process id."""
    found: list[int] = []

    def there() -> bool:
        found[:] = [actor.pid for actor in actors(config, **wanted) if actor.pid]
        return bool(found)

    wait_for(there, f"a living {what}")
    os.kill(found[0], number)
    return found[0]


def assert_same_result(one: RunFolder, two: RunFolder) -> None:
    """Check that two runs agree: labels, weights, figures. Their shards may be of different size."""
    labels, others = _labels(one), _labels(two)
    assert labels.keys() == others.keys()
    worst = max((_differing_share(labels[key], others[key]) for key in labels), default=0.0)
    assert worst <= PIXELS_TOLERANCE, f"labels of a round differ in {worst:.4f} of their pixels"
    for method in one.methods:
        for version in range(one.config.loop.rounds + 1):
            far = _distance(one.version_dir(method, version), two.version_dir(method, version))
            assert far <= WEIGHTS_TOLERANCE, f"{method} version {version}: weights differ by {far}"
    figures, other_figures = _mean_ious(one), _mean_ious(two)
    assert figures.keys() == other_figures.keys()
    assert max(abs(figures[key] - other_figures[key]) for key in figures) <= MEAN_IOU_TOLERANCE


def _labels(run: RunFolder) -> dict[tuple[str, int], list[PseudoLabel]]:
    """Return the committed labels of each (method, round), in table order."""
    ledger = Ledger(run.ledger_path)
    rounds = sorted({(method, round_index) for method, round_index, _ in ledger.keys()})
    return {key: [x for entry in ledger.entries(*key) for x in read_shard(run.path / entry.path)] for key in rounds}


def _differing_share(labels: list[PseudoLabel], others: list[PseudoLabel]) -> float:
    def identity(label: PseudoLabel) -> tuple[int, int, int]:
        return label.sent_id, label.version, label.seed

    assert list(map(identity, labels)) == list(map(identity, others))
    pairs = list(zip(labels, others, strict=True))
    return float(np.mean([(a.target != b.target) | (a.accepted != b.accepted) for a, b in pairs]))


def _distance(one: Path, two: Path) -> float:
    """Return the largest difference of any teacher weight."""
    weights, others = (load_file(local_copy(folder / "teacher.safetensors")) for folder in (one, two))
    return max(float(np.abs(weights[name] - others[name]).max()) for name in weights)


def _mean_ious(run: RunFolder) -> dict[tuple[str, str], float]:
    table = json.loads((run.path / "results.json").read_text())
    return {(row["method"], split): f["mean_iou"] for row in table["rows"] for split, f in row["splits"].items()}
