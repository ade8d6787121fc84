"""A compiled student takes the same steps; a compiler that fails is said once, and training goes on."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from l2l_ray.errors import ConfigError
from l2l_ray.loop.training.compiled import Compiled
from l2l_ray.segmenter.model import Segmenter

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # of its own compiler
STEPS = Path(__file__).with_name("compiled_steps.py")


def _steps(tmp_path: Path, **environment: str) -> dict[str, Any]:
    environment |= {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    root = str(STEPS.parents[3])
    done = subprocess.run(
        [sys.executable, "-m", "tests.loop.training.compiled_steps"],
        capture_output=True, text=True, timeout=280, cwd=root, env={**os.environ, "PYTHONPATH": root, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


@pytest.mark.slow
def test_a_compiled_student_takes_the_same_steps_and_says_what_was_compiled(tmp_path: Path) -> None:
    told = _steps(tmp_path)
    assert told["compiled"] == pytest.approx(told["plain"], rel=1e-4)
    (line,) = told["said"]
    assert line.startswith("the student is compiled: ") and " graph breaks" in line


@pytest.mark.slow
def test_where_the_compiler_fails_training_goes_on_without_it(tmp_path: Path) -> None:
    told = _steps(tmp_path, CXX=str(tmp_path / "no-compiler"), PATH="/nowhere")
    assert told["compiled"] == told["plain"]
    (line,) = told["said"]
    assert line.startswith("torch.compile failed, and training goes on without it") and "loop.compile=false" in line


@pytest.fixture
def compiled(segmenter: Segmenter) -> Compiled:
    return Compiled(copy.deepcopy(segmenter))


def test_on_one_of_several_ranks_a_failed_compiler_is_an_error_that_names_the_switch(compiled: Compiled) -> None:
    def fails() -> None:
        raise torch._dynamo.exc.InternalTorchDynamoError("no way\nmore lines")

    with pytest.raises(ConfigError, match=r"in a train worker: no way; set loop\.compile=false$"):
        compiled.run(fails, several_ranks=True)


def test_an_error_that_is_not_the_compilers_passes(compiled: Compiled) -> None:
    calls = []

    def fails() -> None:
        calls.append(1)
        raise ValueError("shapes do not match")

    with pytest.raises(ValueError, match="shapes do not match"):
        compiled.run(fails, several_ranks=False)
    assert len(calls) == 1
