"""Ceilings use what is right by hidden truth, and mark every label as made with it."""

from __future__ import annotations

import pytest
import torch

from benchmarks.compare.oracles import ORACLES, HiddenTruth, OracleEngine
from l2l_ray.loop.inference.engine import InferenceEngine
from l2l_ray.loop.state.example_files import read_examples
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.types import Candidate, Evidence


def maps(*rows: list[float]) -> torch.Tensor:
    """Return [B, 2, 2] from four cells per sample."""
    return torch.tensor(rows).reshape(-1, 2, 2)


# Truth: the upper row. The guided label is right (IoU 1), half right (1/2), on the other row (0).
TRUTH = maps([1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]) > 0.5
GUIDED = maps([0.9, 0.9, 0, 0], [0.9, 0, 0, 0], [0, 0, 0.9, 0.9])
PRIOR = maps([0, 0, 0.9, 0.9], [0.9, 0.9, 0.9, 0], [0, 0, 0.9, 0])  # IoU 0, 2/3, 0
EVIDENCE = Evidence(
    mask_probs=GUIDED,
    mask_probs_unguided=GUIDED,
    mask_probs_flipped=GUIDED,
    proposal=PRIOR,
    prior_score=torch.ones(3),
    has_prior=torch.ones(3, dtype=torch.bool),
    rival_iou=torch.zeros(3, len(Candidate)),
)


@pytest.mark.parametrize(
    ("name", "used", "sources"),
    [
        ("sample", [True, False, False], [Candidate.GUIDED] * 3),
        ("best_candidate", [True, True, False], [Candidate.GUIDED, Candidate.PRIOR, Candidate.GUIDED]),
        ("true_masks", [True, True, True], [Candidate.GUIDED] * 3),
    ],
)
def test_what_each_uses(whole_run: RunFolder, name: str, used: list[bool], sources: list[Candidate]) -> None:
    selection = ORACLES[name](whole_run.config, whole_run.path).decide(EVIDENCE, TRUTH)
    assert selection.used.tolist() == used
    assert [Candidate(source) for source in selection.source.tolist()] == sources
    if name == "true_masks":
        assert torch.equal(selection.target, TRUTH)


@pytest.mark.parametrize("make", ORACLES.values(), ids=ORACLES)
def test_labels_of_a_run_are_marked_and_right(whole_run: RunFolder, make: type[OracleEngine]) -> None:
    engine, truth = make(whole_run.config, whole_run.path), HiddenTruth(whole_run.config)
    num = min(16, len(read_examples(whole_run.examples_path("unlabeled"))))
    labels = list(engine.pseudo_labels("l2l", 0, 0, list(range(num))))
    assert len(labels) == num and all(label.sees_truth for label in labels)
    for label in labels:
        mask = truth.masks([label.sent_id], label.grid)[0].numpy()
        iou = (mask & label.target).sum() / max(1, (mask | label.target).sum())
        assert bool(label.accepted.all()) == (label.gate >= 0.5) == (iou > 0.5)


def test_evaluation_is_as_ever(whole_run: RunFolder) -> None:
    engine = ORACLES["true_masks"](whole_run.config, whole_run.path)
    engines = engine, InferenceEngine(whole_run.config, whole_run.path)
    found, ordinary = (next(each.evidence_and_selection("l2l", 0, "val", [0, 1])).selection for each in engines)
    assert torch.equal(found.target, ordinary.target) and torch.equal(found.gate, ordinary.gate)
