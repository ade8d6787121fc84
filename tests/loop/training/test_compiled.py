"""A compiled student takes the same steps; a compiler that fails is said once, and training goes on."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.loop.training.student import Networks
from l2l_ray.loop.training.train import Job
from tests.loop.training_only import TrainingOnly
from tests.whole_run import changed

pytestmark = pytest.mark.usefixtures("one_thread")
ROWS = [0, 1, 2, 3, 4, 5]


def _trained(run: RunFolder, job: Job, compile: bool, steps: int = 2) -> tuple[Networks, list[float]]:
    networks = Networks.fresh(changed(run.config, loop={"compile": compile}), TrainingOnly(run))
    return networks, [job.steps.take(networks, "burn_in", step, step, ROWS)["loss"] for step in range(steps)]


@pytest.mark.slow
def test_a_compiled_student_takes_the_same_steps_and_says_what_was_compiled(
    whole_run: RunFolder, job: Job, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "l2l_ray.loop.training.compiled")
    plain, losses = _trained(whole_run, job, compile=False)
    compiled, found = _trained(whole_run, job, compile=True)
    assert found == pytest.approx(losses, rel=1e-4)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("the student is compiled: ") and " graph breaks" in line
    names = set(plain.student.state_dict())
    assert set(compiled.student.state_dict()) == names, "a version of it is read like any other"


def test_where_the_compiler_fails_training_goes_on_without_it(
    whole_run: RunFolder, job: Job, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import torch._inductor.config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", (None, str(tmp_path / "no-compiler")))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    torch._dynamo.reset()
    _, losses = _trained(whole_run, job, compile=False)
    caplog.set_level(logging.WARNING, "l2l_ray.loop.training.compiled")
    networks, found = _trained(whole_run, job, compile=True)
    assert found == losses and networks.compiled is None
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("torch.compile failed, and training goes on without it") and "loop.compile=false" in line
