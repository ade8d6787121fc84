from __future__ import annotations

import pytest
import torch

from l2l_ray.selector.candidates import (
    CELL_CHANNELS,
    RELATIONS,
    binary_entropy,
    candidates_of,
    cell_evidence,
    edge_distance,
    ious,
    relations,
    rival_ious,
)
from l2l_ray.types import Candidate

T, F = True, False
LEFT = torch.tensor([[0.9, 0.1], [0.8, 0.2]])  # mask: the left column
TOP = torch.tensor([[0.7, 0.6], [0.4, 0.3]])  # mask: the upper row
NONE = torch.full((2, 2), 0.5)  # undecided is no object


def relation(evidence, name):
    """Return one column of the relations, per candidate."""
    return relations(evidence, candidates_of(evidence))[0, :, RELATIONS.index(name)].tolist()


def test_a_candidate_is_possible_if_it_is_a_mask_that_no_earlier_one_is(evidence_of):
    evidence = evidence_of(LEFT[None], unguided=TOP[None], flipped=NONE[None], proposal=1 - LEFT[None])
    found = candidates_of(evidence)
    assert found.possible.tolist() == [[T, T, F, T]]  # flipped is empty
    assert found.masks[0, Candidate.PRIOR].tolist() == [[F, T], [F, T]]
    assert torch.equal(found.maps[0, Candidate.UNGUIDED], TOP)


def test_of_equal_masks_the_first_is_possible(evidence_of):
    found = candidates_of(evidence_of(LEFT[None], flipped=TOP[None], proposal=TOP[None]))
    assert found.possible.tolist() == [[T, F, T, F]]


def test_nothing_is_possible_where_nothing_is_found(evidence_of):
    assert not candidates_of(evidence_of(NONE[None])).possible.any()


def test_there_is_no_prior_without_a_prior(evidence_of):
    evidence = evidence_of(LEFT[None], proposal=1 - LEFT[None], has_prior=torch.tensor([False]))
    found = candidates_of(evidence)
    assert (found.maps[:, Candidate.PRIOR] == 0).all() and not found.possible[0, Candidate.PRIOR]


def test_each_sample_takes_its_own_candidate(evidence_of):
    found = candidates_of(evidence_of(torch.stack([LEFT, LEFT]), unguided=torch.stack([TOP, TOP])))
    taken = found.taken(torch.tensor([Candidate.UNGUIDED, Candidate.GUIDED], dtype=torch.int8))
    assert taken.tolist() == [[[T, T], [F, F]], [[T, F], [T, F]]]


def test_iou_by_hand():
    masks = torch.tensor([[[[T, F], [T, F]], [[T, T], [F, F]], [[F, F], [F, F]], [[T, T], [T, T]]]])
    expected = [[1, 1 / 3, 0, 1 / 2], [1 / 3, 1, 0, 1 / 2], [0, 0, 0, 0], [1 / 2, 1 / 2, 0, 1]]
    assert torch.allclose(ious(masks), torch.tensor([expected]))


def test_iou_counts_whole_numbers_under_autocast():
    masks = torch.ones((1, 2, 64, 64), dtype=torch.bool)
    masks[0, 1, 0, 0] = False
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ious(masks)[0, 0, 1].item() == pytest.approx(4095 / 4096, abs=1e-6)


def test_relations_by_hand(evidence_of):
    evidence = evidence_of(LEFT[None], unguided=TOP[None], prior_score=torch.tensor([0.3]))
    assert relation(evidence, "iou_unguided") == pytest.approx([1 / 3, 1, 1 / 3, 1 / 3])
    inside = (0.7 + 0.4) / 2  # of the unguided map, in the left column
    assert relation(evidence, "inside_unguided") == pytest.approx([inside, 0.65, inside, inside])
    assert relation(evidence, "inside_guided") == pytest.approx([0.85, 0.5, 0.85, 0.85])
    assert relation(evidence, "is_flipped") == [0, 0, 1, 0]
    assert relation(evidence, "side") == pytest.approx([0.5**0.5] * 4)
    entropy = [(0.468996 + 0.721928) / 2, (0.881291 + 0.970951) / 2]  # bits of 0.1 and 0.2; of 0.3 and 0.4
    assert relation(evidence, "entropy")[:2] == pytest.approx(entropy, abs=1e-5)
    assert relation(evidence, "prior_score") == pytest.approx([0.3] * 4)
    assert relation(evidence, "has_prior") == [1] * 4


