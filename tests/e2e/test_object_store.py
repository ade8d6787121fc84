"""A whole run with folder, data and priors in a real S3-compatible store: killed, harmed, resumed, and the same."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from l2l_ray.config import RunConfig, save_config
from l2l_ray.data.pixels import BadPicture, read_rgb
from l2l_ray.data.refer import ReferDataset
from l2l_ray.errors import ConfigError
from l2l_ray.loop.local import run_local
from l2l_ray.loop.progress import Console
from l2l_ray.loop.state import lease
from l2l_ray.loop.state.ledger import Ledger
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.prior.shared_store import SharedPriorStore, open_store
from l2l_ray.refshapes.synthetic import write_refshapes
from tests.object_store import ObjectStore
from tests.ray_runs import assert_same_result, ray_config, wait_for
from tests.whole_run import assert_same, changed, outcome

ROOT = Path(__file__).resolve().parent.parent.parent
KILLED_AFTER = 2  # committed shards

# Dies by SIGKILL when a shard is committed and its worker not told.
RUN = """
import os, signal, sys
from pathlib import Path
from l2l_ray.config import read_config
from l2l_ray.loop.local import run_local
from l2l_ray.loop.state.ledger import Ledger
import torch
torch.set_num_threads(1)
commit = Ledger.commit
def committed_and_gone(self, entry):
    commit(self, entry)
    if len(self.keys()) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
