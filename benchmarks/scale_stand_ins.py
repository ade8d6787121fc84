"""What handing out a round costs beside its networks: driver and coordinator, with labelers that label nothing.

Everything is the run's own but the labelers (they commit at once, and import no networks), training (it waits for the
round, then places the version after it) and the nodes (several on this machine, over loopback). What is measured: the
processor time of driver and coordinator, and what they hold in memory, until every shard is in the ledger.

Usage: python -m benchmarks.scale_stand_ins --shards 1000 [--ranks 4] [--actors 4] [--nodes 1]; it prints JSON
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import psutil

from l2l_ray.actors.environment import ENV_DEFAULTS, LOOPBACK_ENV
from l2l_ray.loop.state.ledger import FIRST, Attempt

if TYPE_CHECKING:
    from ray.actor import ActorHandle

    from l2l_ray.config import RunConfig
    from l2l_ray.loop.state.plan import LabelItem
    from l2l_ray.loop.state.prepare import RunData
    from l2l_ray.loop.state.run_folder import RunFolder

LABELS_IN_SHARD = 256


class StandIn:
    """A labeler that commits at once. It imports no networks: forty of them fit on one machine."""

    def __init__(self, config: Any, coordinator: Any, name: str) -> None:
        self._coordinator = coordinator

    def ready(self) -> int:
        """Return this actor's process id."""
        return os.getpid()

    def beat(self) -> int:
        """Return this actor's process id."""
        return os.getpid()

    def work(self, item: LabelItem, attempt: Attempt = FIRST) -> int:
        """Commit the shard, which is all that a labeler asks the coordinator for at a first attempt."""
        import ray

        ray.get(self._coordinator.commit_item.remote(item))
        return LABELS_IN_SHARD


class Rank:
    """A train worker that does nothing but wait for a round."""

    def wait(self, coordinator: Any) -> None:
        """Wait, in slices as a train worker does."""
        import ray

        while not ray.get(coordinator.wait_labels.remote("l2l", 0, 20.0)):
            pass


def resident_mb(pid: int) -> float:
    """Return what a process holds in memory now, MB of 10^6 bytes."""
    return float(psutil.Process(pid).memory_info().rss / 1e6)


def shared_mb(pid: int) -> float:
    """Return how much of that others may use too, such as code of libraries, MB of 10^6 bytes."""
    return float(psutil.Process(pid).memory_info().shared / 1e6)


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used, in seconds."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def place_version(run: RunFolder, version: int) -> None:
    """Write a version folder without networks."""
    from l2l_ray.loop.state.position import Position
    from l2l_ray.loop.state.version_record import write_position

    folder = run.version_dir("l2l", version)
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text("{}")
    write_position(folder, Position("l2l", version))


