"""A compiled student takes the same steps; a compiler that fails is said once, and training goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

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


def test_where_the_compiler_fails_training_goes_on_without_it(tmp_path: Path) -> None:
    told = _steps(tmp_path, CXX=str(tmp_path / "no-compiler"), PATH="/nowhere")
    assert told["compiled"] == told["plain"]
    (line,) = told["said"]
    assert line.startswith("torch.compile failed, and training goes on without it") and "loop.compile=false" in line
