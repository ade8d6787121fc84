"""Versions on disk: the folders under `train/` that say where training stands.

    train/<method>-v0002/          a published version: what labels, and what training needs to continue
    train/<method>-v0002-s00040/   a training state inside the round after it

A folder is written under another name and renamed, so one with its final name is whole. Both hosts publish the same
way, hence a run may be killed under one and resumed under the other.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from l2l_ray.errors import FREE_SPACE, CheckpointError
from l2l_ray.files import new_folder
from l2l_ray.loop.state.checkpoint import read_position
from l2l_ray.loop.state.position import Position
from l2l_ray.loop.state.run_folder import RunFolder

KEPT_TRAIN_STATES = 2
Write = Callable[[Path], None]


def place(final: Path, write: Write, metrics: dict[str, float]) -> Path:
    """Write a folder under a temporary name and rename it; an existing whole folder stays as it is.

    Raises:
        CheckpointError: The disk is full or not writable; nothing has the final name.
    """
    if final.exists():
        return final
    for stale in final.parent.glob(f".{final.name}.*.tmp"):  # of a worker that was killed here
        shutil.rmtree(stale, ignore_errors=True)
    try:
        with new_folder(final) as temporary:
            (temporary / "metrics.json").write_text(json.dumps(metrics))
            write(temporary)
    except OSError as error:
        raise CheckpointError(f"cannot write {final}: {error}; {FREE_SPACE}") from error
    return final


def publish(run: RunFolder, position: Position, write: Write, metrics: dict[str, float]) -> Path:
    """Place the folder of a position below `train/` and delete the training states that no restart needs any more.

    Raises:
        CheckpointError: See `place`.
    """
    folder = place(run.train_dir / position.folder_name, write, metrics)
    prune_train_states(run)
    return folder


def prune_train_states(run: RunFolder, keep: int = KEPT_TRAIN_STATES) -> None:
    """Delete optimiser states that no restart needs, and mid-round folders as a whole.

    Weights of versions stay: labels of every round can be made again from them.
    """
    for position, folder in _in_order(run, "train_state.pt")[:-keep]:
        if position.step:
            shutil.rmtree(folder)
        else:
            (folder / "train_state.pt").unlink()


def newest_checkpoint(run: RunFolder) -> Path | None:
    """Return the folder training was at last, by (method order, version, step); None when there is none."""
    found = _in_order(run, "version.json")
    return found[-1][1] if found else None


def _in_order(run: RunFolder, holding: str) -> list[tuple[Position, Path]]:
    """Return the whole folders that hold a file, in the order in which training writes them."""
    # Hidden folders were not renamed yet: they are not published.
    found = [(read_position(path.parent), path.parent) for path in run.train_dir.glob(f"[!.]*/{holding}")]
    order = {method: number for number, method in enumerate(run.methods)}
    return sorted(found, key=lambda item: (order[str(item[0].method)], item[0].version, item[0].step))


def log_versions(run: RunFolder) -> None:
    """Copy the figures that lie with each published version into metrics.jsonl, once per version.

    They are read from the folder, so that a process killed between placing a version and logging it loses nothing.
    """
    logged = {(event["method"], event["version"]) for event in run.events() if event.get("event") == "train"}
    for method in run.methods:
        for version in sorted(run.published(method)):
            if (method, version) not in logged:
                figures = json.loads((run.version_dir(method, version) / "metrics.json").read_text())
                run.log_event({"event": "train", "method": method, "version": version, **figures})