Ledger.commit = committed_and_gone
run_local(read_config(Path(sys.argv[1])))
"""


ON_RAY = """
import os, sys
from pathlib import Path
from l2l_ray.config import read_config
config = read_config(Path(sys.argv[1]))
from l2l_ray.actors.environment import set_environment
set_environment(config)
import ray
ray.init(runtime_env={"env_vars": {name: value for name, value in os.environ.items() if name.startswith("AWS_")}})
from l2l_ray.actors.driver import run
run(config)
"""


@pytest.fixture
def killed(store: ObjectStore, whole_run: RunFolder, tmp_path: Path) -> RunConfig:
    """Give the config of a run in the store that was killed between a commit and its answer."""
    config = changed(whole_run.config, run_root=str(store.place("runs")))
    save_config(config, tmp_path / "run.yaml")
    words = [sys.executable, "-c", RUN, str(tmp_path / "run.yaml"), str(KILLED_AFTER)]
    run = subprocess.run(words, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert run.returncode == -signal.SIGKILL, run.stderr
    return config


@pytest.mark.usefixtures("one_thread")
@pytest.mark.slow
def test_a_run_that_is_killed_and_harmed_ends_as_one_on_a_disk(
    killed: RunConfig, store: ObjectStore, whole_run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(killed.run_dir, killed)
    first, second = Ledger(run.ledger_path).all_entries()
    flipped = store.file(run.path / first.path)
    flipped.write_bytes(flipped.read_bytes()[:-9] + b"!" + flipped.read_bytes()[-8:])
    (line,) = [place for place in run.path.glob("ledger.jsonl.d/*") if second.sha256 in place.read_text()]
    store.file(line).write_text(line.read_text()[:40])
    (run.path / "priors" / "val.parquet").unlink()

    said: list[str] = []
    console = Console(killed, stream=None)
    console.say = said.append  # type: ignore[method-assign]
    resumed = run_local(changed(killed, resume=True), console=console)

    told = "\n".join(said)
    assert f"{first.path}: its bytes have changed" in told and "priors/val.parquet: it is missing" in told
    assert "damaged    ledger.jsonl, line 2: moved to quarantine/2" in told
    assert (run.path / "quarantine" / "2" / first.path).exists()
    for method in whole_run.methods:
        assert_same(outcome(resumed, method), outcome(whole_run, method))
    keys = [entry.key for entry in Ledger(run.ledger_path).all_entries()]
    assert len(keys) == len(set(keys)) == len(Ledger(whole_run.ledger_path).keys())
    assert (run.path / "report.html").is_file() and any((run.path / "tensorboard").rglob("events*"))

    with open_store(killed.cache_dir) as priors:
        assert isinstance(priors, SharedPriorStore) and len(priors) > 0
    assert run_local(changed(killed, resume=True)).finished, "a finished one is left alone"
    assert not list(Path.cwd().glob("s3:*")), "nothing is written beside"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_on_ray_it_comes_to_the_same(ray_local: str, store: ObjectStore, whole_run: RunFolder, tmp_path: Path) -> None:
    config = changed(ray_config(tmp_path, "on-ray", num_workers=2), run_root=str(store.place("ray")))
    save_config(config, tmp_path / "run.yaml")
    environment = {**os.environ, "RAY_ADDRESS": ray_local, "PYTHONPATH": str(ROOT)}
    # Actors get the environment of the cluster, which was started before the store: so the store's, by the driver.
    words = [sys.executable, "-c", ON_RAY, str(tmp_path / "run.yaml")]
    job = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert job.returncode == 0, job.stdout + job.stderr
    assert_same_result(whole_run, RunFolder(config.run_dir, config))


def test_a_data_set_in_a_store_is_read_as_one_on_a_disk(store: ObjectStore, tmp_path: Path) -> None:
    found = []
    for root in (tmp_path / "data", store.place("data")):
        write_refshapes(root, num_train_refs=8, num_eval_refs=2)
        dataset = ReferDataset.open(root, "refshapes", "l2l", cache_dir=tmp_path / "columns")
        examples, skips = dataset.labeled_examples("train")
        assert examples and not skips and examples[0].image_path.startswith(str(root))
        pixels = [np.asarray(read_rgb(example.image_path)) for example in examples]
        found.append(([replace(example, image_path="") for example in examples], pixels))
    (on_disk, disk_pixels), (in_store, store_pixels) = found
    assert on_disk == in_store
    assert all(np.array_equal(*pair) for pair in zip(disk_pixels, store_pixels, strict=True))
    with pytest.raises(BadPicture, match="image file not found"):
        read_rgb(f"{store.place('data')}/no.jpg")


def test_a_second_driver_is_refused_by_name(store: ObjectStore, whole_run: RunFolder) -> None:
    config = changed(whole_run.config, run_root=str(store.place("held")))
    with lease.held(config.run_dir, "a local run") as epoch:
        assert epoch == 1
        with pytest.raises(ConfigError, match=f"in use by a local run, process {os.getpid()} on .*--resume"):
            run_local(config)
    assert not config.run_dir.exists(), "a refused start leaves nothing behind"


def test_a_store_that_cannot_refuse_a_second_writer_is_named(simple_store: ObjectStore) -> None:
    said: list[str] = []
    with lease.held(simple_store.place("runs/simple"), "a local run", said.append):
        pass
    assert any("cannot refuse a second writer (S3's If-None-Match)" in line for line in said)


def test_a_silent_holder_on_another_machine_is_taken_over(store: ObjectStore) -> None:
    run = store.place("runs/silent")
    (run / "config.yaml").write_text("")
    (run / "lease" / "000001.json").write_text('{"epoch": 1, "what": "a Ray job", "host": "gone", "pid": 7}')
    with lease.held(run, "a local run", beat_s=0.2) as epoch:
        assert epoch == 2
        assert lease.newest_epoch(run) == 2


def test_a_holder_on_another_machine_that_beats_is_not(store: ObjectStore) -> None:
    run, ended = store.place("runs/beating"), threading.Event()

    def beat() -> None:
        for number in itertools.count():
            record = {"epoch": 1, "what": "a Ray job", "host": "afar", "pid": 7, "beat": number}
            (run / "lease" / "000001.json").write_text(json.dumps(record))
            if ended.wait(0.1):
                return

    afar = threading.Thread(target=beat)
    afar.start()
    try:
        wait_for(lambda: lease.newest_epoch(run) == 1, "the holder")
        with pytest.raises(ConfigError, match="in use by a Ray job, process 7 on afar"):
            with lease.held(run, "a local run", beat_s=0.2):
                pass
    finally:
        ended.set()
        afar.join()


def test_whoever_holds_a_run_next_makes_its_lines_one_object(store: ObjectStore, whole_run: RunFolder) -> None:
    config = changed(whole_run.config, run_root=str(store.place("lines")), resume=True)
    run = RunFolder(config.run_dir, config)
    for number in range(3):
        run.log_event({"number": number})
    assert len(list(run.path.glob("metrics.jsonl.d/*"))) == 3
    with run.held("a local run"):
        assert [place.name.partition("-")[2] for place in run.path.glob("metrics.jsonl.d/*")] == ["all"]
        run.log_event({"number": 3})
    assert run.events() == [{"number": number} for number in range(4)]
