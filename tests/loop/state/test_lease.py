"""One holder of a folder at a time: refused by name, taken over when dead, on this machine and on others."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from l2l_ray.errors import ConfigError, LedgerError
from l2l_ray.loop.state.lease import Holder, held, newest_epoch, refuse_if_held, require_current

BEAT_S = 0.05
HOLDS = "import sys, time\nfrom pathlib import Path\nfrom l2l_ray.loop.state.lease import held\n"
HOLDS += "with held(Path(sys.argv[1]), 'a Ray job'):\n    print('held', flush=True)\n    time.sleep(600)\n"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Give the folder of a run that has begun."""
    path = tmp_path / "runs" / "one"
    path.mkdir(parents=True)
    (path / "config.yaml").touch()
    return path


@contextmanager
def _held_by_another_process(run: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLDS, str(run)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def _files(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.parent.rglob("*") if path.is_file()}


def test_a_second_holder_is_refused_by_name_before_anything_is_written(run: Path) -> None:
    with _held_by_another_process(run) as process:
        before = _files(run)
        message = rf"is in use by a Ray job, process {process.pid} on .*, since 20.* \(last sign of life \d+ s ago\); "
        message += (
            rf"let it end, or stop it \(kill {process.pid}\) and continue with --resume, or choose another --name"
        )
        with pytest.raises(ConfigError, match=message), held(run, "a local run"):
            pytest.fail("two hold one folder")
        with pytest.raises(ConfigError, match=message):
            refuse_if_held(run)
        assert _files(run) == before


def test_a_killed_holder_on_this_machine_is_taken_over_at_once(run: Path) -> None:
    with _held_by_another_process(run) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        started = time.monotonic()
        with held(run, "a local run") as epoch:
            assert epoch == 2
    assert time.monotonic() - started < 2.0


def test_a_stopped_holder_still_holds(run: Path) -> None:
    with _held_by_another_process(run) as process:
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(ConfigError, match="in use by a Ray job"), held(run, "a local run"):
            pass


def test_epochs_grow_and_one_file_is_kept(run: Path) -> None:
    for expected in (1, 2, 3):
        refuse_if_held(run)
        with held(run, "a local run") as epoch:
            assert epoch == newest_epoch(run) == expected
            require_current(run, epoch)
    assert [path.name for path in (run / "lease").iterdir()] == ["000003.json"]


def _elsewhere(run: Path, age_s: float, **fields: object) -> Path:
    """Write the file of a holder on another machine, whose last heartbeat is so old."""
    file = run / "lease" / "000007.json"
    file.parent.mkdir()
    file.write_text(
        json.dumps({"epoch": 7, "what": "a Ray job", "host": "node7", "pid": 41, "started": 1.8e9, **fields})
    )
    os.utime(file, (time.time() - age_s,) * 2)
    return file


def _while_beating(file: Path, body: Callable[[], None]) -> None:
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(BEAT_S):
            os.utime(file)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        body()
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("age_s", [0.0, 86400.0], ids=["clocks agree", "its clock is a day behind"])
def test_a_living_holder_on_another_machine_is_told_by_its_heartbeat(run: Path, age_s: float) -> None:
    file, said = _elsewhere(run, age_s), list[str]()

    def refused() -> None:
        with pytest.raises(ConfigError, match=r"a Ray job, process 41 on node7, .* or stop it on node7 and continue"):
            with held(run, "a local run", said.append, BEAT_S):
                pass

    _while_beating(file, refused)
    assert "to see whether a Ray job, process 41 on node7," in said[0]
    assert newest_epoch(run) == 7


@pytest.mark.parametrize("age_s", [0.0, 86400.0])
def test_a_silent_holder_on_another_machine_is_taken_over(run: Path, age_s: float) -> None:
    _elsewhere(run, age_s)
    with held(run, "a local run", beat_s=BEAT_S) as epoch:
        assert epoch == 8
    with pytest.raises(
        LedgerError, match=r"was taken over by a local run, process \d+ on .*, because this process gave"
    ):
        require_current(run, 7)


def test_a_holder_that_has_left_is_not_waited_for(run: Path) -> None:
    _elsewhere(run, 0.0, has_left=True)
    with held(run, "a local run", lambda text: pytest.fail(text)) as epoch:
        assert epoch == 8


def test_a_damaged_file_hides_only_who_it_is(run: Path) -> None:
    _elsewhere(run, 0.0).write_text("")
    assert Holder.of(run) == Holder(7)
    with pytest.raises(ConfigError, match="in use by a run, process 0 on another machine"):
        refuse_if_held(run)
    with held(run, "a local run", beat_s=BEAT_S) as epoch:
        assert epoch == 8


def test_a_holder_touches_its_file(run: Path) -> None:
    with held(run, "a local run", beat_s=BEAT_S):
        os.utime(run / "lease" / "000001.json", (0, 0))
        deadline = time.monotonic() + 10
        while (holder := Holder.of(run)) is not None and holder.silent_s(run) > 5:
            assert time.monotonic() < deadline
            time.sleep(BEAT_S)


def test_where_no_run_begins_nothing_is_left(tmp_path: Path) -> None:
    with held(tmp_path / "root" / "deep" / "run", "a local run"):
        pass
    assert list(tmp_path.iterdir()) == []


def _try(run: Path, start: float, results: multiprocessing.Queue[bool]) -> None:
    time.sleep(max(0.0, start - time.time()))
    try:
        with held(run, "a local run"):
            results.put(True)
            time.sleep(3)
    except ConfigError:
        results.put(False)


def test_of_several_at_once_one_holds(run: Path) -> None:
    context = multiprocessing.get_context("fork")
    results: multiprocessing.Queue[bool] = context.Queue()
    racers = [context.Process(target=_try, args=(run, time.time() + 0.2, results)) for _ in range(6)]
    for racer in racers:
        racer.start()
    assert sorted(results.get(timeout=60) for _ in racers) == [False] * 5 + [True]
    for racer in racers:
        racer.join()
