"""Boxes are compared with labeled masks; another unit is recognised, and what is surely of no use stops a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from l2l_ray.config import PriorConfig, RunConfig
from l2l_ray.data.masks import encode
from l2l_ray.errors import ConfigError, DataError
from l2l_ray.loop.inference.asking import Question
from l2l_ray.loop.inference.prior_check import check_priors, require_usable
from l2l_ray.loop.inference.priors import Answered, fill_all_priors
from l2l_ray.loop.state.prepare import RunData
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.prior.coordinates import BY_HAND
from l2l_ray.prior.prompt import FLORENCE_BOX, GROUNDING_DINO, MOLMO, QWEN_ABSOLUTE, QWEN_RELATIVE, PromptFormat
from l2l_ray.prior.proposal import Proposer
from l2l_ray.prior.reply import MllmIdentity, Reply, make_prior
from l2l_ray.types import Hint, LabeledExample, Prior

SEEN = 448, 224  # of a photo of 80 x 40 px
BOX_PX = 20, 10, 60, 20  # a quarter to three quarters across, a quarter to a half down
OTHER_MODEL = PriorConfig(model="/models/some-vl")


def labeled(num: int, per_image: int = 1) -> list[LabeledExample]:
    mask = np.zeros((40, 80), dtype=bool)
    mask[BOX_PX[1] : BOX_PX[3], BOX_PX[0] : BOX_PX[2]] = True
    rle = encode(mask)
    return [
        LabeledExample(i, i, i // per_image, f"{i // per_image}.jpg", 80, 40, f"text {i}", rle, "cat")
        for i in range(num)
    ]


def said(text: str, fmt: PromptFormat = QWEN_RELATIVE, log_prob: float = -0.1) -> Prior:
    return make_prior("k", Reply((text,), (log_prob,), *SEEN), MllmIdentity("f", fmt), 80, 40)


def right(fmt: PromptFormat) -> str:
    width, height = fmt.unit.scale(*((80, 40) if fmt.unit.of_photo else SEEN))
    return fmt.answer((0.25 * width, 0.25 * height, 0.75 * width, 0.5 * height), "cat")


WRONG = '{"bbox_2d": [600, 700, 900, 990]}'


def test_images_that_all_agree_leave_room_for_others() -> None:
    """The bootstrap draws no others; of n that are all right the exact interval begins at 0.025^(1/n)."""
    examples = labeled(20, per_image=2)
    for text, expected in ((right(QWEN_RELATIVE), (0.025**0.1, 1)), (WRONG, (0, 1 - 0.025**0.1))):
        check = check_priors(examples, [said(text)] * 20, QWEN_RELATIVE, 0.1)
        assert check.interval == pytest.approx(expected)
    few = check_priors(labeled(4), [said(WRONG)] * 4, QWEN_RELATIVE, 0.1)
    assert few.interval == (None, None)


def test_accuracy_failures_and_order_of_some_answers() -> None:
    texts = [right(QWEN_RELATIVE)] * 6 + [WRONG] * 2 + ["I see a cat", "[]"]
    # Right ones are surest, but for one wrong one that is as sure as they are: AUC of 6 x 4 pairs, 6 of them equal.
    log_probs = [-0.1] * 7 + [-2.0] * 3
    examples = labeled(10, per_image=2)
    priors = [said(text, log_prob=value) for text, value in zip(texts, log_probs, strict=True)]
    check = check_priors(examples, priors, QWEN_RELATIVE, 0.1)
    assert (check.num, check.num_images, check.accuracy) == (10, 5, 0.6)
    assert check.failures == {"not JSON": 1, "empty": 1}
    assert check.auc == pytest.approx((6 * 3 + 6 * 0.5) / 24)
    low, high = check.interval
    assert low is not None and high is not None and low < 0.6 < high
    assert check.problem(0.1) == "" and check.used == "thousandths"
    printed = "\n".join(check.lines())
    assert "box accuracy (IoU >= 0.5): 0.60, 95 % interval" in printed and "no usable answer: 2 of 10" in printed
    assert "0.60  thousandths: 0 to 1000 across and down (used)" in printed


@pytest.mark.parametrize("unit", BY_HAND)
@pytest.mark.parametrize("used", [QWEN_RELATIVE, QWEN_ABSOLUTE])
def test_the_unit_that_answers_are_in_is_recognised(unit: str, used: PromptFormat) -> None:
    text = right(replace(used, coordinates=unit))
    check = check_priors(labeled(12), [said(text, used)] * 12, used, 0.1)
    assert check.by_coordinates[unit] == 1.0 and list(check.by_coordinates)[0] == used.coordinates
    assert check.better == ("" if unit == used.coordinates else unit) or check.accuracy == 1.0
    if check.better:
        assert f"begin again, under another --name, with --prior.coordinates {unit}" in check.problem(0.1)
        with pytest.raises(ConfigError, match=f"read as {unit}, 1.00; .*--prior.coordinates {unit}"):
            require_usable(PriorConfig(min_accuracy=0), labeled(12), [said(text, used)] * 12, used)


def test_a_unit_that_the_config_refuses_is_not_tried() -> None:
    text = right(replace(QWEN_RELATIVE, coordinates="photo-pixels"))
    examples, priors = labeled(12), [said(text)] * 12
    assert check_priors(examples, priors, QWEN_RELATIVE, 0.0).better == "photo-pixels"
    served = PriorConfig(model="org/vl", url="http://127.0.0.1:9/v1", min_accuracy=0)
    check = require_usable(served, examples, priors, QWEN_RELATIVE)
    assert check is not None and set(check.by_coordinates) == set(BY_HAND) - {"photo-pixels"}


@pytest.mark.parametrize("unit", ["thousandths", "fractions"])
def test_several_samples_are_read_one_by_one_in_each_unit(unit: str) -> None:
    fmt = replace(QWEN_RELATIVE, coordinates=unit)
    wrong = fmt.answer((0.6, 0.7, 0.9, 0.99) if unit == "fractions" else (600, 700, 900, 990), "cat")
    reply = Reply((wrong, right(fmt), right(fmt)), (-0.1,) * 3, *SEEN)  # two agree, so theirs is the first box
    priors = [make_prior("k", reply, MllmIdentity("f", QWEN_RELATIVE), 80, 40)] * 12
    check = check_priors(labeled(12), priors, QWEN_RELATIVE, 0.1)
    assert check.accuracy == check.by_coordinates["thousandths"] == (unit == "thousandths")
    assert check.by_coordinates[unit] == 1.0
    assert check.better == ("fractions" if unit == "fractions" else "")


def test_the_box_that_is_judged_is_the_one_that_the_proposal_takes() -> None:
    one = right(QWEN_RELATIVE)
    first, second = said(f"{one}, {WRONG}"), said(f"{WRONG}, {one}")
    assert len(first.boxes_xyxy_frac) == len(second.boxes_xyxy_frac) == 2
    checks = [check_priors(labeled(1), [prior], QWEN_RELATIVE, 0.1).accuracy for prior in (first, second)]
    assert checks == [1.0, 0.0]
    labels = Proposer(PriorConfig()).proposals([first, second, said(one), said(WRONG)], 32).proposal > 0.5
    assert torch.equal(labels[:2], labels[2:])


def test_the_draft_of_a_reply_that_was_cut_off_is_read_in_no_unit() -> None:
    cut = Reply((f"It may be at {right(QWEN_ABSOLUTE)}, but",), (-0.1,), *SEEN, is_cut=(True,))
    prior = make_prior("k", cut, MllmIdentity("f", QWEN_RELATIVE), 80, 40)
    check = check_priors(labeled(20), [prior] * 20, QWEN_RELATIVE, 0.0)
    assert check.failures == {"cut off": 20} and set(check.by_coordinates.values()) == {0.0} and not check.better


def test_a_few_texts_or_a_small_difference_prove_no_other_unit() -> None:
    text = right(replace(QWEN_RELATIVE, coordinates="fractions"))
    assert check_priors(labeled(9), [said(text)] * 9, QWEN_RELATIVE, 0.1).better == ""
    priors = [said(text)] * 12 + [said(right(QWEN_RELATIVE))] * 60
    assert check_priors(labeled(72), priors, QWEN_RELATIVE, 0.1).better == ""


def test_useless_answers_stop_a_run_once_there_are_enough_of_them() -> None:
    assert not check_priors(labeled(30), [said(WRONG)] * 30, QWEN_RELATIVE, 0.1).is_useless
    examples, priors = labeled(60), [said(WRONG)] * 60
    with pytest.raises(ConfigError, match=r"no use: 0\.00 of its boxes on 60 labeled texts .* --prior\.min_accuracy 0"):
        require_usable(OTHER_MODEL, examples, priors, QWEN_RELATIVE)
    assert require_usable(OTHER_MODEL.model_copy(update={"min_accuracy": 0.0}), examples, priors, QWEN_RELATIVE)
    # The texts of one image share its difficulty: sixty of them are no sixty proofs.
    assert require_usable(OTHER_MODEL, labeled(60, per_image=4), priors, QWEN_RELATIVE) is not None


def test_the_embedded_model_is_let_go_on_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert require_usable(PriorConfig(), labeled(60), [said(WRONG)] * 60, QWEN_RELATIVE) is not None
    assert "of no use" in caplog.text


def test_users_hints_are_not_the_models_answers() -> None:
    hinted = [replace(example, hint=Hint((0, 0, 1, 1), ())) for example in labeled(60)]
    assert require_usable(OTHER_MODEL, hinted, [said(WRONG)] * 60, QWEN_RELATIVE) is None


def test_points_are_right_inside_the_box() -> None:
    inside, outside = '<points coords="1 1 500 400">cat</points>', '<points coords="1 1 500 900">cat</points>'
    priors = [said(inside, MOLMO), said(outside, MOLMO)]
    assert check_priors(labeled(2), priors, MOLMO, 0.1).accuracy == 0.5


@pytest.mark.parametrize("fmt", [FLORENCE_BOX, GROUNDING_DINO])
def test_a_fixed_unit_has_no_rivals(fmt: PromptFormat) -> None:
    assert list(check_priors(labeled(2), [said("x", fmt)] * 2, fmt, 0.1).by_coordinates) == [fmt.coordinates]


def test_nothing_labeled_is_an_error() -> None:
    with pytest.raises(DataError, match="no labeled item"):
        check_priors([], [], QWEN_RELATIVE, 0.1)


class InOtherUnit:
    """An MLLM that answers in fractions and is taken for one that answers in thousandths."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def identity(self) -> MllmIdentity:
        return MllmIdentity("f00d", QWEN_RELATIVE)

    def ask(self, batches: Iterator[list[Question]]) -> Iterator[Answered]:
        for batch in batches:
            self.asked += [question.expression for question in batch]
            yield batch, [Reply(('{"bbox_2d": [0.25, 0.25, 0.75, 0.5]}',), (-0.1,), *SEEN) for _ in batch]


