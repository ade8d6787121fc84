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

from l2l_ray.errors import CheckpointError, run_remedy
from l2l_ray.files import is_whole, new_folder, remove_tree
from l2l_ray.loop.state.lease import require_current
from l2l_ray.loop.state.position import Position
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.loop.state.version_record import TRAINING_FILES, forget_files

KEPT_TRAIN_STATES = 2
Write = Callable[[Path], None]


def place(final: Path, write: Write, metrics: dict[str, float]) -> Path:
    """Write a folder under a temporary name and rename it; an existing whole folder stays as it is.

    Raises:
        CheckpointError: The disk is full or not writable; nothing has the final name.
    """
    if is_whole(final):
        return final
    for stale in final.parent.glob(f".{final.name}.*.tmp"):  # of a worker that was killed here
        shutil.rmtree(stale, ignore_errors=True)
    try:
        with new_folder(final, durable=True) as temporary:
            (temporary / "metrics.json").write_text(json.dumps(metrics))
            write(temporary)
    except OSError as error:
        raise CheckpointError(f"cannot write {final}: {error}; {run_remedy(error)}") from error
    return final


def publish(run: RunFolder, position: Position, write: Write, metrics: dict[str, float]) -> Path:
    """Place the folder of a position below `train/` and delete the training states that no restart needs any more.

    Raises:
        LedgerError: The folder was taken over by a later holder.
        CheckpointError: See `place`.
    """
    require_current(run.path, run.epoch)
    folder = place(run.train_dir / position.folder_name, write, metrics)
    prune_train_states(run, str(position.method))
    return folder


def prune_train_states(run: RunFolder, method: str, keep: int = KEPT_TRAIN_STATES) -> None:
    """Delete students and optimiser states that no restart needs, and mid-round folders as a whole.

    The teacher and the selector of every version stay: labels of every round can be made again from them.

    Args:
        run: The run's folder.
        method: The one in training.
        keep: How many of its states stay; of a method whose last version is there, none does.
    """
    for name in run.methods:
        is_over = name != method and run.config.loop.rounds in run.published(name)
        states = _states(run, name)
        for position, folder in states if is_over else states[:-keep] if name == method else ():
            if position.step:
                remove_tree(folder)
            else:
                forget_files(folder, TRAINING_FILES)
                for file in TRAINING_FILES:  # the training state last: by it a folder that was cut here is found again
                    (folder / file).unlink(missing_ok=True)


def newest_checkpoint(run: RunFolder, method: str) -> Path | None:
    """Return the folder from which a method goes on; None when it has to begin from the burn-in.

    That is its last version, where there is one, else the newest folder that holds a training state.
    """
    last = run.version_dir(method, run.config.loop.rounds)
    if (last / "version.json").exists():
        return last
    whole = [folder for _, folder in _states(run, method) if all((folder / file).exists() for file in TRAINING_FILES)]
    return whole[-1] if whole else None


def _states(run: RunFolder, method: str) -> list[tuple[Position, Path]]:
    """Return the folders of a method that hold a training state, in the order in which training writes them."""
    # Hidden folders were not renamed yet: they are not published.
    folders = (path.parent for path in run.train_dir.glob("[!.]*/train_state.pt"))
    found = [(place, folder) for folder in folders if (place := Position.named(folder.name)) is not None]
    found = [(place, folder) for place, folder in found if place.method == method and is_whole(folder)]
    return sorted(found, key=lambda item: (item[0].version, item[0].step))


def log_versions(run: RunFolder) -> None:
    """Copy the figures that lie with each published version into metrics.jsonl, unless they are its last ones there.

    They are read from the folder, so that a process killed between placing a version and logging it loses nothing, and
    a version that was made again has its own figures: of several events, the last one counts.
    """
    logged = {(event["method"], event["version"]): event for event in run.events() if event.get("event") == "train"}
    for method in run.methods:
        for version in sorted(run.published(method)):
            figures = json.loads((run.version_dir(method, version) / "metrics.json").read_text())
            event = {"event": "train", "method": method, "version": version, **figures}
            if json.dumps(logged.get((method, version))) != json.dumps(event):  # as text: NaN is not equal to itself
                run.log_event(event)