def measure(shards: int, ranks: int, actors: int, nodes: int) -> dict[str, Any]:
    """Hand out one round of so many shards; return what it cost."""
    import ray
    from ray.cluster_utils import Cluster

    from l2l_ray.config import smoke_config

    with tempfile.TemporaryDirectory(prefix="l2l-scale-", dir="/tmp") as folder:
        os.environ["RAY_TMPDIR"] = folder
        each = {
            "num_cpus": 1,
            "object_store_memory": 80 * 2**20,
            "node_ip_address": "127.0.0.1",
            "resources": {"label_slot": -(-actors // nodes)},
        }
        cluster = Cluster(initialize_head=True, head_node_args={**each, "include_dashboard": False})
        try:
            for _ in range(nodes - 1):
                cluster.add_node(**each)
            ray.init(address=cluster.address, log_to_driver=False)
            roles = {"num_labelers": actors, "labeler_resources": {"label_slot": 1.0}, "start_timeout_s": 900.0}
            config = smoke_config()
            config = config.model_copy(
                update={
                    "name": "scale",
                    "run_root": f"{folder}/runs",
                    "loop": config.loop.model_copy(update={"rounds": 1, "shard_size": LABELS_IN_SHARD}),
                    "cluster": config.cluster.model_copy(update=roles),
                }
            )
            return _measure(config, shards, ranks) | {"actors": actors, "nodes": nodes}
        finally:
            ray.shutdown()
            cluster.shutdown()


def _measure(config: RunConfig, shards: int, ranks: int) -> dict[str, Any]:
    import ray

    from l2l_ray.actors.background import Background
    from l2l_ray.actors.cluster import actor_options, namespace_of, start_actor, wait_ready
    from l2l_ray.actors.coordinator import ACTOR_OPTIONS, Coordinator, answer, kept_alive
    from l2l_ray.actors.driver import Roles, hand_out_work
    from l2l_ray.actors.labelers import LabelerPool
    from l2l_ray.loop.evaluation.evaluate import Evaluations
    from l2l_ray.loop.progress import Console
    from l2l_ray.loop.state.ledger import Ledger, LedgerEntry, shard_path
    from l2l_ray.loop.state.plan import Plan
    from l2l_ray.loop.state.run_folder import RunFolder

    class Committing(Coordinator):
        """A coordinator that makes the entry itself: a stand-in then needs nothing that imports networks."""

        async def commit_item(self, item: LabelItem) -> bool:
            path = shard_path(item.method, item.round, item.shard)
            key = item.method, item.round, item.shard
            return await self.commit(LedgerEntry(*key, path, "0" * 64, item.version, LABELS_IN_SHARD, 200, 0.5, 1.0))

    class StandIns(LabelerPool):
        labeler = StandIn

        def finished(self, *given: Any) -> Iterator[Any]:
            for done in super().finished(*given):
                yield done
                nonlocal num_done
                num_done += 1
                if num_done == shards:
                    all_done.set()

    num_done, all_done = 0, threading.Event()
    plan = Plan(("l2l",), 1, 0, shards, {}, 512)
    plan.priors_ready("unlabeled")
    with RunFolder(config.run_dir, config).held("a benchmark") as run:
        run.create()
        place_version(run, 0)
        options = actor_options("coordinator", namespace_of(config), {}) | ACTOR_OPTIONS
        coordinator: ActorHandle[Any] = start_actor(Committing, options, config, shards, run.epoch)
        (pid,) = wait_ready("coordinator", [coordinator], 900)
        pool = StandIns(config, coordinator, namespace_of(config))
        pool.pids()
        waiting = [ray.remote(num_cpus=0)(Rank).remote() for _ in range(ranks)]
        ray.get([rank.__ray_ready__.remote() for rank in waiting])

        def train() -> str:
            refs = [rank.wait.remote(coordinator) for rank in waiting]
            all_done.wait()
            ray.get(refs)
            place_version(run, 1)
            answer(coordinator.find_versions.remote())
            return "done"

        nothing: Background[None] = Background("nobody", lambda: None)
        me, load = os.getpid(), os.getloadavg()[0]
        with kept_alive(coordinator, config.cluster) as watch:
            training = Background("train group", train)
            roles = Roles(coordinator, pool, nothing, nothing, training, watch)
            before = resident_mb(me), resident_mb(pid)
            used, since = (cpu_s(me), cpu_s(pid)), time.monotonic()
            hand_out_work(plan, Evaluations(run), roles, run, _no_data(), Console(config, stream=None))
            seconds = time.monotonic() - since
            used = cpu_s(me) - used[0], cpu_s(pid) - used[1]
            held = resident_mb(me), resident_mb(pid)
        committed = len(Ledger(run.ledger_path))
    return {
        "shards": shards,
        "ranks": ranks,
        "committed": committed,
        "load_at_start": round(load, 1),
        "shards_per_s": round(shards / seconds, 1),
        "driver_cpu_ms_per_shard": round(1000 * used[0] / shards, 2),
        "coordinator_cpu_ms_per_shard": round(1000 * used[1] / shards, 2),
        "driver_mb": round(held[0]),
        "coordinator_mb": round(held[1]),
        "driver_mb_at_start": round(before[0]),
        "coordinator_mb_at_start": round(before[1]),
    }


def _no_data() -> RunData:
    from l2l_ray.loop.state.prepare import RunData

    return RunData([], [], {})


def main() -> None:
    """Measure once and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, required=True)
    parser.add_argument("--ranks", type=int, default=0)
    parser.add_argument("--actors", type=int, default=4)
    parser.add_argument("--nodes", type=int, default=1)
    given = parser.parse_args()
    for name, value in (ENV_DEFAULTS | LOOPBACK_ENV | {"RAY_worker_niceness": "0"}).items():
        os.environ.setdefault(name, value)
    sys.stdout.write(json.dumps(measure(given.shards, given.ranks, given.actors, given.nodes)) + "\n")


if __name__ == "__main__":
    main()
