"""Questions about pictures: answered by the MLLM or by SAM, in order; what cannot be answered fails alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from l2l_ray.config import PriorConfig
from l2l_ray.device import DeviceFailed
from l2l_ray.errors import ConfigError
from l2l_ray.loop.inference.asking import MAX_TEXT_BYTES, Question, answer_batch, say_too_large
from l2l_ray.prior.loading import PriorModels
from l2l_ray.prior.mllm import MllmPrior, Reply
from l2l_ray.prior.prompt import prompt_for
from l2l_ray.prior.reply import failure_kind
from l2l_ray.prior.sam import Sam
from l2l_ray.types import Prior
from tests.loop.canned_mllm import GOOD
from tests.tiny_sams import SAMS


class Answering(MllmPrior):
    """A model without weights, which fails on what it is told to with an error of a kind."""

    def __init__(self, error: Exception, *bad: str) -> None:
        self.error, self.bad, self.calls = error, bad, 0
        self.fingerprint, self.prompt = "f" * 16, prompt_for("qwen3_vl")

    def ask(self, images: Sequence[Image.Image], expressions: Sequence[str]) -> list[Reply]:
        self.calls += 1
        if set(self.bad) & set(expressions):
            raise self.error
        return [Reply((GOOD,), (-0.1,), *image.size) for image in images]


def _models(mllm: MllmPrior) -> PriorModels:
    return PriorModels(PriorConfig(), mllm)


def _questions(folder: Path, *expressions: str) -> list[Question]:
    path = folder / "a.png"
    Image.new("RGB", (32, 24)).save(path)
    return [Question(f"k{i}", str(path), text, 32, 24) for i, text in enumerate(expressions)]


@pytest.mark.parametrize(
    ("error", "kind"), [(StopIteration(), "model"), (ValueError("odd"), "model"), (MemoryError("64 GB"), "memory")]
)
def test_one_question_fails_alone(tmp_path: Path, error: Exception, kind: str) -> None:
    questions = _questions(tmp_path, "a", "b", "bad", "c", "d")
    replies = answer_batch(_models(Answering(error, "bad")), questions)
    assert [reply.texts for reply in replies] == [(GOOD,), (GOOD,), (), (GOOD,), (GOOD,)]
    assert replies[2].failure.startswith(f"{kind}: {type(error).__name__}")


def test_a_batch_too_large_for_memory_is_said_once_for_each_size(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    say_too_large.cache_clear()  # of the tests before
    for _ in range(2):
        answer_batch(_models(Answering(MemoryError("64 GB"), "large")), _questions(tmp_path, *"abcdefghi", "large"))
    words = [f"{size} questions at once do not fit into memory with the language model" for size in (10, 5, 3, 2)]
    said = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert [line.split(";")[0] for line in said] == words
    assert said[0].endswith("lower prior.batch_size to 5")


def test_pictures_and_texts_that_cannot_be_asked_never_reach_the_model(tmp_path: Path) -> None:
    questions = _questions(tmp_path, "a", "x" * (MAX_TEXT_BYTES + 1), "b", "c")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:45])
    for index, name in ((0, "cut.png"), (3, "gone.png")):
        questions[index] = replace(questions[index], image_path=str(tmp_path / name))
    model = Answering(ValueError(), questions[1].expression)
    kinds = [failure_kind(reply.failure) for reply in answer_batch(_models(model), questions)]
    assert kinds == ["picture", "text", "", "picture"] and model.calls == 1


def test_a_model_too_large_for_memory_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not fit into memory even with one question .* prior\.dtype=bfloat16"):
        answer_batch(_models(Answering(MemoryError("64 GB"), "a", "b")), _questions(tmp_path, "a", "b"))


def test_a_device_that_failed_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(
        DeviceFailed, match=r"device of the language model failed: assert; .* start again, or with prior.device=cpu"
    ):
        answer_batch(_models(Answering(torch.AcceleratorError("assert"), "a")), _questions(tmp_path, "a", "b"))


# Masks


class Drawing(Sam):
    """A real SAM that fails on what it is told to."""

    error: Exception = ValueError("odd")
    bad: frozenset[str] = frozenset()

    def draw(self, images: Sequence[Image.Image], priors: Sequence[Prior]) -> list[Reply]:
        if self.bad & {prior.key for prior in priors}:
            raise self.error
        return super().draw(images, priors)


@pytest.fixture
def drawing(tmp_path: Path) -> Drawing:
    SAMS["sam2"](tmp_path / "sam2")
    loaded = Drawing.load(PriorConfig(proposal="sam", sam_model=str(tmp_path / "sam2"), device="cpu"))
    assert isinstance(loaded, Drawing)
    return loaded


def _to_draw(folder: Path, *keys: str) -> list[Question]:
    box = (0.1, 0.2, 0.5, 0.6)
    priors = {key: Prior(key, (box,), (0.8,), (), "cat", 0.8, "", GOOD) for key in keys}
    return [replace(q, prior=priors[q.expression]) for q in _questions(folder, *keys)]


def test_each_question_goes_to_whom_it_is_for(tmp_path: Path, drawing: Drawing) -> None:
    mllm = Answering(ValueError())
    asked, drawn = _questions(tmp_path, "a", "b"), _to_draw(tmp_path, "c", "d")
    replies = answer_batch(PriorModels(PriorConfig(proposal="sam"), mllm, drawing), [asked[0], *drawn, asked[1]])
    assert [reply.texts for reply in replies] == [(GOOD,), (), (), (GOOD,)]
    assert [len(reply.masks) for reply in replies] == [0, 1, 1, 0]
    assert not any(reply.failure for reply in replies) and mllm.calls == 1


def test_masks_alone_need_no_mllm_and_answers_alone_no_sam(tmp_path: Path, drawing: Drawing) -> None:
    nowhere = PriorConfig(proposal="sam", sam_model=str(tmp_path / "gone"), model=str(tmp_path / "gone"))
    (reply,) = answer_batch(PriorModels(nowhere, sam=drawing), _to_draw(tmp_path, "a"))
    assert reply.masks
    (reply,) = answer_batch(PriorModels(nowhere, Answering(ValueError())), _questions(tmp_path, "a"))
    assert reply.texts == (GOOD,)


@pytest.mark.parametrize(("error", "kind"), [(ValueError("odd"), "sam"), (torch.OutOfMemoryError("64 GB"), "memory")])
def test_one_mask_fails_alone(tmp_path: Path, drawing: Drawing, error: Exception, kind: str) -> None:
    drawing.error, drawing.bad = error, frozenset({"bad"})
    questions = _to_draw(tmp_path, "a", "b", "bad", "c")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:45])
    questions[0] = replace(questions[0], image_path=str(tmp_path / "cut.png"))
    replies = answer_batch(PriorModels(PriorConfig(), sam=drawing), questions)
    assert [failure_kind(reply.failure) for reply in replies] == ["picture", "", kind, ""]


def test_a_sam_too_large_for_memory_ends_the_run(tmp_path: Path, drawing: Drawing) -> None:
    drawing.error, drawing.bad = MemoryError("64 GB"), frozenset({"a", "b"})
    with pytest.raises(ConfigError, match=r"^SAM does not fit into memory even with one .* smaller prior\.sam_model"):
        answer_batch(PriorModels(PriorConfig(), sam=drawing), _to_draw(tmp_path, "a", "b"))
