"""Ray's memory monitor kills a labeler: it is replaced, and nothing is lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_labeler_that_was_killed_for_want_of_memory_is_replaced(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.memory_cluster", str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "[5, 6, 7, 11]" in done.stdout.splitlines(), done.stdout
    assert "was lost with shard 11 of l2l round 0" in done.stderr
