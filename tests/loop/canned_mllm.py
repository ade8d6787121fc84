"""Stands for the models behind priors where tests are about what becomes of their answers."""

from __future__ import annotations

from collections.abc import Iterator

from l2l_ray.config import RunConfig
from l2l_ray.loop.inference.asking import Question
from l2l_ray.loop.inference.priors import Answered, fill_priors
from l2l_ray.loop.state.prepare import RunData
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.prior.prompt import QWEN_RELATIVE
from l2l_ray.prior.reply import MllmIdentity, Reply
from l2l_ray.prior.store import PriorStore
from l2l_ray.types import Hint

BOX, POINT = Hint((0.5, 0.5, 1.0, 1.0), ((0.75, 0.75),)), Hint(None, ((0.3, 0.4),))  # what users say
GOOD = '[{"bbox_2d": [100, 200, 500, 600], "label": "cat"}]'


class CannedMllm:
    """What answers: canned replies, and a count of what was asked."""

    def __init__(self, bad: str = "", sam: str = "") -> None:
        self.fingerprint, self.sam = "f00d", sam
        self.asked: list[Question] = []
        self.drawn: list[Question] = []
        self.batches: list[int] = []
        self._bad = bad

    def identity(self) -> MllmIdentity:
        return MllmIdentity(self.fingerprint, QWEN_RELATIVE, self.sam)

    def ask(self, batches: Iterator[list[Question]]) -> Iterator[Answered]:
        everything = list(batches)
        for batch in reversed(everything):  # any order is allowed
            self.asked += [q for q in batch if q.prior is None]
            self.drawn += [q for q in batch if q.prior is not None]
            self.batches.append(len(batch))
            yield batch, [self.reply(question) for question in batch]

    def reply(self, question: Question) -> Reply:
        if question.prior is not None:
            masks = [f"mask of {box}" for box in question.prior.boxes_xyxy_frac or question.prior.points_xy_frac]
            return Reply.drawn(masks, [0.9] * len(masks))
        return Reply(("I see a cat" if question.expression == self._bad else GOOD,), (-0.1,), 0, 0)


def fill(config: RunConfig, run: RunFolder, sets: RunData, model: CannedMllm, name: str = "val") -> int:
    """Fill the priors of a set, three questions at a time."""
    with PriorStore(config.cache_dir / "priors.sqlite") as store:
        return fill_priors(name, sets.examples(name), run, store, model, 3)
