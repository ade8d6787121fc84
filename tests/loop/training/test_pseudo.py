"""Accepted pixels become training samples: packing, leaving out, and the round's figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from l2l_ray.loop.inference.inputs import ExampleSet
from l2l_ray.loop.state.ledger import write_shard
from l2l_ray.loop.training.pseudo import PseudoSet
from l2l_ray.types import Candidate, PseudoLabel

GRID = 4
SetOf = Callable[..., ExampleSet]


def _label(sent_id: int, **given: Any) -> PseudoLabel:
    nothing = np.zeros((GRID, GRID), bool)
    fields = {
        "source": Candidate.GUIDED, "target": nothing, "accepted": nothing, "weight": None, "gate": 1.0,
    } | given  # fmt: skip
    return PseudoLabel(
        sent_id=sent_id, grid=GRID, confidence=0.5, seed=0, mean_log_prob=0.0, version=0,
        prior_key="", **fields,
    )  # fmt: skip


def _cells(*where: tuple[int, int]) -> np.ndarray:
    mask = np.zeros((GRID, GRID), bool)
    for y, x in where:
        mask[y, x] = True
    return mask


def _read(tmp_path: Path, unlabeled: ExampleSet, *shards: list[PseudoLabel]) -> PseudoSet:
    files = [tmp_path / f"s{number}.parquet" for number in range(len(shards))]
    for file, labels in zip(files, shards, strict=True):
        write_shard(file, labels)
    return PseudoSet.read(files, unlabeled)


def test_targets_and_weights_come_back(tmp_path: Path, set_of: SetOf) -> None:
    weight = np.zeros((GRID, GRID), np.uint8)
    weight[0] = [255, 128, 1, 0]
    label = _label(
        100,
        target=_cells((0, 0), (0, 2), (3, 3)),
        accepted=_cells((0, 0), (0, 1), (0, 2), (0, 3)),
        weight=weight,
    )
    batch = _read(tmp_path, set_of(1, grid=GRID), [label]).batch([0])
    assert batch.target.bool()[0].tolist() == label.target.tolist()
    assert batch.pixel_weight[0, 0].tolist() == pytest.approx([1.0, 128 / 255, 1 / 255, 0.0], abs=0.5 / 127)
    assert batch.pixel_weight[0, 1:].sum() == 0


def test_without_a_weight_map_every_accepted_cell_counts_in_full(tmp_path: Path, set_of: SetOf) -> None:
    label = _label(100, accepted=_cells((1, 1), (2, 2)), target=_cells((2, 2)))
    batch = _read(tmp_path, set_of(1, grid=GRID), [label]).batch([0])
    assert torch.equal(batch.pixel_weight[0], torch.from_numpy(_cells((1, 1), (2, 2))).float())


def test_labels_that_are_gated_off_or_name_no_object_cell_are_left_out(tmp_path: Path, set_of: SetOf) -> None:
    cell, other = _cells((0, 0)), _cells((3, 3))
    shards = (
        [_label(102, accepted=cell, target=cell), _label(100, accepted=cell, target=cell, gate=0.49)],
        [_label(103), _label(101, source=Candidate.PRIOR, accepted=cell, target=cell, gate=0.5)],
        [_label(104, accepted=cell), _label(105, accepted=cell, target=other)],  # background alone is accepted
    )
    pseudo = _read(tmp_path, set_of(6, grid=GRID), *shards)
    assert len(pseudo) == 2
    assert pseudo.batch([0, 1]).inputs.expressions == ["left red circle 2", "left red circle 1"]


def test_figures_of_a_round_by_hand(tmp_path: Path, set_of: SetOf) -> None:
    labels = [
        _label(100, accepted=_cells((0, 0), (0, 1), (0, 2), (1, 0)), target=_cells((0, 0))),
        _label(101, accepted=_cells((0, 0), (0, 1)), target=_cells((0, 0), (0, 1), (3, 3))),
        _label(102, accepted=_cells((0, 0)), gate=0.1),
        _label(103),
    ]
    summary = _read(tmp_path, set_of(4, grid=GRID), labels).summary()
    assert summary == pytest.approx(
        {
            "labels/num": 4.0,
            "labels/used_frac": 0.5,
            "labels/accepted_frac": (4 + 2) / (4 * 16),
            "labels/foreground_frac": (1 + 2) / (4 + 2),
        }
    )


def test_a_round_that_accepted_nothing_has_figures_and_no_samples(tmp_path: Path, set_of: SetOf) -> None:
    pseudo = _read(tmp_path, set_of(2, grid=GRID), [_label(100), _label(101)])
    assert len(pseudo) == 0
    assert pseudo.summary() == {
        "labels/num": 2.0, "labels/used_frac": 0.0, "labels/accepted_frac": 0.0, "labels/foreground_frac": 0.0,
    }  # fmt: skip


def test_the_empty_set_says_nothing() -> None:
    assert len(PseudoSet.empty()) == 0
    assert PseudoSet.empty().summary() == {}
    with pytest.raises(AssertionError, match="no batches"):
        PseudoSet.empty().batch([0])
