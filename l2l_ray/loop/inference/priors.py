"""Every example gets its prior: a user's box is one; what else the store does not hold is asked, once.

The MLLM sits in this process (`LocalMllm`) or behind a pool of actors (`actors.priors.PriorPool`); both answer batches
of questions, in any order. Answers go into the store that all runs under one root share, each batch at once, and a
set's priors into the run folder when they are complete.

With `prior.proposal='sam'` the same service is then asked for the masks of these priors, a user's among them. A prior
with masks is a row of its own in the store, whose key covers SAM's checkpoint: with another one the masks are drawn
anew, and the MLLM is not asked again.

One question that cannot be answered (see `asking`) gets no prior, with the reason, and is not stored, so that another
run asks again; the trials of a sweep do not, they are told (`KnownMllm`). Where the first questions all fail, the run
ends.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Protocol, runtime_checkable

from l2l_ray.config import PriorConfig, RunConfig
from l2l_ray.errors import ConfigError, DataError, OutageError
from l2l_ray.loop.inference.asking import MLLM, Question, Who, answer_batch
from l2l_ray.loop.inference.prior_check import require_usable
from l2l_ray.loop.inference.reply_costs import ReplyCosts
from l2l_ray.loop.state.example_files import read_priors, write_priors
from l2l_ray.loop.state.prepare import RunData
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.prior.hint import at_points, prior_of_hint
from l2l_ray.prior.loading import PriorModels, identify_prior
from l2l_ray.prior.reply import (
    MllmIdentity,
    Reply,
    failure_kind,
    make_prior,
    mask_key,
    no_box_reasons,
    prior_key,
    with_masks,
)
from l2l_ray.prior.shared_store import Store, open_store
from l2l_ray.storage import local_copy, place
from l2l_ray.types import Example, Prior

logger = logging.getLogger(__name__)

NUM_FAILED_AT_START = 8  # so many failures and no answer: the set-up is wrong

Answered = tuple[list[Question], list[Reply]]
Progress = Callable[[str, int, int], None]  # name of the set, examples that have their prior, examples in all


@runtime_checkable
class Mllm(Protocol):
    """Whoever answers questions, with SAM where that draws masks."""

    def identity(self) -> MllmIdentity:
        """Return which models answer, and in what format."""

    def ask(self, batches: Iterator[list[Question]]) -> Iterator[Answered]:
        """Yield every batch with its replies, in any order."""


class LocalMllm:
    """The MLLM in this process; loaded when it is first needed, so a run that has all priors loads none."""

    def __init__(self, config: PriorConfig) -> None:
        self._models = PriorModels(config)

    @cached_property
    def _identity(self) -> MllmIdentity:
        return identify_prior(self._models.config)

    def identity(self) -> MllmIdentity:
        """Return which model this is; it is not loaded for it."""
        return self._identity

    def ask(self, batches: Iterator[list[Question]]) -> Iterator[Answered]:
        """Answer batch after batch."""
        for batch in batches:
            yield batch, answer_batch(self._models, batch)


class KnownMllm(LocalMllm):
    """The MLLM in this process, where others have asked it nearly everything: who it is needs no loading.

    Args:
        config: Of the MLLM.
        identity: What the others were told.
        given_up: What they got instead of answers, by the questions' keys: these are not asked again.
    """

    def __init__(
        self, config: PriorConfig, identity: MllmIdentity, given_up: Mapping[str, Reply] | None = None
    ) -> None:
        super().__init__(config)
        self._identity = identity
        self.given_up = given_up or {}


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
                examples = data.examples(name)
                asked = [e for e in examples if _users_prior(e) is None]
                keys = [question_of(e, identity.fingerprint).key for e in asked]
                if store.missing(keys):
                    return None
                if prior.proposal == "sam":
                    said = _said(examples, identity.fingerprint, store.get_many(keys))
                    if store.missing([q.key for q in _to_draw(examples, said, identity.sam).values()]):
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
    lacked, costs = lacks_priors(run, data), ReplyCosts(config.prior.batch_size)
    with open_store(config.cache_dir) as store:
        for name in data.prior_order:
            if not run.priors_path(name).exists():
                watch = costs if name == "labeled" else None
                fill_priors(name, data.examples(name), run, store, mllm, config.prior.batch_size, progress, watch)
            if name == "labeled" and lacked:
                _check_labeled(config, run, data, mllm, costs)
            total = len(data.examples(name))
            progress(name, total, total)


def _check_labeled(config: RunConfig, run: RunFolder, data: RunData, mllm: Mllm, costs: ReplyCosts) -> None:
    if all(_users_prior(example) for example in data.labeled):
        return
    priors = read_priors(run.priors_path("labeled"))
    found = [priors[example.sent_id] for example in data.labeled]
    check = require_usable(config.prior, data.labeled, found, mllm.identity().prompt)
    if check is not None:
        run.log_event(check.as_event() | costs.as_event())


def fill_priors(
    name: str,
    examples: Sequence[Example],
    run: RunFolder,
    store: Store,
    mllm: Mllm,
    batch_size: int,
    progress: Progress = lambda *_: None,
    costs: ReplyCosts | None = None,
) -> int:
    """Ask what the store does not hold of one set, then write the set's priors; return how many were asked.

    Args:
        name: Of the set.
        examples: The set.
        run: Where `priors/<name>.parquet` goes.
        store: Of all runs.
        mllm: Asked only where something is missing.
        batch_size: How many questions are asked at a time.
        progress: Told after each batch.
        costs: Counts what the replies of the MLLM cost, if given; SAM's masks are none.
    Raises:
        DataError: The store or the file cannot be written (every answered batch is stored), or no picture can be
            opened.
        ConfigError: The model answers nothing.
    """
    is_proven = any(run.priors_path(name).parent.glob("*.parquet"))
    service = _Service(store, mllm, batch_size, is_proven, costs)
    draws = run.config.prior.proposal == "sam"

    def told(done: int) -> None:  # complete once its file is there
        progress(name, min(done, len(examples) - 1), len(examples))

    num_by_user = sum(_users_prior(e) is not None for e in examples)
    # Without its masks a prior is half done.
    priors, num_asked = _answers(examples, service, (lambda done: told(done // 2)) if draws else told)
    drawn = {}
    if draws:
        priors, drawn["drawn"] = _with_masks(examples, priors, service, lambda done: told((len(examples) + done) // 2))
    failures = Counter(failure_kind(prior.failure) for prior in priors if prior.failure)
    hints = {"by_user": num_by_user} if num_by_user else {}
    counts = {"num": len(priors), "asked": num_asked, **drawn, **hints, "failures": dict(failures)}
    run.log_event({"event": "priors", "set": name, **counts})
    # After the event: a process killed in between logs again, and nothing is lost.
    pairs = zip((e.sent_id for e in examples), priors, strict=True)
    write_priors(run.priors_path(name), pairs, run.config.loop.shard_size)
    run.promise(run.priors_path(name))
    if failures:
        logger.warning("%s", no_box_sentence(failures, name, len(priors) - num_by_user))
    return num_asked


@dataclass(frozen=True)
class _Service:
    """Whom to ask, and where answers go."""

    store: Store
    mllm: Mllm
    batch_size: int
    is_proven: bool  # it has answered in this run before
    costs: ReplyCosts | None

    def ask(
        self,
        questions: Sequence[Question],
        make: Callable[[Question, Reply], Prior],
        progress: Callable[[int], None],
    ) -> tuple[dict[str, Prior], int]:
        """Ask what the store does not hold, and store each batch of answers.

        Args:
            questions: Equal ones are asked once.
            make: What an answer comes to.
            progress: Told how many of the questions have their answer.
        Returns:
            All answers by key, and how many were asked. Those that failed are not stored.
        """
        keys = list(dict.fromkeys(q.key for q in questions))
        open_keys = set(self.store.missing(keys))
        given_up = self.mllm.given_up if isinstance(self.mllm, KnownMllm) else {}
        failed = {q.key: make(q, given_up[q.key]) for q in questions if q.key in open_keys and q.key in given_up}
        open_keys.difference_update(failed)
        todo = sorted({q.key: q for q in questions if q.key in open_keys}.values(), key=_size_and_picture)
        is_proven = self.is_proven or len(todo) < len(keys)
        num_known = len(questions) - len(todo)
        num_unserved = 0  # questions in a row that a server gave no answer to
        batches = (todo[start : start + self.batch_size] for start in range(0, len(todo), self.batch_size))
        if self.costs is not None and todo and todo[0].who is MLLM:
            answers = self.costs.watched(self.mllm.ask, batches)
        else:
            answers = self.mllm.ask(batches)
        for batch, replies in answers:
            made: list[Prior] = []
            for q, reply in zip(batch, replies, strict=True):
                prior = make(q, reply)
                if reply.failure:
                    failed[q.key] = prior
                else:
                    made.append(prior)
            self.store.put_many(made)
            is_proven = is_proven or bool(made)
            is_unserved = all(failure_kind(reply.failure) == "server" for reply in replies)
            num_unserved = num_unserved + len(replies) if is_unserved else 0
            if is_proven and num_unserved >= NUM_FAILED_AT_START:
                raise OutageError(
                    f"the server of the language model has given no usable answer to {num_unserved} questions in a row "
                    f"({replies[-1].failure}); what it answered before is stored: look at it, then go on with --resume"
                )
            if not is_proven:
                _check_set_up([prior.failure for prior in failed.values()], len(todo), batch[0].who)
            num_known += len(batch)
            progress(num_known)
        return self.store.get_many(keys) | failed, len(todo)


def _answers(
    examples: Sequence[Example], service: _Service, progress: Callable[[int], None]
) -> tuple[list[Prior], int]:
    """Return what users and the MLLM say, and how many questions were asked; progress counts examples."""
    asked = [e for e in examples if _users_prior(e) is None]
    if not asked:  # nobody has to be there
        return _said(examples, "", {}), 0
    identity = service.mllm.identity()

    def make(question: Question, reply: Reply) -> Prior:
        return make_prior(question.key, reply, identity, question.width_px, question.height_px)

    num_by_user = len(examples) - len(asked)
    questions = [question_of(e, identity.fingerprint) for e in asked]
    answers, num_asked = service.ask(questions, make, lambda done: progress(num_by_user + done))
    return _said(examples, identity.fingerprint, answers), num_asked


def _said(examples: Sequence[Example], fingerprint: str, answers: Mapping[str, Prior]) -> list[Prior]:
    """Return the prior of each example, without masks, given the answers of the MLLM by key."""
    return [_users_prior(e) or _with_points(e, answers[question_of(e, fingerprint).key]) for e in examples]


def _with_masks(
    examples: Sequence[Example], priors: Sequence[Prior], service: _Service, progress: Callable[[int], None]
) -> tuple[list[Prior], int]:
    """Return the priors with SAM's masks, and how many of these were drawn now; one without boxes and points stays."""
    questions = _to_draw(examples, priors, service.mllm.identity().sam)

    def make(question: Question, reply: Reply) -> Prior:
        assert question.prior is not None
        return with_masks(question.key, question.prior, reply)

    num_without = len(examples) - len(questions)
    drawn, num_drawn = service.ask(list(questions.values()), make, lambda done: progress(num_without + done))
    return [drawn[questions[p.key].key] if p.key in questions else p for p in priors], num_drawn


