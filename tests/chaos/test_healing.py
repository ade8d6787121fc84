"""On Ray: a killed run with damaged files is healed by `--resume`, and nobody else may work in its folder meanwhile.

The job is given its folder by `L2L_HOME`, which the cluster's processes do not share.
"""

from __future__ import annotations

import json

import pytest

from l2l_ray.errors import ConfigError
from l2l_ray.loop.local import run_local
from l2l_ray.loop.state.run_folder import RunFolder
from tests.damage import cut, empty, flip
from tests.ray_runs import WAIT_S, assert_same_result, ledger_keys, ray_config, started_job, wait_for
from tests.whole_run import changed, killed_before, single_thread


@pytest.mark.slow
def test_a_run_is_healed_on_ray_by_one_driver(ray_local: str, whole_run: RunFolder) -> None:
    config = changed(ray_config(whole_run.config.root, "healed"), loop=whole_run.config.loop.model_dump())
    with single_thread():
        folder = killed_before(config, "train/l2l-v0002")
    flip(folder.path / "l2l/labels/r000-s00001.parquet")
    empty(folder.version_dir("l2l", 1) / "version.json")
    cut(folder.examples_path("testA"))
    before = set(ledger_keys(folder))

    with started_job(config, ray_local, "--resume") as job:
        wait_for(lambda: (folder.path / "quarantine").exists(), "the healing", job)
        holder = rf"is in use by a Ray job, process {job.pid} on .*; let it end"
        with pytest.raises(ConfigError, match=holder):
            run_local(changed(config, resume=True))
        with started_job(config, ray_local, "--resume") as second:
            refused, _ = second.communicate(timeout=WAIT_S)
        assert second.returncode == 1 and f"is in use by a Ray job, process {job.pid} on " in refused
        output, _ = job.communicate(timeout=WAIT_S)
        assert job.returncode == 0, output

    for name in ("l2l/labels/r000-s00001.parquet", "train/l2l-v0001", "examples/testA.parquet"):
        assert f"damaged    {name}: " in output
        assert list(folder.path.glob(f"quarantine/*/{name}"))
    assert_same_result(whole_run, folder)
    lines = [json.loads(line) for line in folder.ledger_path.read_text().splitlines()]
    assert {line["epoch"] for line in lines} == {1, 2}
    revoked = {tuple(line["revoked"]) for line in lines if "revoked" in line}
    assert revoked == {("l2l", 0, 1), *(key for key in before if key[:2] == ("l2l", 1))}
    assert not list(folder.path.rglob("*.tmp"))
