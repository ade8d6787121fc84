"""A job that is told to stop ends in order: nothing but its own words on the terminal, nobody left, everything kept."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from l2l_ray.loop.state.run_folder import RunFolder
from tests.ray_runs import WAIT_S, actors, ledger_keys, ray_config, started_job, wait_for

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_stopped_job_ends_in_order(ray_local: str, tmp_path: Path, number: signal.Signals) -> None:
    config = ray_config(tmp_path, "stopped")
    folder = RunFolder(config.run_dir, config)
    with started_job(config, ray_local) as job:
        # Ctrl-C comes while the MLLM is asked, SIGTERM while labelers are at work.
        asked = folder.priors_path("labeled").exists
        wait_for(asked if number == signal.SIGINT else lambda: bool(ledger_keys(folder)), "work", job)
        job.send_signal(number)
        output, _ = job.communicate(timeout=WAIT_S)
    assert job.returncode == 130, output
    assert output.endswith("\nstopped; everything committed stays: the same command with --resume continues\n")
    assert not [word for word in ("Traceback", "Error", "Task ", "retries") if word in output], output
    assert json.loads((folder.path / "state.json").read_text())["stopped"] == "the driver ended the run early"
    wait_for(lambda: not actors(config), "the release of all actors")
    assert len(ledger_keys(folder)) == len(set(ledger_keys(folder)))