def _to_draw(examples: Sequence[Example], priors: Sequence[Prior], sam: str) -> dict[str, Question]:
    """Return what SAM is asked, by key of the prior without masks."""
    return {
        prior.key: Question(mask_key(sam, prior.key), e.image_path, e.expression, e.width_px, e.height_px, prior)
        for e, prior in zip(examples, priors, strict=True)
        if prior.says_where
    }


def no_box_sentence(failures: Mapping[str, int], name: str, num: int) -> str:
    """Say how many of a set's texts have no prior, and why; `failures` counts the kinds of `FAILURE_WORDS`."""
    remedy = " Raise prior.max_new_tokens for answers that are cut off." if "cut off" in failures else ""
    return (
        f"The language model gave no usable box for {sum(failures.values())} of {num} texts of the {name} set "
        f"({no_box_reasons(failures)}); training goes on.{remedy}"
    )


def _check_set_up(failures: Sequence[str], num_questions: int, who: Who) -> None:
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
            "their folder is there and may be read, then start again"
        )
    if kind == "server":
        raise ConfigError(
            f"the server of the language model gave no usable answer to any of the first {num} questions "
            f"({failures[0]}); look at its log, raise prior.timeout_s if it is slow, then start again"
        )
    raise ConfigError(
        f"{who.words} failed on each of the first {num} questions ({failures[0]}); expected answers: check the files "
        f"of {who.setting}, or set prior.device=cpu or another prior.dtype, then start again"
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
