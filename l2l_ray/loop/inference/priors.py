"""Every example gets its prior: what the store does not hold is asked, once, whoever holds the MLLM.

The MLLM sits in this process (`LocalMllm`) or behind a pool of actors (`actors.priors.PriorPool`); both answer batches
of questions, in any order. Answers go into the store that all runs under one root share, each batch at once, and a
set's priors into the run folder when they are complete.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

from l2l_ray.config import PriorConfig, RunConfig
from l2l_ray.data.pixels import read_rgb
from l2l_ray.loop.state.example_files import write_priors
from l2l_ray.loop.state.prepare import RunData
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.prior.mllm import MllmIdentity, MllmPrior, Reply, make_prior, prior_key
from l2l_ray.prior.store import PriorStore
from l2l_ray.types import Example

logger = logging.getLogger(__name__)


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
    def _model(self) -> MllmPrior:
        return MllmPrior.load(self._config)

    def identity(self) -> MllmIdentity:
        """Return which model this is."""
        return MllmIdentity.of(self._model)

    def ask(self, batches: Iterator[list[Question]]) -> Iterator[Answered]:
        """Answer batch after batch."""
        for batch in batches:
            yield batch, answer_batch(self._model, batch)


def answer_batch(mllm: MllmPrior, questions: Sequence[Question]) -> list[Reply]:
    """Open the images of a batch and ask about them."""
    pictures = [read_rgb(q.image_path) for q in questions]
    return mllm.ask(pictures, [q.expression for q in questions])


def lacks_priors(run: RunFolder, data: RunData) -> bool:
    """Whether there is anything to ask; a resumed run that has all its priors needs no MLLM."""
    return not all(run.priors_path(name).exists() for name in data.prior_order)


def fill_all_priors(
    config: RunConfig, run: RunFolder, data: RunData, mllm: Mllm, progress: Progress = lambda *_: None
) -> None:
    """Complete the priors of every example set, in the order in which they are needed.

    Args:
        config: The run's config.
        run: Where `priors/<name>.parquet` goes.
        data: The run's example sets.
        mllm: Asked only where something is missing.
        progress: Told after each batch, and of each complete set.
    Raises:
        DataError: The store or a file cannot be written; every answered batch is stored.
    """
    with PriorStore(config.cache_dir / "priors.sqlite") as store:
        for name in data.prior_order:
            if not run.priors_path(name).exists():
                fill_priors(name, data.examples(name), run, store, mllm, config.prior.batch_size, progress)
            total = len(data.examples(name))
            progress(name, total, total)


def fill_priors(
    name: str,
    examples: Sequence[Example],
    run: RunFolder,
    store: PriorStore,
    mllm: Mllm,
    batch_size: int,
    progress: Progress = lambda *_: None,
) -> int:
    """Ask what the store does not hold of one set, then write the set's priors; return how many were asked.

    Raises:
        DataError: The store or the file cannot be written; every answered batch is stored.
    """
    identity = mllm.identity()
    questions = [_question(example, identity.fingerprint) for example in examples]
    open_keys = set(store.missing(list(dict.fromkeys(q.key for q in questions))))
    todo = list({q.key: q for q in questions if q.key in open_keys}.values())
    done = len(questions) - len(todo)
    for batch, replies in mllm.ask(todo[start : start + batch_size] for start in range(0, len(todo), batch_size)):
        answers = zip(batch, replies, strict=True)
        store.put_many([make_prior(q.key, reply, identity, q.width_px, q.height_px) for q, reply in answers])
        done += len(batch)
        progress(name, min(done, len(questions) - 1), len(questions))  # complete once its file is there
    priors = store.get_many(q.key for q in questions)
    pairs = [(e.sent_id, priors[q.key]) for e, q in zip(examples, questions, strict=True)]
    failures = Counter(prior.failure.split(":")[0] for _, prior in pairs if prior.failure)
    run.log_event({"event": "priors", "set": name, "num": len(pairs), "asked": len(todo), "failures": dict(failures)})
    # After the event: a process killed in between logs again, and nothing is lost.
    write_priors(run.priors_path(name), pairs)
    if failures:
        logger.warning("%s: %d of %d replies gave no prior: %s", name, failures.total(), len(pairs), dict(failures))
    return len(todo)


@cache
def _image_sha256(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _question(example: Example, fingerprint: str) -> Question:
    key = prior_key(fingerprint, _image_sha256(example.image_path), example.expression)
    return Question(key, example.image_path, example.expression, example.width_px, example.height_px)
