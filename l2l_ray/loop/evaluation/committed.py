"""The pseudo-labels that a run committed, for whoever reads them: which shards, where they come from, at native size.

Labels live on the decoder's grid. The mask itself is brought to the image's size as evaluation does it, bilinear; the
accepted map by nearest cell, because it says what was done with a cell and has nothing in between. No model is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from l2l_ray.confidence import NO_CELL
from l2l_ray.data.masks import encode, nearest
from l2l_ray.data.native_size import grid_logits_to_native
from l2l_ray.datatools.record import ExportedMask
from l2l_ray.errors import HEALS, DataError
from l2l_ray.loop.state.example_files import ExampleTable
from l2l_ray.loop.state.ledger import Ledger, LedgerEntry, num_shards, read_columns, read_shard
from l2l_ray.loop.state.run_folder import RunFolder, open_run
from l2l_ray.types import Example, PseudoLabel

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor


@dataclass(frozen=True)
class Round:
    """The labels that a selector made in a whole round: at least one; see `last_round`.

    Example: `sum(label.target.any() for label in last_round(Path("runs/mine")).labels())`
    """

    run: RunFolder
    method: str
    index: int
    entries: Sequence[LedgerEntry]  # of its shards, in order

    @property
    def paths(self) -> list[Path]:
        """The files of its shards."""
        return [self.run.path / entry.path for entry in self.entries]

    @property
    def about(self) -> dict[str, Any]:
        """Where its labels come from: what is the same in the provenance of each."""
        return {**about_method(self.run, self.method), "source": "pseudo_label", "round": self.index}

    def columns(self, *names: str) -> dict[str, np.ndarray]:
        """Return some columns of all labels; masks that are not among them are not decoded.

        Raises:
            DataError: A label was made with hidden truth.
            LedgerError: A shard cannot be read.
        """
        tables = [read_columns(path, (*names, "sees_truth")) for path in self.paths]
        found = {name: np.concatenate([t[name].to_numpy() for t in tables]) for name in (*names, "sees_truth")}
        require_no_hidden_truth(self.run, bool(found.pop("sees_truth").any()))
        return found

    def labels(self) -> Iterator[PseudoLabel]:
        """Yield the labels, shard by shard; raises as `columns`."""
        for path in self.paths:
            for label in read_shard(path):
                require_no_hidden_truth(self.run, label.sees_truth)
                yield label


def last_round(run_dir: Path, method: str | None = None, round_index: int | None = None) -> Round:
    """Return a whole round of a run, the last one if no other is asked for.

    Args:
        run_dir: A run, finished or not.
        method: Which selector's; None = the main one.
        round_index: Which round; None = the last whole one.
    Raises:
        ConfigError: There is no run in this folder.
        DataError: There is no such whole round, or the run had nothing to label.
    """
    run = open_run(run_dir)
    method = run.methods[-1] if method is None else method
    ledger, config = Ledger(run.ledger_path), run.config
    shards = num_shards(len(ExampleTable(run.examples_path("unlabeled"))), config.loop.shard_size)
    if not shards:
        raise DataError(
            f"{run.path} has no labels: it had no text without a mask; `l2l predict` takes other photos, or give a run "
            "on data of which some texts have no mask"
        )
    complete = {
        name: [r for r in range(config.loop.rounds) if ledger.complete(name, r, shards)] for name in run.methods
    }
    rounds = complete.get(method, [])
    if not any(complete.values()):
        raise DataError(
            f"{run.path} has no whole round of pseudo-labels yet; let the run go on: `l2l runs` shows the command"
        )
    if not rounds or (round_index is not None and round_index not in rounds):
        whole = "; ".join(f"{name}: {', '.join(map(str, found)) or 'none'}" for name, found in complete.items())
        raise DataError(
            f"{run.path} has no committed pseudo-labels of {method!r}"
            f"{'' if round_index is None else f' in round {round_index}'}; its whole rounds are {whole}; "
            "choose one of these, let the run go on, or export predictions by --split"
        )
    index = max(rounds) if round_index is None else round_index
    if run.finished and round_index is None and index < config.loop.rounds - 1:
        raise DataError(
            f"{run.path} is finished, but its last whole round of {method!r} is {index}, expected "
            f"{config.loop.rounds - 1}; {HEALS}"
        )
    return Round(run, method, index, ledger.entries(method, index))


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
    """Return a pseudo-label at its image's size, with all that is known of it; confidence 0 where nothing is left.

    Args:
        example: Its item.
        label: On the grid.
        about: `Round.about`.
        chances: IoU -> how probable it is that the label has at least this.
    """
    height, width = example.height_px, example.width_px
    target = _native_target(example, label)
    accepted = nearest(label.accepted, height, width)
    # A version is a teacher and a policy published together, so both have its number.
    versions = {"model_version": label.version, "policy_version": label.version}
    keys: dict[str, Any] = {
        "sample_key": label.seed,
        "prior_key": label.prior_key,
        "mean_log_prob": label.mean_log_prob,
    }
    keys |= {f"chance_of_iou_{iou:g}": chance for iou, chance in (chances or {}).items()}
    confidence = label.confidence if target.any() else NO_CELL
    return ExportedMask(
        example, encode(target), encode(accepted), confidence, label.gate, {**about, **versions, **keys}
    )


def has_pixel(example: Example, label: PseudoLabel) -> bool:
    """Whether anything of a label is left at its image's size; a small image has no pixel in some cells."""
    if min(example.height_px, example.width_px) >= 2 * label.grid:  # every cell holds the centre of a pixel
        return bool(label.target.any())
    return bool(_native_target(example, label).any())


def _native_target(example: Example, label: PseudoLabel) -> Bool[np.ndarray, "H W"]:
    logits = torch.from_numpy(np.where(label.target, np.float32(1), np.float32(-1)))
    return native_mask(logits, example.height_px, example.width_px)


def native_mask(logits: Float[Tensor, "G G"], height: int, width: int) -> Bool[np.ndarray, "H W"]:
    """Return where logits on the grid, upsampled to the image's size, are above 0."""
    mask: Bool[np.ndarray, "H W"] = (grid_logits_to_native(logits, height, width) > 0).numpy()
    return mask
