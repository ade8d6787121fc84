"""One contract for every family: a tiny checkpoint of its architecture, saved, loaded by `load_prior`, and asked.

Not here: Molmo2, whose image processor wants torchvision; GLM-4.5V, GLM-4.6V, Qwen3.5-MoE and MM-Grounding-DINO, which
share all code with a family that is; GLM-5, which pads its pictures.
"""

from __future__ import annotations

import math
import shutil
from functools import cache

import numpy as np
import pytest
from PIL import Image
from torch import nn

from l2l_ray.config import PriorConfig
from l2l_ray.errors import ConfigError
from l2l_ray.prior.detector import DetectorPrior
from l2l_ray.prior.loading import PriorModels, identify_prior, load_prior
from l2l_ray.prior.mllm import MllmPrior
from l2l_ray.prior.prompt import family_of
from l2l_ray.prior.reply import FAILURE_WORDS, MllmIdentity, Reply, failure_kind, make_prior
from tests.tiny_mllms import TINY, save_tiny
from tests.tiny_sams import SAMS

# transformers' processor of GLM hands tensors to NumPy.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

SIZES = ((128, 128), (300, 100), (90, 200))
TEXTS = ("left circle", "the red square on the left of the man", "a <image> <loc0001> [SEP] \ud800")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Give a function: model type -> its config and the loaded model, made once."""

    @cache
    def load(model_type: str):
        folder = save_tiny(model_type, tmp_path_factory.mktemp("tiny") / model_type)
        config = PriorConfig(model=str(folder), max_new_tokens=8, dtype="float32")
        return config, load_prior(config)

    return load


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (h, w, 3), dtype=np.uint8)) for w, h in SIZES]


@pytest.mark.parametrize("model_type", TINY)
def test_every_family_keeps_the_contract(tiny, pictures, model_type: str) -> None:
    config, model = tiny(model_type)
    assert isinstance(model, DetectorPrior if family_of(model_type).is_detector else MllmPrior)
    assert identify_prior(config) == MllmIdentity.of(model)
    replies = model.ask(pictures, TEXTS)
    assert replies == model.ask(pictures, TEXTS)  # deterministic
    for picture, text, reply in zip(pictures, TEXTS, replies, strict=True):
        (alone,) = model.ask([picture], [text])
        assert alone.texts == reply.texts
        assert alone.mean_log_probs == pytest.approx(reply.mean_log_probs, abs=1e-4)
        assert (alone.seen_width_px, alone.seen_height_px) == (reply.seen_width_px, reply.seen_height_px)
        prior = make_prior("k", reply, MllmIdentity.of(model), *picture.size)
        usable = bool(prior.boxes_xyxy_frac)
        assert usable or failure_kind(prior.failure) in FAILURE_WORDS  # counted, never an error
        # What a perfect model of the family would say about the upper left quarter.
        width, height = model.prompt.unit.scale(reply.seen_width_px, reply.seen_height_px)
        said = model.prompt.answer((0, 0, int(width) // 2, int(height) // 2), "cup")
        (box,) = make_prior(
            "k", Reply((said,), (-0.1,), reply.seen_width_px, reply.seen_height_px), MllmIdentity.of(model), 640, 480
        ).boxes_xyxy_frac
        assert box == pytest.approx((0, 0, 0.5, 0.5), abs=0.01)


@pytest.mark.parametrize("model_type", [name for name in TINY if not family_of(name).is_detector])
def test_a_picture_is_read_once_for_all_its_expressions(tiny, pictures, model_type: str) -> None:
    _, model = tiny(model_type)
    first, second, _ = pictures
    numbers_read = []
    eye = next(part for part in model.model.modules() if isinstance(part, (nn.Conv2d, nn.Conv3d)))
    handle = eye.register_forward_hook(lambda _, inputs, __: numbers_read.append(inputs[0].numel()))
    try:
        replies = model.ask([first, second, first, first], [*TEXTS, TEXTS[0]])
        model.ask([first, second], TEXTS[:2])
        model.ask([first, first.copy(), second], TEXTS)
    finally:
        handle.remove()
    repeated, once, copied = numbers_read
    assert repeated == once < copied
    alone = [model.ask([picture], [text])[0] for picture, text in zip((first, second, first), TEXTS, strict=True)]
    assert [reply.texts for reply in replies] == [reply.texts for reply in [*alone, alone[0]]]
    assert [reply.num_image_tokens for reply in replies[:3]] == [reply.num_image_tokens for reply in alone]


@pytest.mark.parametrize("model_type", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v"])
def test_a_floor_of_image_tokens_enlarges_small_pictures_alone(tiny, pictures, model_type: str) -> None:
    config, model = tiny(model_type)
    floored = load_prior(config.model_copy(update={"min_image_tokens": 40}))
    before, after = model.ask(pictures, TEXTS), floored.ask(pictures, TEXTS)
    assert min(reply.num_image_tokens for reply in before) < 40 <= min(reply.num_image_tokens for reply in after)
    for old, new in zip(before, after, strict=True):
        if old.num_image_tokens >= 40:
            assert old.texts == new.texts
        else:
            assert new.seen_width_px / new.seen_height_px == pytest.approx(
                old.seen_width_px / old.seen_height_px, rel=0.3
            )


def test_a_floor_that_cannot_be_had_is_refused(tiny) -> None:
    config, _ = tiny("internvl")
    with pytest.raises(ConfigError, match=r"prior\.min_image_tokens is 9, .*GotOcr2.* set it to 0"):
        load_prior(config.model_copy(update={"min_image_tokens": 9}))
    config, _ = tiny("qwen3_vl")
    with pytest.raises(ConfigError, match=r"no more than about 64 tokens of a picture; lower it"):
        load_prior(config.model_copy(update={"min_image_tokens": 65}))


def test_polygons_of_florence_are_polygons(tiny) -> None:
    config, _ = tiny("florence2")
    identity = identify_prior(config.model_copy(update={"proposal": "polygon"}))
    reply = Reply(("cup<loc_0><loc_0><loc_500><loc_0><loc_500><loc_500></s>",), (-0.1,), 64, 64)
    assert len(make_prior("k", reply, identity, 640, 480).polygons_xy_frac[0]) == 3


@pytest.mark.parametrize("model_type", ["grounding-dino", "owlvit"])
def test_a_detector_gives_its_best_box_with_its_score(tiny, pictures, model_type: str) -> None:
    config, model = tiny(model_type)
    replies = model.ask(pictures, TEXTS)
    priors = [make_prior("k", reply, MllmIdentity.of(model), *size) for reply, size in zip(replies, SIZES, strict=True)]
    found = [(prior, reply) for prior, reply in zip(priors, replies, strict=True) if prior.boxes_xyxy_frac]
    assert found  # random boxes may have no area
    for prior, reply in found:
        assert len(prior.boxes_xyxy_frac) == 1
        assert 0 < prior.score <= 1 and prior.score == pytest.approx(math.exp(reply.mean_log_probs[0]))
    with pytest.raises(ConfigError, match=r"prior\.num_samples is 3, .* is a detector"):
        load_prior(config.model_copy(update={"num_samples": 3}))


def test_molmo_names_points() -> None:
    identity = MllmIdentity("f", family_of("molmo2").box)
    for said in ('<points coords="1 1 250 500 2 750 500">cups</points>', '<points coords="1 250 500; 2 750 500"/>'):
        prior = make_prior("k", Reply((said,), (-0.1,), 64, 64), identity, 640, 480)
        assert prior.points_xy_frac == ((0.25, 0.5), (0.75, 0.5)) and prior.boxes_xyxy_frac == ()
    for said in ("There are none.", '<points coords="">x</points>', '<points coords="1 1 250 5000">x</points>'):
        prior = make_prior("k", Reply((said,), (-0.1,), 64, 64), identity, 640, 480)
        assert not prior.points_xy_frac and failure_kind(prior.failure) in FAILURE_WORDS


@pytest.mark.parametrize(
    "said",
    [
        "<|begin_of_box|>[[100,200,500,600]]<|end_of_box|>",
        "<|begin_of_box|>(100, 200, 500, 600)<|end_of_box|>",
        "It is at <|begin_of_box|><100,200,500,600><|end_of_box|>.",
        "<|begin_of_box|>100, 200, 500, 600<|end_of_box|>",
        "<|begin_of_box|>[[100,200,500,600]]<|end_of_box|> It is 400 wide: in pixels [64, 96, 320, 288].",
        '<|begin_of_box|>{100,200,500,600}<|end_of_box|> not {"bbox_2d": [1, 2, 300, 400]}',
        "First [1, 2, 300, 400], but no: <|begin_of_box|>(100,200),(500,600)<|end_of_box|> of 3 cups",
        "<|begin_of_box|>[1,2,300,400]<|end_of_box|> Wait, it is <|begin_of_box|>[100,200,500,600]<|end_of_box|>.",
        "<think><|begin_of_box|>[1,2,300,400]<|end_of_box|>?</think>At [100, 200, 500, 600].",
        "<|begin_of_box|>cup<|end_of_box|> at [100, 200, 500, 600]",
        "<think>maybe [1, 2, 300, 400]</think><answer><|begin_of_box|>[100,200,500,600]<|end_of_box|></answer><|user|>",
    ],
)
def test_glm_puts_any_brackets_around_its_box(said: str) -> None:
    identity = MllmIdentity("f", family_of("glm4v").box)
    prior = make_prior("k", Reply((said,), (-0.1,), 64, 64), identity, 640, 480)
    assert prior.boxes_xyxy_frac == ((0.1, 0.2, 0.5, 0.6),)


@pytest.mark.parametrize(
    "said",
    [
        "[[100,200,500,600],[0,0,50,60]]",
        "[100,200,500,600],[0,0,50,60]",
        "(100,200,500,600), (0,0,50,60)",
        "<100,200,500,600> and <0,0,50,60>",
        "{100,200,500,600}\n{0,0,50,60}",
        "[100,200,500,600]<|end_of_box|>, <|begin_of_box|>[0,0,50,60]",
        '[{"bbox_2d": [100,200,500,600]}, {"bbox_2d": [0,0,50,60]}]',
    ],
)
@pytest.mark.parametrize("after", ["", " The photo is [0, 0, 640, 480]."])
def test_glm_marks_several_boxes(said: str, after: str) -> None:
    identity = MllmIdentity("f", family_of("glm4v").box)
    reply = Reply((f"They are <|begin_of_box|>{said}<|end_of_box|>{after}",), (-0.1,), 64, 64)
    prior = make_prior("k", reply, identity, 640, 480)
    assert set(prior.boxes_xyxy_frac) == {(0.1, 0.2, 0.5, 0.6), (0.0, 0.0, 0.05, 0.06)}, prior.failure


def test_paligemma_writes_y_first_and_its_mask_codes_are_left_out() -> None:
    said = (
        "<bos><loc0256><loc0128><loc0512><loc0640><seg001><seg127> cup ; <loc0000><loc0000><loc0100><loc0100> mug<eos>"
    )
    identity = MllmIdentity("f", family_of("paligemma").box)
    prior = make_prior("k", Reply((said,), (-0.1,), 64, 64), identity, 640, 480)
    assert prior.boxes_xyxy_frac[0] == (0.125, 0.25, 0.625, 0.5) and len(prior.boxes_xyxy_frac) == 2
    assert prior.phrase == "cup"


@pytest.mark.parametrize("ask", [load_prior, identify_prior])
@pytest.mark.parametrize(
    ("fields", "remedy"),
    [
        ({"url": "http://127.0.0.1:9/v1"}, r"'pixels', which are those of the picture it got$"),
        ({"min_image_tokens": 9}, r"'pixels', .* it got, or prior\.min_image_tokens to 0$"),
    ],
)
def test_pixels_of_a_photo_that_the_model_is_not_handed_are_refused(ask, fields, remedy):
    config = PriorConfig(model="org/vl", coordinates="photo-pixels", **fields)
    assert config.resizes_photos
    with pytest.raises(ConfigError, match=r"prior\.coordinates is 'photo-pixels', but .*" + remedy):
        ask(config)


def test_pixels_of_a_photo_that_the_model_is_handed_are_read(tiny):
    config = tiny("qwen2_vl")[0].model_copy(update={"coordinates": "photo-pixels"})
    assert not config.resizes_photos and load_prior(config).prompt.coordinates == "photo-pixels"


def test_models_of_another_config_that_answer_the_same_are_not_loaded_again(tmp_path):
    SAMS["sam2"](tmp_path / "sam")
    config = PriorConfig(proposal="sam", sam_model=str(tmp_path / "sam"))
    models = PriorModels(config)
    models.load()
    shutil.copytree(tmp_path / "sam", tmp_path / "copy")
    softer = models.changed_to(config.model_copy(update={"box_softness": 0.2, "sam_model": str(tmp_path / "copy")}))
    assert (softer.mllm, softer.sam) == (models.mllm, models.sam) and softer.config.box_softness == 0.2
    assert not models.changed_to(PriorConfig()).draws
    (tmp_path / "sam" / "preprocessor_config.json").write_text("{}")
    other = models.changed_to(config.model_copy(update={"num_samples": 2}))
    assert other.mllm is not models.mllm and other.mllm.config.num_samples == 2
    assert other.sam is not models.sam, "its files have changed since"
    assert softer.changed_to(config.model_copy(update={"sam_model": str(tmp_path / "copy")})).sam is models.sam
