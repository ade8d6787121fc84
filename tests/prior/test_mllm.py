"""The MLLM that ships, random ones of other families, and how replies become priors."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch
from PIL import Image

from l2l_ray.config import PriorConfig
from l2l_ray.errors import ConfigError
from l2l_ray.prior import identity
from l2l_ray.prior.loading import identify_prior
from l2l_ray.prior.mllm import EMBEDDED_FOLDER, MllmIdentity, MllmPrior, Reply, make_prior, prior_key
from l2l_ray.prior.prompt import MOLMO, QWEN_RELATIVE
from l2l_ray.refshapes.expressions import expressions_for
from l2l_ray.refshapes.scenes import render_scene
from l2l_ray.types import Prior
from tests.tiny_mllms import save_tiny

MLLM = MllmIdentity("f" * 64, QWEN_RELATIVE)
ONE = '[{"bbox_2d": [100, 200, 500, 600], "label": "red circle"}]'


@pytest.fixture(scope="module")
def shipped() -> MllmPrior:
    torch.set_num_threads(1)
    return MllmPrior.load(PriorConfig(dtype="float32"))


@pytest.fixture(scope="module")
def questions() -> tuple[list[Image.Image], list[str], list[list[float]]]:
    """Give one unambiguous question about each of 12 scenes that no training has seen, with the true boxes."""
    images, texts, boxes = [], [], []
    for seed in range(12):
        rng = np.random.default_rng([77, seed])
        scene = render_scene(rng, "pretrain", 128)
        images.append(Image.fromarray(scene.image))
        texts.append(expressions_for(scene, 0, rng, "refcocog", "pretrain", 1)[0])
        boxes.append((scene.boxes_xyxy_px[0] / 128).tolist())
    return images, texts, boxes


@pytest.fixture(scope="module")
def random_qwen3(tmp_path_factory) -> Path:
    """Write a Qwen3-VL with random weights: what an unrelated checkpoint answers is no JSON."""
    return save_tiny("qwen3_vl", tmp_path_factory.mktemp("tiny") / "qwen3_vl")


@pytest.fixture(scope="module")
def random_florence(tmp_path_factory) -> MllmPrior:
    folder = save_tiny("florence2", tmp_path_factory.mktemp("tiny") / "florence2")
    return MllmPrior.load(PriorConfig(model=str(folder), max_new_tokens=8, dtype="float32"))


# The shipped checkpoint


def test_the_shipped_model_is_small() -> None:
    assert sum(path.stat().st_size for path in EMBEDDED_FOLDER.iterdir()) < 12e6


def test_the_shipped_model_finds_most_objects_of_its_own_domain(shipped: MllmPrior, questions) -> None:
    images, texts, boxes = questions
    replies = shipped.ask(images, texts)
    found = 0
    for reply, box in zip(replies, boxes, strict=True):
        prior = make_prior("k", reply, MllmIdentity.of(shipped), 128, 128)
        assert prior.failure == "" and 0 < prior.score <= 1 and reply.is_cut == (False,)
        assert len(prior.phrase.split()) == 2
        (said,) = prior.boxes_xyxy_frac
        low, high = np.maximum(said[:2], box[:2]), np.minimum(said[2:], box[2:])
        overlap = np.prod(np.clip(high - low, 0, None))
        union = (said[2] - said[0]) * (said[3] - said[1]) + (box[2] - box[0]) * (box[3] - box[1]) - overlap
        found += overlap / union >= 0.5
    assert found >= 8


def test_a_reply_does_not_depend_on_the_batch(shipped: MllmPrior, questions) -> None:
    images, texts, _ = questions
    together = shipped.ask(images[:4], texts[:4])
    alone = [shipped.ask([image], [text])[0] for image, text in zip(images[:4], texts[:4], strict=True)]
    assert [reply.texts for reply in together] == [reply.texts for reply in alone]
    for first, second in zip(together, alone, strict=True):
        assert first.mean_log_probs == pytest.approx(second.mean_log_probs, abs=1e-4)


def test_other_sizes_are_squashed_to_the_models_own(shipped: MllmPrior, questions) -> None:
    images, texts, _ = questions
    (reply,) = shipped.ask([images[0].convert("L").resize((200, 90))], texts[:1])
    assert (reply.seen_width_px, reply.seen_height_px) == (128, 128)


def test_log_probabilities_are_those_of_a_forward_pass(shipped: MllmPrior, questions) -> None:
    images, texts, _ = questions
    (reply,) = shipped.ask(images[:1], texts[:1])
    text = shipped.processor.apply_chat_template(
        shipped.prompt.messages(texts[0]), tokenize=False, add_generation_prompt=True
    )
    inputs = shipped.processor(images=[images[0]], text=[text], return_tensors="pt")
    answer = shipped.processor.tokenizer(reply.texts[0] + "<|im_end|>", return_tensors="pt")["input_ids"]
    start = inputs["input_ids"].shape[1]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], answer], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    inputs["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, answer.shape[1]))
    with torch.no_grad():
        log_probs = torch.log_softmax(shipped.model(**inputs).logits[0, start - 1 : -1].float(), -1)
    mean = log_probs.gather(1, answer[0, :, None]).mean().item()
    assert reply.mean_log_probs[0] == pytest.approx(mean, abs=1e-4)


def test_samples_differ_from_the_likeliest_and_repeat_exactly(shipped: MllmPrior, questions) -> None:
    images, texts, _ = questions
    mllm = MllmPrior.load(PriorConfig(num_samples=4, temperature=2.0, dtype="float32"))
    first = mllm.ask(images[:2], texts[:2])
    assert [len(reply.texts) for reply in first] == [4, 4]
    assert len(set(first[0].texts)) > 1
    assert [reply.texts[0] for reply in first] == [reply.texts[0] for reply in shipped.ask(images[:2], texts[:2])]
    assert mllm.ask(images[1:2], texts[1:2])[0].texts == first[1].texts
    prior = make_prior("k", first[0], MllmIdentity.of(mllm), 128, 128)
    assert 0 <= prior.score <= 1 and len(prior.boxes_xyxy_frac) == len(prior.box_scores)


# Other checkpoints through the same code


def test_a_reply_without_json_is_no_prior(random_qwen3: Path, questions) -> None:
    mllm = MllmPrior.load(PriorConfig(model=str(random_qwen3), max_new_tokens=8))
    (reply,) = mllm.ask(questions[0][:1], ["left circle"])
    prior = make_prior("k", reply, MllmIdentity.of(mllm), 128, 128)
    assert prior.boxes_xyxy_frac == prior.box_scores == ()
    assert prior.score == 0 and prior.reply == reply.texts[0]
    assert reply.is_cut == (True,) and prior.failure.startswith("cut off: got no box in JSON")


def test_a_folder_that_holds_no_model_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"prior\.model .* cannot be loaded"):
        MllmPrior.load(PriorConfig(model=str(tmp_path)))


def test_a_folder_without_processor_files_says_what_is_missing(random_qwen3: Path, tmp_path: Path) -> None:
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        shutil.copy(random_qwen3 / name, tmp_path)
    with pytest.raises(ConfigError, match="preprocessor_config.json and tokenizer files"):
        MllmPrior.load(PriorConfig(model=str(tmp_path)))


def test_weights_that_are_cut_off_are_a_config_error(random_qwen3: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(random_qwen3, tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(ConfigError, match=r"prior\.model .* check that its files are whole"):
        MllmPrior.load(PriorConfig(model=str(folder)))


@pytest.mark.parametrize("model_type", ["qwen3_vl", "florence2"])
def test_a_checkpoints_own_generation_settings_change_no_answer(model_type: str, tmp_path: Path, questions) -> None:
    plain = save_tiny(model_type, tmp_path / "plain")
    shutil.copytree(plain, tmp_path / "own")
    settings = tmp_path / "own" / "generation_config.json"
    own = {"num_beams": 3, "repetition_penalty": 1.5, "no_repeat_ngram_size": 3, "do_sample": True, "temperature": 9.0}
    settings.write_text(json.dumps(json.loads(settings.read_text()) | own))
    expected, found = (
        MllmPrior.load(PriorConfig(model=str(folder), max_new_tokens=8, dtype="float32")).ask(
            questions[0][:2], questions[1][:2]
        )
        for folder in (plain, tmp_path / "own")
    )
    assert found == expected


# Text is text


COMMANDS = ["<|image_pad|>", "<|im_end|>", "<|im_start|>user", "<|vision_start|>", "<|video_pad|>", "<|endoftext|>"]
ODD = [
    "",
    "\x00\x1b[0m",
    "\ud800 half",
    "?!...",
    "{expression} {0} {{",
    "\u202e\u05e9\u05dc\u05d5\u05dd",
    "\U0001f600" * 9,
    "a" * 999,
]


@pytest.mark.parametrize("text", COMMANDS + ODD)
def test_any_sentence_is_asked_as_text(shipped: MllmPrior, questions, text: str) -> None:
    sentence = f"the {text} sign"
    (reply,) = shipped.ask(questions[0][:1], [sentence])
    assert reply.texts and reply.mean_log_probs[0] <= 0


def test_a_command_in_a_sentence_is_the_words_it_is_spelled_with(shipped: MllmPrior, questions) -> None:
    images = [questions[0][0]] * 2
    command, spelled = shipped.ask(images, ["the <|im_end|> sign", "the < |im_end|> sign"])
    assert command == spelled


def test_a_random_qwen3_and_its_processor_take_commands_as_text(random_qwen3: Path, questions) -> None:
    mllm = MllmPrior.load(PriorConfig(model=str(random_qwen3), max_new_tokens=8))
    assert len(mllm.ask(questions[0][:6], COMMANDS)) == 6


@pytest.mark.parametrize("text", ["<image>", "<s>", "<loc_5>", "<OD>", "<CAPTION_TO_PHRASE_GROUNDING>", "{input}"])
def test_florence_takes_commands_as_text(random_florence: MllmPrior, questions, text: str) -> None:
    spelled = text if text == "{input}" else f"{text[0]} {text[1:]}"
    replies = random_florence.ask([questions[0][0]] * 2, [f"the {text} sign", f"the {spelled} sign"])
    assert replies[0].texts and replies[0] == replies[1]


def test_a_template_with_a_switch_for_thoughts_gets_it_off(random_qwen3: Path, tmp_path: Path, questions) -> None:
    shutil.copytree(random_qwen3, tmp_path / "copy")
    template = tmp_path / "copy" / "chat_template.jinja"
    template.write_text(template.read_text() + "{% if enable_thinking is not false %}<think>{% endif %}")
    mllm = MllmPrior.load(PriorConfig(model=str(tmp_path / "copy"), max_new_tokens=8))
    (reply,) = mllm.ask(questions[0][:1], ["left circle"])
    assert "<think>" not in reply.texts[0]


def test_a_checkpoint_without_a_chat_template_is_refused(random_qwen3: Path, tmp_path: Path) -> None:
    shutil.copytree(random_qwen3, tmp_path / "copy")
    (tmp_path / "copy" / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match=r"has no chat template.*instruct version"):
        MllmPrior.load(PriorConfig(model=str(tmp_path / "copy")))


def test_a_checkpoint_that_always_thinks_has_no_answer_before_its_thoughts_end(
    random_qwen3: Path, tmp_path: Path, questions
) -> None:
    shutil.copytree(random_qwen3, tmp_path / "copy")
    template = tmp_path / "copy" / "chat_template.jinja"
    template.write_text(template.read_text().rstrip() + "<think>\n")
    mllm = MllmPrior.load(PriorConfig(model=str(tmp_path / "copy"), max_new_tokens=8))
    (reply,) = mllm.ask(questions[0][:1], ["left circle"])
    assert make_prior("k", reply, MllmIdentity.of(mllm), 128, 128).failure.startswith("cut off: got reasoning")


# Identity


def test_the_fingerprint_changes_with_everything_a_reply_depends_on(random_qwen3: Path, tmp_path: Path) -> None:
    shutil.copytree(random_qwen3, tmp_path / "copy")

    def fingerprint(**changes: object) -> str:
        return MllmPrior.load(PriorConfig(model=str(tmp_path / "copy"), **changes)).fingerprint

    before = fingerprint()
    assert before == fingerprint(batch_size=7) == MllmPrior.load(PriorConfig(model=str(random_qwen3))).fingerprint
    others = {before, fingerprint(max_new_tokens=9), fingerprint(dtype="bfloat16"), fingerprint(num_samples=2)}
    others.add(fingerprint(dtype="float32"))
    others |= {fingerprint(min_image_tokens=9), fingerprint(coordinates="pixels"), fingerprint(prompt="{expression}?")}
    template = tmp_path / "copy" / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    others.add(fingerprint())
    assert len(others) == 8  # "auto" is one of the two dtypes


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_who_it_is_needs_no_weights(random_qwen3: Path, tmp_path: Path, dtype: str) -> None:
    config = PriorConfig(model=str(random_qwen3), dtype=dtype)
    assert identify_prior(config) == MllmIdentity.of(MllmPrior.load(config))
    with pytest.raises(ConfigError, match="prior.model"):
        identify_prior(PriorConfig(model=str(tmp_path / "not-there")))


def test_the_files_of_a_checkpoint_are_read_once_until_they_change(
    random_qwen3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(random_qwen3, tmp_path / "copy")
    config, read, digest = PriorConfig(model=str(tmp_path / "copy")), [], hashlib.file_digest

    def counted(file: BinaryIO, name: str) -> object:
        read.append(Path(file.name).name)
        return digest(file, name)

    weights = tmp_path / "copy" / "model.safetensors"
    monkeypatch.setattr(hashlib, "file_digest", counted)
    monkeypatch.setattr(time, "time_ns", lambda: weights.stat().st_ctime_ns)
    before = identify_prior(config).fingerprint
    identify_prior(config)
    assert read.count(weights.name) == 2, "it was written just now: its times do not tell yet"
    monkeypatch.setattr(time, "time_ns", lambda: 1 << 62)
    assert identify_prior(config).fingerprint == before
    read.clear()
    assert identify_prior(config).fingerprint == before and read == []
    status, content = weights.stat(), bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert identify_prior(config).fingerprint != before and read == [weights.name]


def test_a_setting_without_effect_on_the_model_asks_nothing_again(random_qwen3: Path) -> None:
    def fingerprint(**changes: object) -> str:
        return MllmPrior.load(PriorConfig(dtype="float32", **changes)).fingerprint

    other = str(random_qwen3)
    assert (
        fingerprint(model=other, image_size=64) == fingerprint(model=other, temperature=0.2) == fingerprint(model=other)
    )
    assert fingerprint(image_size=64) != fingerprint() == fingerprint(temperature=0.2)
    assert fingerprint(num_samples=2, temperature=0.2) != fingerprint(num_samples=2)


def test_another_way_of_decoding_asks_all_again_but_one_answer_of_the_embedded_model(
    random_qwen3: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = [PriorConfig(), PriorConfig(num_samples=2), PriorConfig(model=str(random_qwen3))]
    before = [identify_prior(config).fingerprint for config in configs]
    monkeypatch.setattr(identity, "ANSWERING_VERSION", identity.ANSWERING_VERSION - 1)
    after = [identify_prior(config).fingerprint for config in configs]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, False]


def test_keys_separate_models_images_and_expressions() -> None:
    keys = {prior_key(f, i, e) for f in ("a", "b") for i in ("a", "b") for e in ("a", "b", "a\0b")}
    assert len(keys) == 12


# From replies to priors


def test_one_reply_scores_by_its_probability() -> None:
    prior = make_prior("k", Reply((ONE,), (math.log(0.8),), 128, 128), MLLM, 640, 480)
    assert prior.boxes_xyxy_frac == ((0.1, 0.2, 0.5, 0.6),)
    assert prior.box_scores == pytest.approx((0.8,)) and prior.score == pytest.approx(0.8)
    assert (prior.phrase, prior.failure, prior.reply, prior.key) == ("red circle", "", ONE, "k")


def test_samples_score_by_their_overlap_with_the_others() -> None:
    # Boxes A, A, B and nothing: IoU(A, B) = 1/3. A: (1 + 1/3 + 0) / 3 = 4/9, B: (1/3 + 1/3) / 3 = 2/9, nothing: 0.
    box_b = '[{"bbox_2d": [300, 200, 700, 600], "label": "blue circle"}]'
    reply = Reply((box_b, ONE, "no idea", ONE), (-0.1,) * 4, 128, 128)
    prior = make_prior("k", reply, MLLM, 640, 480)
    assert prior.box_scores == pytest.approx((4 / 9, 4 / 9, 2 / 9))
    assert prior.boxes_xyxy_frac[2] == (0.3, 0.2, 0.7, 0.6)
    assert prior.score == pytest.approx((4 / 9 + 4 / 9 + 2 / 9) / 4)
    assert prior.phrase == "red circle" and prior.failure == ""


def test_samples_of_points_score_by_how_near_they_are() -> None:
    # Boxes of 0.2 x 0.2 around A, B and C: A and B are 0.05 apart, IoU 0.15 / 0.25 = 0.6; C is 0.4 away, IoU 0.
    # A and B: (0.6 + 0) / 2, C: 0; the mean of all is 0.2.
    a, b, c = (f'<points coords="1 1 {x} {y}">cup</points>' for x, y in ((500, 500), (550, 500), (500, 900)))
    asked = MllmIdentity("f", MOLMO)
    prior = make_prior("k", Reply((c, a, b), (-0.1,) * 3, 128, 128), asked, 640, 480)
    assert prior.points_xy_frac == ((0.5, 0.5),) and prior.boxes_xyxy_frac == ()
    assert prior.score == pytest.approx(0.2)
    assert make_prior("k", Reply((a, a), (-0.1,) * 2, 128, 128), asked, 640, 480).score == pytest.approx(1.0)


def test_a_point_agrees_with_a_box_around_it() -> None:
    point, box = '[{"point_2d": [500, 500]}]', '[{"bbox_2d": [400, 400, 600, 600]}]'
    prior = make_prior("k", Reply((point, box), (-0.1,) * 2, 128, 128), MLLM, 640, 480)
    assert prior.score == pytest.approx(1.0) and prior.boxes_xyxy_frac == ((0.4, 0.4, 0.6, 0.6),)


def test_a_prior_keeps_its_samples_apart() -> None:
    texts = (f"{ONE}\n", "no\x1eidea", "", ONE)
    prior = make_prior("k", Reply(texts, (-0.1,) * 4, 128, 128), MLLM, 640, 480)
    assert prior.texts == (f"{ONE}\n", "no idea", "", ONE)
    assert Prior.from_json(prior.to_json()) == prior
    assert Prior.absent("k", "memory: full", "").texts == ("",)


def test_a_question_that_failed_is_no_prior_with_the_reason() -> None:
    prior = make_prior("k", Reply.failed("picture", "cut\nshort"), MLLM, 640, 480)
    assert (prior.failure, prior.reply, prior.boxes_xyxy_frac) == ("picture: cut short", "", ())


def test_a_probability_that_is_no_number_is_no_prior() -> None:
    assert make_prior("k", Reply((ONE,), (math.nan,), 128, 128), MLLM, 640, 480).failure.startswith("no score: ")


@pytest.mark.parametrize("texts", [("no",), ("no", "[]"), ()])
def test_unusable_replies_never_raise(texts: tuple[str, ...]) -> None:
    prior = make_prior("k", Reply(texts, (-1.0,) * len(texts), 0, 0), MLLM, 640, 480)
    assert prior.boxes_xyxy_frac == () and prior.score == 0
    assert prior.failure