def test_the_iou_with_rivals_by_hand():
    left, top, whole, none = [[T, F], [T, F]], [[T, T], [F, F]], [[T, T], [T, T]], [[F, F], [F, F]]
    masks = torch.tensor([[left, none], [top, whole]])  # two samples with two candidates each
    guided = torch.tensor([left, top, whole])  # the two samples' own labels, and that of a third expression
    rivals = torch.tensor([[F, T, F], [T, F, T]])
    found = rival_ious(masks, guided, rivals)
    assert torch.allclose(found, torch.tensor([[1 / 3, 0], [1 / 2, 1]]))
    assert rival_ious(masks, guided, rivals & F).tolist() == [[0, 0], [0, 0]], "no rival, no claim"


def test_rivals_are_one_of_the_relations(evidence_of):
    evidence = evidence_of(LEFT[None], rival_iou=torch.tensor([[0.1, 0.2, 0.3, 0.4]]))
    assert relation(evidence, "rival_iou") == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_a_missing_prior_says_nothing(evidence_of):
    evidence = evidence_of(LEFT[None], has_prior=torch.tensor([False]))
    for name in ("iou_prior", "inside_prior", "prior_score", "has_prior"):
        assert relation(evidence, name) == [0] * 4


@pytest.mark.parametrize("grid", [4, 16])
def test_relations_are_bounded_and_those_of_each_sample_alone(bandit, rows_of, grid):
    evidence, _ = bandit(6, grid=grid, seed=1)
    found = relations(evidence, candidates_of(evidence))
    assert found.shape == (6, len(Candidate), len(RELATIONS)) and found.dtype == torch.float32
    assert found.abs().max() <= 1
    part = rows_of(evidence, [4, 1])
    assert torch.allclose(found[[4, 1]], relations(part, candidates_of(part)), atol=1e-6)


def test_entropy_is_in_bits_and_finite_at_the_ends():
    entropy = binary_entropy(torch.tensor([0.0, 0.5, 1.0, 0.25]))
    assert entropy.tolist() == pytest.approx([0.0, 1.0, 0.0, 0.811278], abs=1e-5)


def test_edge_distance_by_hand():
    mask = torch.zeros(1, 12, 12, dtype=torch.bool)
    mask[:, 3:8, 3:8] = True  # reach is 12 // 4 = 3 cells
    row = edge_distance(mask)[0, 5] * 3
    assert row.tolist() == [3, 2, 1, 1, 2, 3, 2, 1, 1, 2, 3, 3]


@pytest.mark.parametrize("value", [T, F])
def test_a_mask_without_an_edge_is_far_from_it(value):
    assert (edge_distance(torch.full((2, 6, 6), value)) == 1).all()


def test_cells_are_seen_from_the_side_of_the_label(evidence_of):
    evidence = evidence_of(torch.stack([LEFT, LEFT]), unguided=torch.stack([TOP, TOP]), has_prior=torch.tensor([T, F]))
    label = torch.tensor([[[T, F], [F, F]]] * 2)
    found = cell_evidence(candidates_of(evidence), label, evidence.has_prior)
    assert found.shape == (2, len(CELL_CHANNELS), 2, 2)

    def channel(name, row=0):
        return found[row, CELL_CHANNELS.index(name)].flatten().tolist()

    assert channel("guided_support") == pytest.approx([0.8, 0.8, -0.6, 0.6])
    assert channel("unguided_support") == pytest.approx([0.4, -0.2, 0.2, 0.4])
    assert channel("prior_support") == pytest.approx([0.8, 0.8, -0.6, 0.6])
    assert channel("prior_support", row=1) == [0] * 4
    assert channel("object") == [1, -1, -1, -1]
    assert channel("edge_distance") == [1] * 4  # the reach of a grid of 2 is one cell
