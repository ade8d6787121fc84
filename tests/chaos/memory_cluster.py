"""A Ray cluster that kills who takes much memory, and a labeler that does, once; `test_memory` runs it.

The command line is a fresh folder. Prints the items that were done.
"""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import ray

from l2l_ray.actors.labelers import LabelerPool
from l2l_ray.config import smoke_config
from l2l_ray.loop.state.ledger import Attempt
from l2l_ray.loop.state.plan import LabelItem, WorkItem
from tests.actors.dying_worker import DyingWorker

EATS_ONCE = 11
CHUNK = 64 * 2**20  # bytes
ALLOWED_GB = 2.0  # above what is in use at the start; two idle workers take a part of it


class Eater(DyingWorker):
    """Takes memory until it is killed, at the first attempt of one item."""

    def work(self, item: WorkItem, attempt: Attempt) -> int:
        held = []
        while isinstance(item, LabelItem) and item.shard == EATS_ONCE and attempt.number == 0:
            held.append(bytearray(b"x" * CHUNK))
        return super().work(item, attempt)


def main(folder: Path) -> None:
    memory = psutil.virtual_memory()
    threshold = (memory.total - memory.available + ALLOWED_GB * 2**30) / memory.total
    settings = {"memory_usage_threshold": threshold, "memory_monitor_refresh_ms": 50}
    ray.init(address="local", num_cpus=2, include_dashboard=False, _system_config=settings)
    config = smoke_config().model_copy(update={"run_root": str(folder)})
    config.run_dir.mkdir(parents=True)
    LabelerPool.labeler = Eater
    pool = LabelerPool(config, None, "test-memory")  # type: ignore[arg-type]
    pool.pids()
    todo, done = [LabelItem("l2l", 0, shard, 0) for shard in (5, EATS_ONCE, 6, 7)], list[object]()
    while todo or pool.busy:
        while todo and pool.has_room:
            pool.submit(todo.pop(0))
        done += [result for _, result in pool.finished(0.2)]
    print(sorted(done))
    ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
