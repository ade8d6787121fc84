"""A finished run to decide about: the small whole run of the session, copied."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from l2l_ray.loop.state.run_folder import RunFolder


@pytest.fixture
def reviewed_run(copied: Callable[..., RunFolder]) -> Path:
    """Give the folder of a finished run that nobody has reviewed."""
    return copied(without=()).path
