"""What the replies of a language model cost: tokens of a photo, and time; of `l2l prior check` and of a run alike.

Replies that the store holds already cost nothing now and are not counted. A batch is timed where nothing else was in
work meanwhile, from being asked to its answer: prior actors have several batches in flight, and what arrives together
says nothing about one. The first batch is not timed where the model may be loaded for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from statistics import mean
from typing import Any

from l2l_ray.loop.inference.asking import Question
from l2l_ray.prior.reply import Reply


class ReplyCosts:
    """Counts what replies cost while they come in.

    Example: `for batch, replies in costs.watched(mllm.ask, batches): ...; costs.lines()`

    Args:
        batch_size: How many questions are asked at a time.
        is_loaded: The model has answered before, so its first batch is like the others.
    """

    def __init__(self, batch_size: int, is_loaded: bool = False) -> None:
        self._batch_size, self._is_loaded = batch_size, is_loaded
        self._tokens: list[int] = []  # of each photo of which it is known
        self._num_timed, self._seconds = 0, 0.0
        self._num_in_work, self._is_alone, self._since = 0, False, 0.0  # questions; the batch that was asked last

    def watched(
        self,
        ask: Callable[[Iterator[list[Question]]], Iterator[tuple[list[Question], list[Reply]]]],
        batches: Iterator[list[Question]],
    ) -> Iterator[tuple[list[Question], list[Reply]]]:
        """Ask batches, hand the answered ones on, and count their replies."""
        for batch, replies in ask(self._noted(batches)):
            if self._is_alone and self._is_loaded:
                self._num_timed += len(replies)
                self._seconds += time.perf_counter() - self._since
            self._num_in_work -= len(replies)  # one by one where a batch cost its actor
            self._is_alone, self._is_loaded = False, True
            self._tokens += [reply.num_image_tokens for reply in replies if reply.num_image_tokens]
            yield batch, replies

    def _noted(self, batches: Iterator[list[Question]]) -> Iterator[list[Question]]:
        """Hand batches on, and note which is asked while no other is in work."""
        for batch in batches:
            self._is_alone = not self._num_in_work
            self._num_in_work += len(batch)
            self._since = time.perf_counter()
            yield batch

    def as_event(self) -> dict[str, Any]:
        """Return the figures as they stand in a run's metrics.jsonl; None where they are not known."""
        return {
            "image_tokens": self._of_a_photo(),
            "seconds_per_reply": self._seconds / self._num_timed if self._num_timed else None,
            "batch_size": self._batch_size,
        }

    def lines(self) -> list[str]:
        """Return what there is to say, for people."""
        lines = []
        if found := self._of_a_photo():
            lines.append(f"image tokens of a photo: {found['mean']:.0f} ({found['min']} to {found['max']})")
        if self._num_timed:
            seconds = self._seconds / self._num_timed
            lines.append(f"time of a reply: {seconds:.2g} s, asked {self._batch_size} at a time")
        return lines

    def _of_a_photo(self) -> dict[str, float] | None:
        found = self._tokens
        return {"mean": mean(found), "min": min(found), "max": max(found)} if found else None
