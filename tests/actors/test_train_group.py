"""The train group: a worker that Ray Train does not make good for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from l2l_ray.actors.train_group import fit
from l2l_ray.config import RunConfig
from l2l_ray.errors import ClusterError
from l2l_ray.loop.state.run_folder import RunFolder

# Ray's own, about a part of it that we do not use.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")


class _Worker:
    """What every rank calls; its process dies when it is unpickled there, so often: before the loop is called."""

    def __init__(self, scratch: Path, deaths: int) -> None:
        self._scratch, self._deaths = scratch, deaths

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        tries = len(list(self._scratch.iterdir()))
        if tries < self._deaths:
            (self._scratch / str(tries)).touch()
            os._exit(9)

    def __call__(self, given: dict[str, Any]) -> str:
        return f"done by the holder of epoch {given['epoch']}"


@pytest.fixture
def run(ray_local: str, smoke: RunConfig) -> RunFolder:
    cluster = smoke.cluster.model_copy(update={"max_train_restarts": 1})
    config = smoke.model_copy(update={"cluster": cluster})
    return RunFolder(config.run_dir, config, 7).create()


@pytest.mark.slow
def test_a_worker_that_dies_before_its_loop_is_called_is_made_good_for(run: RunFolder, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    assert fit(_Worker(scratch, 1), run.config, run, None) == "done by the holder of epoch 7"  # type: ignore[arg-type]
    assert len(list(scratch.iterdir())) == 1


@pytest.mark.slow
def test_but_not_for_ever(run: RunFolder, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with pytest.raises(ClusterError, match="failed more often than cluster.max_train_restarts=1 allows: (?s:.*) died"):
        fit(_Worker(scratch, 2), run.config, run, None)  # type: ignore[arg-type]