def test_a_run_stops_after_its_labeled_set_and_asks_nothing_more(config: RunConfig, run: RunFolder) -> None:
    unlabeled: Sequence[LabeledExample] = [replace(labeled(1)[0], sent_id=99, expression="unlabeled")]
    data, model = RunData(labeled(12), [example.without_truth() for example in unlabeled], {}), InOtherUnit()
    run.create()
    for _ in range(2):  # also when it is started again
        with pytest.raises(ConfigError, match=r"--prior\.coordinates fractions"):
            fill_all_priors(config, run, data, model)
    assert "unlabeled" not in model.asked and len(model.asked) == 12
    assert not run.priors_path("unlabeled").exists()


@pytest.mark.slow
def test_more_than_a_thousand_texts_are_judged_too() -> None:
    examples, other = labeled(1500), right(replace(QWEN_RELATIVE, coordinates="fractions"))
    priors = [said(right(QWEN_RELATIVE))] * 1000 + [said(WRONG)] * 500
    check = require_usable(OTHER_MODEL, examples, priors, QWEN_RELATIVE)
    assert check is not None and check.better == "" and not check.is_useless
    with pytest.raises(ConfigError, match="read as fractions"):
        require_usable(OTHER_MODEL, examples, [said(other)] * 1500, QWEN_RELATIVE)
