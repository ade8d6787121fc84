"""The comparison from end to end, in miniature: killed in the middle, it goes on and runs no row twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.compare.records import load_record
from l2l_ray.jsonl import read_lines

ROOT = Path(__file__).parents[3]
TIMEOUT_S = 800


def command(folder: Path, *words: str) -> list[str]:
    rows = ["--only", "supervised", "accept_all", "--seeds", "10", "--processes", "1"]
    return [
        *(sys.executable, "-m", "benchmarks.compare", "--smoke", *rows),
        *("--run-root", str(folder / "runs"), "--results", str(folder / "results"), *words),
    ]


def kill_during_second_row(folder: Path) -> None:
    """Start it, and kill it and its worker at once when the second row has labeled its first shard."""
    process = subprocess.Popen(command(folder), cwd=ROOT, start_new_session=True)
    ledger = folder / "runs" / "compare" / "refshapes" / "smoke-seed10-accept_all" / "ledger.jsonl"
    until = time.monotonic() + TIMEOUT_S
    while not (ledger.exists() and len(list(read_lines(ledger))) > 0):
        assert process.poll() is None and time.monotonic() < until, "it ended before it could be killed"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.timeout(2 * TIMEOUT_S)
@pytest.mark.slow
def test_it_is_killed_and_goes_on(tmp_path: Path) -> None:
    kill_during_second_row(tmp_path)
    records = tmp_path / "results" / "compare"
    first = records / "refshapes" / "smoke-seed10-supervised.json"
    before = first.stat().st_mtime_ns  # the first row had ended
    assert load_record(records, "refshapes/smoke-seed10-accept_all") is None

    listed = subprocess.run(
        command(tmp_path, "--list"), cwd=ROOT, capture_output=True, text=True, check=True, timeout=TIMEOUT_S
    )
    assert "1 of 2 done; 1 left: about" in listed.stdout
    done = subprocess.run(command(tmp_path), cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    assert first.stat().st_mtime_ns == before, "a finished row ran again"
    found = load_record(records, "refshapes/smoke-seed10-accept_all")
    assert found is not None and found.version == len(found.val_by_version) == len(found.rounds) == 2
    spent = tmp_path / "runs" / "compare" / "refshapes" / "smoke-seed10-accept_all.cost.json"
    assert json.loads(spent.read_text())["attempts"] == 2
    assert found.cost_s() > 0 and found.cpu_s["training"] > 0
    assert sum(found.splits["val"].iou_sums) / sum(found.splits["val"].num_texts) == pytest.approx(
        found.splits["val"].figures["mean_iou"], abs=1e-4
    )
    (table,) = json.loads((tmp_path / "results" / "compare.json").read_text())["tables"]
    assert [row["row"] for row in table["rows"]] == ["supervised", "accept_all"]
    assert "accept all" in done.stdout
    # Its weights are gone: no figure needs them again.
    assert not (tmp_path / "runs" / "compare" / "refshapes" / "smoke-seed10-supervised" / "train").exists()


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--only", "nothing"], 1, "there is no row or group 'nothing'; choose from main"),
        (["--curve"], 1, "--curve has rows and schedules of its own, got --only, --smoke beside it; leave one of the"),
        (["--seeds", "3", "-1"], 1, "--seeds must be numbers from 0 up, got [3, -1]"),
        (["--processes", "0"], 2, "argument --processes: got '0'; expected a whole number of at least 1"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(tmp_path: Path, words: list[str], status: int, said: str) -> None:
    done = subprocess.run(command(tmp_path, *words), cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == status and said in done.stderr


def test_seeds_that_the_tables_do_not_show_are_said_so_at_once(tmp_path: Path) -> None:
    words = ["--list", "--only", "supervised", "--schedules", "1pct", "--seeds", "0", "11"]
    command = [sys.executable, "-m", "benchmarks.compare", *words, "--run-root", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0 and done.stdout.startswith("seed 0: ")
    assert "show the report seeds 11 to 15 alone; --results FOLDER has tables of all seeds" in done.stdout
