"""The pseudo-labels that a run committed, for whoever reads them: which shards, where they come from, at native size.

Labels live on the decoder's grid. The mask itself is brought to the image's size as evaluation does it, bilinear; the
accepted map by nearest cell, because it says what was done with a cell and has nothing in between. No model is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from l2l_ray.config import read_config
from l2l_ray.data.masks import encode, grid_logits_to_native
from l2l_ray.datatools.record import ExportedMask
from l2l_ray.errors import DataError
from l2l_ray.loop.state.example_files import ExampleTable
from l2l_ray.loop.state.ledger import Ledger, LedgerEntry, num_shards, read_shard
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.types import Example, PseudoLabel

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor


def open_run(run_dir: Path) -> RunFolder:
    """Return a run by its folder.

    Raises:
        ConfigError: There is none.
    """
    return RunFolder(run_dir, read_config(run_dir / "config.yaml"))


def committed_shards(run: RunFolder, method: str, round_index: int | None = None) -> tuple[list[LedgerEntry], int]:
    """Return the shards of a whole round, in order, and which round it is.

    Args:
        run: Its folder.
        method: Which selector's.
        round_index: Which round; None = the last whole one.
    Raises:
        DataError: There is no such whole round.
    """
    ledger, config = Ledger(run.ledger_path), run.config
    shards = num_shards(len(ExampleTable(run.examples_path("unlabeled"))), config.loop.shard_size)
    complete = {
        name: [r for r in range(config.loop.rounds) if ledger.complete(name, r, shards)] for name in run.methods
    }
    rounds = complete.get(method, [])
    if not rounds or (round_index is not None and round_index not in rounds):
        whole = "; ".join(f"{name}: {', '.join(map(str, found)) or 'none'}" for name, found in complete.items())
        raise DataError(
            f"{run.path} has no committed pseudo-labels of {method!r}"
            f"{'' if round_index is None else f' in round {round_index}'}; its whole rounds are {whole}; "
            "choose one of these, let the run go on, or export predictions by --split"
        )
    chosen = max(rounds) if round_index is None else round_index
    return ledger.entries(method, chosen), chosen


def committed_labels(run: RunFolder, method: str, round_index: int | None = None) -> tuple[list[PseudoLabel], int]:
    """Return the labels of a whole round, and which one it is; None = the last.

    Raises:
        DataError: There is none.
        LedgerError: A committed shard cannot be read.
    """
    entries, chosen = committed_shards(run, method, round_index)
    return [label for entry in entries for label in read_shard(run.path / entry.path)], chosen


def require_no_hidden_truth(run: RunFolder, sees_truth: bool) -> None:
    """Refuse a run of which any label was made with hidden truth.

    Raises:
        DataError: It was.
    """
    if sees_truth:
        raise DataError(
            f"{run.path} was trained on labels that a benchmark made with hidden truth; nothing of it is to be used: "
            "export another run"
        )


def about_labels(run: RunFolder, method: str, round_index: int) -> dict[str, Any]:
    """Return where the pseudo-labels of a round come from: what is the same in the provenance of each."""
    return {**about_method(run, method), "source": "pseudo_label", "round": round_index}


def about_method(run: RunFolder, method: str) -> dict[str, Any]:
    """Return which run and method masks come from: what is the same in the provenance of each."""
    config = run.config
    return {
        "run": run.path.name,
        "dataset": config.data.dataset,
        "split_by": config.data.split_by,
        "method": method,
        "seed": config.loop.seed,
    }


def pseudo_mask(
    example: Example, label: PseudoLabel, about: dict[str, Any], chances: Mapping[float, float] | None = None
) -> ExportedMask:
    """Return a pseudo-label at its image's size, with all that is known of it.

    Args:
        example: Its item.
        label: On the grid.
        about: From `about_labels`.
        chances: IoU -> how probable it is that the label has at least this.
    """
    height, width = example.height_px, example.width_px
    target = native_mask(torch.from_numpy(np.where(label.target, 1.0, -1.0)), height, width)
    accepted = native_cells(label.accepted, height, width)
    # A version is a teacher and a policy published together, so both have its number.
    versions = {"model_version": label.version, "policy_version": label.version}
    keys: dict[str, Any] = {
        "sample_key": label.seed,
        "prior_key": label.prior_key,
        "mean_log_prob": label.mean_log_prob,
    }
    keys |= {f"chance_of_iou_{iou:g}": chance for iou, chance in (chances or {}).items()}
    return ExportedMask(
        example, encode(target), encode(accepted), label.confidence, label.gate, {**about, **versions, **keys}
    )


def native_mask(logits: Float[Tensor, "G G"], height: int, width: int) -> Bool[np.ndarray, "H W"]:
    """Return where logits on the grid, upsampled to the image's size, are above 0."""
    mask: Bool[np.ndarray, "H W"] = (grid_logits_to_native(logits, height, width) > 0).numpy()
    return mask


def native_cells(cells: Bool[np.ndarray, "G G"], height: int, width: int) -> Bool[np.ndarray, "H W"]:
    """Return a map of the grid at the image's size: each pixel has the value of the cell that its centre lies in."""
    rows, columns = (((2 * np.arange(size) + 1) * len(cells)) // (2 * size) for size in (height, width))
    return cells[np.ix_(rows, columns)]
