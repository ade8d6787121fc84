"""Demand against supply, names, and the one-machine cluster."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from l2l_ray.actors import cluster
from l2l_ray.actors.cluster import (
    Need,
    actor_options,
    end_in_order,
    holders,
    namespace_of,
    needs,
    node_resources,
    require_fit,
    shortage,
    start_actor,
    total,
    wait_for_room,
    wait_in_line,
    wait_ready,
)
from l2l_ray.actors.connection import connected
from l2l_ray.config import ClusterConfig, RunConfig
from l2l_ray.errors import ClusterError
from l2l_ray.job import STOPPED


def test_the_default_run_fits_two_cores_and_one_prior_slot() -> None:
    assert total(needs(ClusterConfig())) == {"prior_gpu": 1.0, "CPU": 1.0}
    assert shortage(needs(ClusterConfig()), [{"CPU": 2.0, "prior_gpu": 1.0}]) is None


def test_a_shortage_names_need_supply_roles_and_the_remedy() -> None:
    config = ClusterConfig(num_priors=2, num_workers=8, worker_resources={"CPU": 1.0})
    problem = shortage(needs(config), [{"CPU": 2.0}])
    assert problem is not None
    assert "need 2 prior_gpu (2 prior x 1), have 0" in problem
    assert "need 8.5 CPU (2 labeler x 0.25, 8 train worker x 1), have 2" in problem
    assert "--resources='{\"prior_gpu\": 2}'" in problem


def test_a_worker_larger_than_every_node_is_refused_though_the_sum_fits() -> None:
    problem = shortage([Need("train worker", 1, {"CPU": 3.0})], [{"CPU": 2.0}, {"CPU": 2.0}])
    assert problem is not None and "no single node has {'CPU': 3.0} for one train worker" in problem


def test_many_fractions_add_up_without_a_false_alarm() -> None:
    assert shortage([Need("labeler", 10, {"CPU": 0.1})], [{"CPU": 1.0}]) is None


def test_resources_become_ray_options() -> None:
    options = actor_options("prior-0", "l2l-x", {"GPU": 1, "CPU": 2, "label_slot": 1, "memory": 5})
    assert options == {
        "name": "prior-0",
        "namespace": "l2l-x",
        "scheduling_strategy": "DEFAULT",
        "num_cpus": 2,
        "num_gpus": 1,
        "memory": 5,
        "resources": {"label_slot": 1},
    }


def test_runs_of_one_name_under_two_roots_do_not_meet(ray_local: str) -> None:
    one, two = (namespace_of(RunConfig(name="a", run_root=root)) for root in ("/x", "/y"))
    assert one != two and one.startswith("l2l-a-")


def test_too_large_a_run_fails_at_once_unless_nodes_come(ray_local: str) -> None:
    config = ClusterConfig(num_labelers=1, labeler_resources={"CPU": 49.5})
    with pytest.raises(ClusterError, match="need 50 CPU .* have 2; .* set cluster.autoscaled"):
        require_fit(needs(config), config, node_resources())
    autoscaled = config.model_copy(update={"autoscaled": True})
    require_fit(needs(autoscaled), autoscaled, node_resources())
    with pytest.raises(ClusterError, match="need 50 CPU .* have 2"):
        wait_for_room(needs(config), config, lambda what: pytest.fail(f"it waits for {what}, which never comes"))
    wait_for_room(needs(autoscaled), autoscaled, lambda what: pytest.fail(f"{what} comes when it is asked for"))


def test_an_existing_connection_is_used_and_kept(ray_local: str) -> None:
    import ray

    with connected(ClusterConfig()):
        require_fit(needs(ClusterConfig()), ClusterConfig(), node_resources())
    assert ray.is_initialized()


# A job that is told to stop while it writes its report.
WAS_CONNECTED = """
import os, signal, sys, time
from l2l_ray.config import ClusterConfig
from l2l_ray.job import run_job
def act():
    from l2l_ray.actors.connection import connected
    with connected(ClusterConfig()):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
sys.exit(run_job("selfevolve", act, "all stays"))
"""


# A job that is told to stop after its own cluster has ended, while the cluster's folder is removed.
WHILE_REMOVING = """
import os, signal, sys
from l2l_ray.config import ClusterConfig
from l2l_ray.job import run_job
def act():
    from l2l_ray.actors import session
    from l2l_ray.actors.connection import connected
    remove = session.remove_folder
    def told_to_stop(folder):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            remove(folder)
    with connected(ClusterConfig()):
        session.remove_folder = told_to_stop
