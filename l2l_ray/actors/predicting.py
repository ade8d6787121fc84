"""Photos and texts answered by many processes: what `l2l predict` does in one, with the same files at the end.

A part of the items is one call of an actor, and as many items as the predictor looks at together, so that an answer
depends on no number of actors. An actor writes the files of its items, each under a name that the item gives, so doing
a part twice is harmless; the index has one writer, the driver. Ray restarts an actor that died and repeats its call.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ray.exceptions import RayTaskError
from ray.util import ActorPool

from l2l_ray.actors.cluster import (
    LOST,
    MAX_RESTARTS,
    Need,
    actor_options,
    device_for,
    namespace_for,
    own_error,
    start_actor,
    wait_in_line,
    wait_ready,
)
from l2l_ray.actors.connection import connected
from l2l_ray.actors.logs import KeptNotes, Relay, log_as
from l2l_ray.config import ClusterConfig
from l2l_ray.errors import ClusterError, LedgerError
from l2l_ray.job import say
from l2l_ray.loop.state.visibility import wait_seen
from l2l_ray.predictions import PredictionFolder
from l2l_ray.predictor import Predictor, num_at_once, run_and_version
from l2l_ray.types import PhotoText

logger = logging.getLogger(__name__)

Noted = Callable[[dict[str, Any], int], None]  # a row of the index, and how many there are now


class PredictionActor:
    """A predictor in a process of its own.

    Args:
        name: Its own, as in Ray's dashboard.
        checkpoint: A finished run, or one of its versions.
        out: Folder of the results.
        run: Whose answers they are, as the index names it.
        weights: SHA-256 of the weights that answer.
        cluster: Threads and resources of a labeler.
    """

    def __init__(self, name: str, checkpoint: Path, out: Path, run: str, weights: str, cluster: ClusterConfig) -> None:
        import torch

        torch.set_num_threads(cluster.threads_per_labeler)
        log_as(run, name)
        self._title = f"{name} of {run}"
        self._notes = KeptNotes()
        self._folder = PredictionFolder(out, run, weights, {})
        self._predictor = Predictor.from_run(checkpoint, device=device_for(cluster.labeler_resources))

    def __repr__(self) -> str:
        """Return whose labeler it is, for Ray's dashboard."""
        return self._title

    def ready(self) -> bool:
        """Return whether the models are loaded."""
        return True

    def work(self, items: list[PhotoText]) -> tuple[list[dict[str, Any]], list[str]]:
        """Answer items, write their files, and return their rows of the index, and what was noted meanwhile.

        Raises:
            DataError: Something cannot be written.
        """
        rows = [self._folder.save(result) for result in self._predictor.predict_many(items)]
        return rows, self._notes.taken()


def predict(
    checkpoint: Path, items: Sequence[PhotoText], folder: PredictionFolder, cluster: ClusterConfig, noted: Noted
) -> None:
    """Answer all items once the cluster has room; what is noted in the folder stays, whatever happens.

    Args:
        checkpoint: A finished run, or one of its versions.
        items: Photos and texts; paths as every process sees them.
        folder: Of the results.
        cluster: `num_labelers` actors, their resources, and limits.
        noted: Told of each item that is done.
    Raises:
        L2LError: The checkpoint cannot be used, the cluster is too small, nothing can be written, or only where nobody
            else sees it, or actors died or hung too often.
    """
    size = num_at_once(run_and_version(checkpoint)[0].config)
    parts = [list(items[start : start + size]) for start in range(0, len(items), size)]
    with connected(cluster):
        need = Need("labeler", min(cluster.num_labelers, len(parts)), cluster.labeler_resources)
        wait_in_line([need], cluster, say, "add nodes, or lower cluster.num_labelers")
        retries = {"max_restarts": MAX_RESTARTS, "max_task_retries": cluster.max_item_retries}
        namespace = namespace_for(folder.run, folder.path.absolute())
        args = (checkpoint.absolute(), folder.path.absolute(), folder.run, folder.weights, cluster)
        names = [f"labeler-{index}" for index in range(need.count)]
        actors = [
            start_actor(PredictionActor, actor_options(name, namespace, need.each) | retries, name, *args)
            for name in names
        ]
        wait_ready("labeler", actors, cluster.start_timeout_s)
        pool: Any = ActorPool(actors)
        for part in parts:
            pool.submit(lambda actor, part: actor.work.remote(part), part)
        num_done, relay = 0, Relay()
        while pool.has_next():
            rows, notes = _next_part(pool, cluster)
            relay.say(notes)
            try:
                wait_seen(partial(_are_there, folder, rows), "a mask", "is not seen here")
            except LedgerError:
                name = next((path.name for path in folder.lacking(rows)), "a mask")
                raise ClusterError(
                    f"a labeler wrote {name}, which is not in {folder.path} here; expected a folder that all nodes "
                    "share: give one as --out"
                ) from None
            for row in rows:
                folder.note(row)
                num_done += 1
                noted(row, num_done)


def _are_there(folder: PredictionFolder, rows: list[dict[str, Any]]) -> bool:
    return not folder.lacking(rows)


def _next_part(pool: Any, cluster: ClusterConfig) -> tuple[list[dict[str, Any]], list[str]]:
    try:
        part: tuple[list[dict[str, Any]], list[str]] = pool.get_next_unordered(timeout=cluster.work_timeout_s)
        return part
    except RayTaskError as error:
        raise own_error(error) from None
    except TimeoutError:
        raise ClusterError(
            f"no labeler finished a part within cluster.work_timeout_s={cluster.work_timeout_s:g}; raise it; the same "
            "command goes on"
        ) from None
    except LOST as error:
        raise ClusterError(
            f"a part lost its labeler more than cluster.max_item_retries={cluster.max_item_retries} times, or one "
            f"labeler was lost more than {MAX_RESTARTS} times: {error}; the same command goes on"
        ) from error
