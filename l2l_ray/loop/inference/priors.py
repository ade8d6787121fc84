"""Every example gets its prior: a user's box is one; what else the store does not hold is asked, once.

The MLLM sits in this process (`LocalMllm`) or behind a pool of actors (`actors.priors.PriorPool`); both answer batches
of questions, in any order. Answers go into the store that all runs under one root share, each batch at once, and a
set's priors into the run folder when they are complete.

One question that cannot be answered, because of its picture, its text or an error of the model, fails alone: it gets no
prior, with the reason, and is not stored, so that another run asks again. Where the first questions all fail, the run
ends.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Protocol, runtime_checkable

import torch
from PIL import Image

from l2l_ray.config import PriorConfig, RunConfig
from l2l_ray.data.pixels import read_rgb
from l2l_ray.errors import ConfigError, DataError
from l2l_ray.loop.inference.prior_check import require_usable
from l2l_ray.loop.state.example_files import read_priors, write_priors
from l2l_ray.loop.state.prepare import RunData
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.prior.hint import at_points, prior_of_hint
from l2l_ray.prior.loading import identify_prior, load_prior
from l2l_ray.prior.reply import MllmIdentity, PictureMllm, Reply, failure_kind, make_prior, no_box_reasons, prior_key
from l2l_ray.prior.shared_store import Store, open_store
from l2l_ray.storage import local_copy, place
from l2l_ray.types import Example, Prior

logger = logging.getLogger(__name__)

MAX_TEXT_BYTES = 4000  # 64 words have about 400; attention over a longer text would cost the whole batch
NUM_FAILED_AT_START = 8  # so many failures and no answer: the set-up is wrong


@dataclass(frozen=True)
class Question:
    """One thing to ask the MLLM.

    Example: `Question("9f..", "/data/12.jpg", "left man", 640, 480)`
    """

    key: str
    image_path: str
    expression: str
    width_px: int
    height_px: int


Answered = tuple[list[Question], list[Reply]]
Progress = Callable[[str, int, int], None]  # name of the set, examples that have their prior, examples in all


@runtime_checkable
class Mllm(Protocol):
    """Whoever answers questions."""

    def identity(self) -> MllmIdentity:
        """Return which model answers, and in what format."""

    def ask(self, batches: Iterator[list[Question]]) -> Iterator[Answered]:
        """Yield every batch with its replies, in any order."""


class LocalMllm:
    """The MLLM in this process; loaded when it is first needed, so a run that has all priors loads none."""

    def __init__(self, config: PriorConfig) -> None:
        self._config = config

    @cached_property
    def _model(self) -> PictureMllm:
        return load_prior(self._config)

    @cached_property
    def _identity(self) -> MllmIdentity:
        return identify_prior(self._config)

    def identity(self) -> MllmIdentity:
        """Return which model this is; it is not loaded for it."""
        return self._identity

    def ask(self, batches: Iterator[list[Question]]) -> Iterator[Answered]:
        """Answer batch after batch."""
        for batch in batches:
            yield batch, answer_batch(self._model, batch)


class KnownMllm(LocalMllm):
    """The MLLM in this process, where others have asked it nearly everything: who it is needs no loading."""

    def __init__(self, config: PriorConfig, identity: MllmIdentity) -> None:
        super().__init__(config)
        self._identity = identity  # what the others were told


def answer_batch(mllm: PictureMllm, questions: Sequence[Question]) -> list[Reply]:
    """Open the images of a batch and ask about them; what cannot be answered fails alone, see `answer_pictures`.

    Raises:
        ConfigError: No question fits into memory, or the device failed.
    """
    pictures: dict[str, Image.Image] = {}
    failed: dict[str, Reply] = {}
    for path in dict.fromkeys(question.image_path for question in questions):
        try:
            pictures[path] = read_rgb(path)
        except Exception as error:  # a file can be damaged in every way: it is the fault of its questions alone
            failed[path] = Reply.failed("picture", error)
    rest = [question for question in questions if question.image_path in pictures]
    replies = answer_pictures(mllm, [pictures[q.image_path] for q in rest], [q.expression for q in rest])
    answered = iter(replies)
    return [failed.get(question.image_path) or next(answered) for question in questions]


def answer_pictures(mllm: PictureMllm, pictures: Sequence[Image.Image], expressions: Sequence[str]) -> list[Reply]:
    """Ask about pictures, whoever opened them; the one rule for questions that fail, wherever questions are asked.

    A batch that fails is halved, so that a batch too large for memory is answered in parts, and a question that fails
    alone becomes `Reply.failed`.

    Raises:
        ConfigError: No question of the batch fits into memory, or the device failed.
    """
    too_long = {i for i, text in enumerate(expressions) if len(text.encode(errors="replace")) > MAX_TEXT_BYTES}
    asked = [index for index in range(len(expressions)) if index not in too_long]
    replies = _halved(mllm, [pictures[i] for i in asked], [expressions[i] for i in asked])
    if replies and all(failure_kind(reply.failure) == "memory" for reply in replies):
        raise ConfigError(
            f"the language model does not fit into memory even with one question a call ({replies[0].failure}); "
            "expected room for one: take a smaller prior.model, prior.dtype=bfloat16, or prior.device=cpu"
        )
    answered = iter(replies)
    long = Reply.failed("text", f"got more than {MAX_TEXT_BYTES} bytes; expected one sentence about one object")
    return [long if index in too_long else next(answered) for index in range(len(expressions))]


def _halved(mllm: PictureMllm, pictures: list[Image.Image], expressions: list[str]) -> list[Reply]:
    if not pictures:
        return []
    try:
        return mllm.ask(pictures, expressions)
    except torch.AcceleratorError as error:  # not of this question: nothing can be computed on the device any more
        raise ConfigError(
            f"the device of the language model failed: {' '.join(str(error).split())}; expected a working one: start "
            "again with --resume, or with prior.device=cpu"
        ) from error
    except Exception as error:  # processors and models raise every kind
        if len(pictures) == 1:
            return [Reply.failed(_error_kind(error), f"{type(error).__name__}: {error}")]
        logger.info("a batch of %d questions failed (%s); asking its halves", len(pictures), error)
    middle = len(pictures) // 2
    return [
        *_halved(mllm, pictures[:middle], expressions[:middle]),
        *_halved(mllm, pictures[middle:], expressions[middle:]),
    ]


def _error_kind(error: Exception) -> str:
    is_memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
    return "memory" if is_memory else "model"


def lacks_priors(run: RunFolder, data: RunData) -> bool:
    """Whether there is anything to ask; a resumed run that has all its priors needs no MLLM."""
    return not all(run.priors_path(name).exists() for name in data.prior_order)


def known_mllm(config: RunConfig, prior: PriorConfig, run: RunFolder, data: RunData) -> KnownMllm | None:
    """Return who the MLLM is, where the store holds all its answers; None where it has to be asked.

    Args:
        config: The run's config.
        prior: Its prior section, with the device of whoever would be asked.
        run: Its folder.
        data: Its example sets.
    """
    if prior.dtype == "auto" and prior.device != "cpu":
        return None  # which one it is depends on an accelerator, perhaps of another machine
    identity = identify_prior(prior)
    with open_store(config.cache_dir) as store:
        for name in data.prior_order:
            if not run.priors_path(name).exists():
                asked = [e for e in data.examples(name) if _users_prior(e) is None]
                if store.missing(list({question_of(e, identity.fingerprint).key for e in asked})):
                    return None
    return KnownMllm(prior, identity)


def fill_all_priors(
    config: RunConfig, run: RunFolder, data: RunData, mllm: Mllm, progress: Progress = lambda *_: None
) -> None:
    """Complete the priors of every example set, in the order in which they are needed, and check the labeled ones.

    Args:
        config: The run's config.
        run: Where `priors/<name>.parquet` goes.
        data: The run's example sets.
        mllm: Asked only where something is missing.
        progress: Told after each batch, and of each complete set.
    Raises:
        DataError: The store or a file cannot be written (every answered batch is stored), or no picture can be
            opened.
        ConfigError: The model answers nothing, or nothing that is of use (see `prior_check`).
    """
    lacked = lacks_priors(run, data)
    with open_store(config.cache_dir) as store:
        for name in data.prior_order:
            if not run.priors_path(name).exists():
                fill_priors(name, data.examples(name), run, store, mllm, config.prior.batch_size, progress)
            if name == "labeled" and lacked:
                _check_labeled(config, run, data, mllm)
            total = len(data.examples(name))
            progress(name, total, total)


def _check_labeled(config: RunConfig, run: RunFolder, data: RunData, mllm: Mllm) -> None:
    if all(_users_prior(example) for example in data.labeled):
        return
    priors = read_priors(run.priors_path("labeled"))
    found = [priors[example.sent_id] for example in data.labeled]
    check = require_usable(config.prior, data.labeled, found, mllm.identity().prompt)
    if check is not None:
        run.log_event(check.as_event())


def fill_priors(
    name: str,
    examples: Sequence[Example],
    run: RunFolder,
    store: Store,
    mllm: Mllm,
    batch_size: int,
    progress: Progress = lambda *_: None,
) -> int:
    """Ask what the store does not hold of one set, then write the set's priors; return how many were asked.

    Raises:
        DataError: The store or the file cannot be written (every answered batch is stored), or no picture can be
            opened.
        ConfigError: The model answers nothing.
    """
    by_user = {e.sent_id: prior for e in examples if (prior := _users_prior(e)) is not None}
    asked = [e for e in examples if e.sent_id not in by_user]
    is_proven = any(run.priors_path(name).parent.glob("*.parquet"))
    told = partial(progress, name)
    answers, num_asked = _answers(asked, len(by_user), store, mllm, batch_size, is_proven, told) if asked else ({}, 0)
    pairs = [(e.sent_id, by_user.get(e.sent_id) or answers[e.sent_id]) for e in examples]
    failures = Counter(failure_kind(prior.failure) for _, prior in pairs if prior.failure)
    hints = {"by_user": len(by_user)} if by_user else {}
    counts = {"num": len(pairs), "asked": num_asked, **hints, "failures": dict(failures)}
    run.log_event({"event": "priors", "set": name, **counts})
    # After the event: a process killed in between logs again, and nothing is lost.
    write_priors(run.priors_path(name), pairs, run.config.loop.shard_size)
    run.promise(run.priors_path(name))
    if failures:
        logger.warning("%s", no_box_sentence(failures, name, len(pairs)))
    return num_asked


def _answers(
    examples: Sequence[Example],
    num_ready: int,
    store: Store,
    mllm: Mllm,
    batch_size: int,
    is_proven: bool,
    progress: Callable[[int, int], None],
) -> tuple[dict[int, Prior], int]:
    """Return what the MLLM says, by sent_id, and how many were asked.

    Args:
        examples: Whom to ask about.
        num_ready: Other examples of the set, which need no answer.
        store: Holds answers of all runs.
        mllm: Asked what the store does not hold.
        batch_size: Questions in a call.
        is_proven: Whether the set-up has answered before.
        progress: Told how many of the set have their prior, of how many.
    """
    identity = mllm.identity()
    questions = [question_of(example, identity.fingerprint) for example in examples]
    open_keys = set(store.missing(list(dict.fromkeys(q.key for q in questions))))
    todo = sorted({q.key: q for q in questions if q.key in open_keys}.values(), key=_size_and_picture)
    total = num_ready + len(questions)
    done = total - len(todo)
    is_proven = is_proven or len(todo) < len(questions)
    num_unserved = 0  # questions in a row that a server gave no answer to
    failed: dict[str, Prior] = {}  # not stored: these questions may be answered another time
    for batch, replies in mllm.ask(todo[start : start + batch_size] for start in range(0, len(todo), batch_size)):
        made: list[Prior] = []
        for q, reply in zip(batch, replies, strict=True):
            prior = make_prior(q.key, reply, identity, q.width_px, q.height_px)
            if reply.failure:
                failed[q.key] = prior
            else:
                made.append(prior)
        store.put_many(made)
        is_proven = is_proven or bool(made)
        is_unserved = all(failure_kind(reply.failure) == "server" for reply in replies)
        num_unserved = num_unserved + len(replies) if is_unserved else 0
        if is_proven and num_unserved >= NUM_FAILED_AT_START:
            raise ConfigError(
                f"the server of the language model has given no usable answer to {num_unserved} questions in a row "
                f"({replies[-1].failure}); what it answered before is stored: look at it, then go on with --resume"
            )
        if not is_proven:
            _check_set_up([prior.failure for prior in failed.values()], len(todo))
        done += len(batch)
        progress(min(done, total - 1), total)  # complete once its file is there
    priors = store.get_many(q.key for q in questions) | failed
    found = {e.sent_id: _with_points(e, priors[q.key]) for e, q in zip(examples, questions, strict=True)}
    return found, len(todo)


def no_box_sentence(failures: Mapping[str, int], name: str, num: int) -> str:
    """Say how many of a set's texts have no prior, and why; `failures` counts the kinds of `FAILURE_WORDS`."""
    remedy = " Raise prior.max_new_tokens for answers that are cut off." if "cut off" in failures else ""
    return (
        f"The language model gave no usable box for {sum(failures.values())} of {num} texts of the {name} set "
        f"({no_box_reasons(failures)}); training goes on.{remedy}"
    )


