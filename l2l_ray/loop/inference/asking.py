"""Questions about pictures, and how the models behind a prior answer them, in whatever process these are.

A question is for the MLLM, or for SAM where it brings the prior to draw. One that cannot be answered, because of its
picture, its text or an error of a model, fails alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import torch
from PIL import Image

from l2l_ray.data.pixels import read_rgb
from l2l_ray.device import DeviceFailed, is_out_of_memory
from l2l_ray.errors import ConfigError
from l2l_ray.prior.loading import PriorModels
from l2l_ray.prior.reply import MaskModel, PictureMllm, Reply, failure_kind
from l2l_ray.types import Prior

logger = logging.getLogger(__name__)
T = TypeVar("T")

MAX_TEXT_BYTES = 4000  # 64 words have about 400; attention over a longer text would cost the whole batch


@dataclass(frozen=True)
class Who:
    """A model that is asked, and may fail, for messages.

    Example: `Who("SAM", "prior.sam_model", "sam")`
    """

    words: str
    setting: str
    failure: str  # a key of `FAILURE_WORDS`


MLLM = Who("the language model", "prior.model", "model")
SAM = Who("SAM", "prior.sam_model", "sam")


@dataclass(frozen=True)
class Question:
    """One thing to ask.

    Args:
        key: The store's key of the answer.
        image_path: The picture.
        expression: What is referred to.
        width_px: Native width.
        height_px: Native height.
        prior: What masks are wanted of: SAM is asked; None = the MLLM is asked.

    Example: `Question("9f..", "/data/12.jpg", "left man", 640, 480)`
    """

    key: str
    image_path: str
    expression: str
    width_px: int
    height_px: int
    prior: Prior | None = None

    @property
    def who(self) -> Who:
        """Whom it is for."""
        return MLLM if self.prior is None else SAM


def answer_batch(models: PriorModels, questions: Sequence[Question]) -> list[Reply]:
    """Open the images of a batch and ask about them; what cannot be answered fails alone, see `answer_pictures`.

    Raises:
        ConfigError: A model cannot be loaded, or no question fits into memory.
        DeviceFailed: The device failed.
    """
    pictures: dict[str, Image.Image] = {}
    replies: dict[int, Reply] = {}
    failed: dict[str, Reply] = {}
    for path in dict.fromkeys(question.image_path for question in questions):
        try:
            pictures[path] = read_rgb(path)
        except Exception as error:  # a file can be damaged in every way: it is the fault of its questions alone
            failed[path] = Reply.failed("picture", error)
    rest = [(row, q, pictures[q.image_path]) for row, q in enumerate(questions) if q.image_path in pictures]
    if asked := [(row, picture, q.expression) for row, q, picture in rest if q.prior is None]:
        rows, images, texts = zip(*asked, strict=True)
        replies.update(zip(rows, answer_pictures(models.mllm, images, texts), strict=True))
    if drawn := [(row, picture, q.prior) for row, q, picture in rest if q.prior is not None]:
        rows, images, priors = zip(*drawn, strict=True)
        replies.update(zip(rows, draw_pictures(models.sam, images, priors), strict=True))
    return [replies[row] if row in replies else failed[q.image_path] for row, q in enumerate(questions)]


def answer_pictures(mllm: PictureMllm, pictures: Sequence[Image.Image], expressions: Sequence[str]) -> list[Reply]:
    """Ask about pictures, whoever opened them; the one rule for questions that fail, wherever questions are asked.

    A batch that fails is halved, so that a batch too large for memory is answered in parts, which is said once, and a
    question that fails alone becomes `Reply.failed`.

    Raises:
        ConfigError: No question of the batch fits into memory.
        DeviceFailed: The device failed.
    """
    too_long = {i for i, text in enumerate(expressions) if len(text.encode(errors="replace")) > MAX_TEXT_BYTES}
    asked = [index for index in range(len(expressions)) if index not in too_long]
    answered = iter(_answered(mllm.ask, [pictures[i] for i in asked], [expressions[i] for i in asked], MLLM))
    long = Reply.failed("text", f"got more than {MAX_TEXT_BYTES} bytes; expected one sentence about one object")
    return [long if index in too_long else next(answered) for index in range(len(expressions))]


def draw_pictures(sam: MaskModel, pictures: Sequence[Image.Image], priors: Sequence[Prior]) -> list[Reply]:
    """Have masks of priors drawn; what fails is treated as in `answer_pictures`.

    Raises:
        ConfigError: No picture of the batch fits into memory.
        DeviceFailed: The device failed.
    """
    return _answered(sam.draw, list(pictures), list(priors), SAM)


def _answered(
    ask: Callable[[Sequence[Image.Image], Sequence[T]], list[Reply]],
    pictures: list[Image.Image],
    asked: list[T],
    who: Who,
) -> list[Reply]:
    replies = _halved(ask, pictures, asked, who)
    if replies and all(failure_kind(reply.failure) == "memory" for reply in replies):
        raise ConfigError(
            f"{who.words} does not fit into memory even with one question a call ({replies[0].failure}); expected room "
            f"for one: take a smaller {who.setting}, prior.dtype=bfloat16, or prior.device=cpu"
        )
    return replies


def _halved(
    ask: Callable[[Sequence[Image.Image], Sequence[T]], list[Reply]],
    pictures: list[Image.Image],
    asked: list[T],
    who: Who,
) -> list[Reply]:
    if not pictures:
        return []
    try:
        return ask(pictures, asked)
    except torch.AcceleratorError as error:  # not of this question: nothing can be computed on the device any more
        raise DeviceFailed(
            f"the device of {who.words} failed: {' '.join(str(error).split())}; expected a working one: start again, "
            "or with prior.device=cpu"
        ) from error
    except Exception as error:  # processors and models raise every kind
        if len(pictures) == 1:
            return [Reply.failed(_error_kind(error, who), f"{type(error).__name__}: {error}")]
        if is_out_of_memory(error):
            say_too_large(who, len(pictures))
        logger.info("a batch of %d questions failed (%s); asking its halves", len(pictures), error)
    middle = len(pictures) // 2
    return [
        *_halved(ask, pictures[:middle], asked[:middle], who),
        *_halved(ask, pictures[middle:], asked[middle:], who),
    ]


@cache
def say_too_large(who: Who, count: int) -> None:
    """Warn that a batch did not fit; of each size once in a process."""
    logger.warning(
        "%d questions at once do not fit into memory with %s; they are asked in halves, which takes longer: lower "
        "prior.batch_size to %d", count, who.words, count // 2,
    )  # fmt: skip


def _error_kind(error: Exception, who: Who) -> str:
    return "memory" if is_out_of_memory(error) else who.failure
