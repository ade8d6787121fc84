"""The teacher follows the student by hand-computed steps; each prediction is what its name says, sample by sample."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor, nn

from l2l_ray.data.augment import swap_left_right
from l2l_ray.loop.inference.inputs import Inputs, Rivals
from l2l_ray.loop.inference.teacher import gather_evidence, guided_evidence, predict, update_teacher
from l2l_ray.segmenter.model import Segmenter
from l2l_ray.selector.candidates import candidates_of, rival_ious
from l2l_ray.types import Candidate, Evidence

pytestmark = pytest.mark.usefixtures("one_thread")
WORDS = ["left red circle", "big blue star", "left-handed batter", "the ring on the right of the square"]
UNSAFE = 2  # "left-handed batter" cannot be mirrored


class Layer(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((2,), value))
        self.register_buffer("running", torch.full((1,), 10 * value))
        self.register_buffer("count", torch.tensor(int(value)))


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 3.0), (1, 2.0), (3, 1.5), (9, 1.2), (999, 1.2)],  # decays 0, 1/2, 3/4, 0.9 and 0.9: the bound
)
def test_the_teacher_moves_by_the_warmed_up_decay(step: int, expected: float) -> None:
    teacher, student = Layer(1.0), Layer(3.0)
    update_teacher(teacher, student, step, 0.9)
    torch.testing.assert_close(teacher.weight.detach(), torch.full((2,), expected))
    torch.testing.assert_close(teacher.running, torch.tensor([10 * expected]))
    assert teacher.count == 1  # integers are not averaged
    assert torch.equal(student.weight, torch.full((2,), 3.0))


def test_no_gradient_passes_between_teacher_and_student() -> None:
    teacher, student = Layer(1.0).requires_grad_(False), Layer(3.0)
    student.weight.sum().backward()
    update_teacher(teacher, student, 1, 0.9)
    assert teacher.weight.grad is None and not teacher.weight.requires_grad
    assert torch.equal(student.weight.grad, torch.ones(2))


@pytest.fixture
def batch(segmenter: Segmenter, inputs_of: Callable[..., Inputs]) -> Inputs:
    return inputs_of(WORDS, segmenter.grid)


@pytest.fixture
def evidence(segmenter: Segmenter, batch: Inputs) -> Evidence:
    return gather_evidence(segmenter, batch, alone(batch), False)


def alone(batch: Inputs) -> Rivals:
    return Rivals(None, torch.zeros(len(batch), len(batch), dtype=torch.bool))


def _probs(model: Segmenter, inputs: Inputs) -> Tensor:
    return predict(model, inputs, False).sigmoid()


def _hidden(inputs: Inputs) -> Inputs:
    return inputs.without_prior(torch.ones(len(inputs), dtype=torch.bool))


def test_every_view_is_the_prediction_it_names(segmenter: Segmenter, batch: Inputs, evidence: Evidence) -> None:
    close = {"atol": 1e-5, "rtol": 0.0}
    torch.testing.assert_close(evidence.mask_probs, _probs(segmenter, batch), **close)
    torch.testing.assert_close(evidence.mask_probs_unguided, _probs(segmenter, _hidden(batch)), **close)
    with_and_without = (evidence.mask_probs - evidence.mask_probs_unguided).abs().amax((1, 2)) > 1e-4
    assert with_and_without.tolist() == batch.has_prior.tolist()


def test_the_flipped_view_is_the_mirrored_image_with_mirrored_words(
    segmenter: Segmenter, batch: Inputs, evidence: Evidence
) -> None:
    words = [swap_left_right(text) or text for text in batch.expressions]
    mirrored = replace(_hidden(batch), images=batch.images.flip(-1), expressions=words)
    expected = _probs(segmenter, mirrored).flip(-1)
    safe = [row for row in range(len(WORDS)) if row != UNSAFE]
    torch.testing.assert_close(evidence.mask_probs_flipped[safe], expected[safe], atol=1e-5, rtol=0.0)
    assert (evidence.mask_probs_flipped[safe] - evidence.mask_probs_unguided[safe]).abs().amax((1, 2)).min() > 1e-4


def test_where_mirroring_is_refused_the_unguided_view_is_repeated(evidence: Evidence) -> None:
    assert torch.equal(evidence.mask_probs_flipped[UNSAFE], evidence.mask_probs_unguided[UNSAFE])


def test_views_without_the_prior_do_not_know_the_prior(segmenter: Segmenter, batch: Inputs, evidence: Evidence) -> None:
    other = replace(batch, proposal=1 - batch.proposal, prior_score=batch.prior_score / 2, phrases=["a dog"] * 4)
    again = gather_evidence(segmenter, other, alone(other), False)
    assert torch.equal(again.mask_probs_unguided, evidence.mask_probs_unguided)
    assert torch.equal(again.mask_probs_flipped, evidence.mask_probs_flipped)
    assert not torch.equal(again.mask_probs, evidence.mask_probs)


def test_views_are_the_same_each_time(segmenter: Segmenter, batch: Inputs, evidence: Evidence) -> None:
    again = gather_evidence(segmenter, batch, alone(batch), False)
    for field in fields(Evidence):
        assert torch.equal(getattr(again, field.name), getattr(evidence, field.name)), field.name


def _rows(inputs: Inputs, rows: list[int]) -> Inputs:
    return Inputs(
        images=inputs.images[rows],
        expressions=[inputs.expressions[row] for row in rows],
        phrases=[inputs.phrases[row] for row in rows],
        proposal=inputs.proposal[rows],
        prior_score=inputs.prior_score[rows],
        has_prior=inputs.has_prior[rows],
    )


def test_a_sample_does_not_depend_on_its_batch(segmenter: Segmenter, batch: Inputs, evidence: Evidence) -> None:
    for rows in ([2], [3, 0]):  # alone; and with others, in another order and padded to another length
        part = gather_evidence(segmenter, _rows(batch, rows), alone(_rows(batch, rows)), False)
        for field in fields(Evidence):
            found, expected = getattr(part, field.name).float(), getattr(evidence, field.name)[rows].float()
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4, msg=field.name)


def test_rivals_count_alike_in_the_batch_and_outside_it(
    segmenter: Segmenter, batch: Inputs, evidence: Evidence
) -> None:
    is_rival = torch.zeros(4, 4, dtype=torch.bool)
    is_rival[0, 1] = is_rival[1, 0] = is_rival[0, 3] = True
    together = gather_evidence(segmenter, batch, Rivals(None, is_rival), False)
    expected = rival_ious(candidates_of(evidence).masks, evidence.mask_probs > 0.5, is_rival)
    torch.testing.assert_close(together.rival_iou, expected, atol=1e-3, rtol=0.0)
    assert expected[:2].max() > 0 and (expected[2:] == 0).all()
    outside = Rivals(_rows(batch, [1, 3]), is_rival[:1, [0, 1, 3]])
    first = gather_evidence(segmenter, _rows(batch, [0]), outside, False)
    torch.testing.assert_close(first.rival_iou, together.rival_iou[:1], atol=1e-2, rtol=0.0)


def test_rivals_outside_the_batch_need_no_more_memory_than_the_batch(
    segmenter: Segmenter, batch: Inputs, inputs_of: Callable[..., Inputs], memory_for: Callable[[int], None]
) -> None:
    teacher = copy.deepcopy(segmenter)
    teacher.decoder.last_layer.bias.add_(4.0)  # before any training hardly a logit is above 0
    part, further = batch[:2], inputs_of([*WORDS, "small green cross"], teacher.grid, 1)
    is_rival = torch.zeros(2, 2 + 5, dtype=torch.bool)
    is_rival[0, 2:] = is_rival[1, 6] = True
    labels = torch.cat([predict(teacher, part, False) > 0, predict(teacher, further, False) > 0])
    alone_masks = candidates_of(gather_evidence(teacher, part, alone(part), False)).masks
    memory_for(2)
    found = gather_evidence(teacher, part, Rivals(further, is_rival), False).rival_iou
    torch.testing.assert_close(found, rival_ious(alone_masks, labels, is_rival), atol=1e-2, rtol=0.0)
    assert found.max() > 0


def test_the_short_cut_for_rules_shows_the_guided_prediction_everywhere(segmenter: Segmenter, batch: Inputs) -> None:
    short = guided_evidence(segmenter, batch, False)
    expected = _probs(segmenter, batch)
    for field in fields(Evidence):
        if field.name == "rival_iou":
            seen = torch.zeros(len(batch), len(Candidate))
        else:
            seen = expected if field.name.startswith("mask_probs") else getattr(batch, field.name)
        assert torch.equal(getattr(short, field.name), seen), field.name