def _check_set_up(failures: Sequence[str], num_questions: int) -> None:
    """End a run whose first questions all fail in one way: then it is not the questions.

    Raises:
        DataError: None of their pictures can be opened.
        ConfigError: The model cannot answer any.
    """
    kinds = {failure_kind(failure) for failure in failures}
    if len(failures) < max(2, min(NUM_FAILED_AT_START, num_questions)) or len(kinds) > 1 or kinds == {"text"}:
        return
    num, (kind,) = len(failures), kinds
    if kind == "picture":
        raise DataError(
            f"none of the first {num} pictures can be opened ({failures[0]}); expected JPEG or PNG files: check that "
            "their folder is there and may be read, then start again with --resume"
        )
    if kind == "server":
        raise ConfigError(
            f"the server of the language model gave no usable answer to any of the first {num} questions "
            f"({failures[0]}); look at its log, raise prior.timeout_s if it is slow, then start again with --resume"
        )
    raise ConfigError(
        f"the language model failed on each of the first {num} questions ({failures[0]}); expected answers: check the "
        "files of prior.model, or set prior.device=cpu or another prior.dtype, then start again with --resume"
    )


def _size_and_picture(question: Question) -> tuple[int, str]:
    """Order questions so that a batch holds pictures of one size, and what is asked about one picture.

    The largest come first: if they do not fit into memory, that is seen at once.
    """
    return -question.width_px * question.height_px, question.image_path


@cache
def _image_sha256(path: str) -> str:
    try:
        return hashlib.sha256(local_copy(place(path)).read_bytes()).hexdigest()
    except OSError:  # it will fail when it is asked, alone
        return f"unreadable {path}"


def _users_prior(example: Example) -> Prior | None:
    if example.hint is None or example.hint.box_xyxy_frac is None:
        return None
    return prior_of_hint(example.hint, _image_sha256(example.image_path), example.expression)


def _with_points(example: Example, prior: Prior) -> Prior:
    if example.hint is None:
        return prior
    return at_points(prior, example.hint, _image_sha256(example.image_path), example.expression)


def question_of(example: Example, fingerprint: str) -> Question:
    """Return what a model is asked about an example, with the store's key of it."""
    key = prior_key(fingerprint, _image_sha256(example.image_path), example.expression)
    return Question(key, example.image_path, example.expression, example.width_px, example.height_px)