sys.exit(run_job("sweep", act, "all stays"))
"""


class _SaysHello:
    def __init__(self, fail: bool = False) -> None:
        if fail:
            raise RuntimeError("no weights here")

    def ready(self) -> str:
        return "hello"

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def test_an_idle_actor_leaves_in_order_and_a_hanging_one_is_killed(ray_local: str) -> None:
    import ray

    idle, hanging = (start_actor(_SaysHello, actor_options(name, "test-end", {})) for name in ("idle", "hanging"))
    assert wait_ready("says-hello", [idle, hanging], 60.0) == ["hello", "hello"]
    open_call = hanging.sleep.remote(3600.0)
    end_in_order([idle, hanging], timeout_s=3.0)
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(open_call, timeout=30.0)
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(idle.ready.remote(), timeout=30.0)


def test_who_waits_for_room_is_told_for_what_and_who_holds_it(ray_local: str) -> None:
    told: list[str] = []
    holder = start_actor(_SaysHello, actor_options("prior-0", "l2l-other-1a2b", {"prior_gpu": 1.0}))
    assert wait_ready("says-hello", [holder], 60.0) == ["hello"]

    def say(what: str) -> None:
        told.append(what)
        if len(told) == 1:
            end_in_order([holder])

    wait_for_room([Need("prior", 1, {"prior_gpu": 1.0})], ClusterConfig(), say)
    assert told[0] == "1 prior_gpu (0 free); held by prior-0 of l2l-other-1a2b"


def test_a_job_that_writes_lines_writes_each_once(ray_local: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    holder = start_actor(_SaysHello, actor_options("prior-0", "l2l-other-1a2b", {"prior_gpu": 1.0}))
    assert wait_ready("says-hello", [holder], 60.0) == ["hello"]
    looks = iter(range(1000))

    def look() -> list[dict[str, float]]:
        if next(looks) == 4:
            end_in_order([holder])
        return node_resources()

    monkeypatch.setattr(cluster, "node_resources", look)
    demand, line = [Need("prior", 1, {"prior_gpu": 1.0})], "waiting for 1 prior_gpu (0 free); held by prior-0 of l2l-ot"
    wait_in_line(demand, ClusterConfig(), told.append)
    assert told[0].startswith(line) and not any(other.startswith(line) for other in told[1:])
    with pytest.raises(ClusterError, match="need 2 prior_gpu .* have 1; lower something"):
        wait_in_line([Need("prior", 2, {"prior_gpu": 1.0})], ClusterConfig(), told.append, "lower something")


def test_who_holds_room_in_a_placement_group_is_named(ray_local: str) -> None:
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    group = placement_group([{"prior_gpu": 1.0}])
    options = actor_options("trainer-0", "l2l-other-1a2b", {"prior_gpu": 1.0})
    options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(group)
    holder = start_actor(_SaysHello, options)
    assert wait_ready("says-hello", [holder], 60.0) == ["hello"]
    assert holders(["prior_gpu"]) == ["trainer-0 of l2l-other-1a2b"] and holders(["no_such_slot"]) == []
    ray.kill(holder)
    remove_placement_group(group)


def test_a_job_that_was_connected_still_ends_on_sigterm_as_on_ctrl_c(ray_local: str) -> None:
    found = subprocess.run([sys.executable, "-c", WAS_CONNECTED], capture_output=True, text=True, timeout=240)
    assert (found.returncode, found.stderr) == (STOPPED, "\nstopped; all stays\n")


@pytest.mark.slow
def test_a_job_whose_own_cluster_ends_still_ends_on_sigterm_as_on_ctrl_c() -> None:
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-c", WHILE_REMOVING]
    found = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
    assert (found.returncode, found.stderr) == (STOPPED, "\nstopped; all stays\n")


def test_an_actor_that_cannot_start_says_why(ray_local: str) -> None:
    broken = start_actor(_SaysHello, actor_options("broken", "test-names", {}), True)
    with pytest.raises(ClusterError, match="no weights here"):
        wait_ready("says-hello", [broken], 60.0)


def test_an_actor_that_fits_nowhere_is_an_error_not_a_hang(ray_local: str) -> None:
    import ray

    lost = start_actor(_SaysHello, actor_options("lost", "test-names", {"no_such_slot": 1.0}))
    with pytest.raises(ClusterError, match="cluster.start_timeout_s=1; free resources now"):
        wait_ready("says-hello", [lost], 1.0)
    ray.kill(lost)
