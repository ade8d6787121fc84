"""What the replies of a language model cost: tokens of a photo, and time; of `l2l prior check` and of a run alike.

Replies that the store holds already cost nothing now and are not counted. The first batch is not timed, as the model
may be loaded for it; with several prior actors, the time is that of all of them together.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from statistics import mean
from typing import Any

from l2l_ray.loop.inference.asking import Question
from l2l_ray.prior.reply import Reply


class ReplyCosts:
    """Counts what replies cost while they come in.

    Example: `for batch, replies in costs.watched(mllm.ask(batches)): ...; costs.lines()`

    Args:
        batch_size: How many questions are asked at a time.
    """

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._tokens: list[int] = []  # of each photo of which it is known
        self._num_timed, self._seconds = 0, 0.0

    def watched(
        self, answers: Iterable[tuple[list[Question], list[Reply]]]
    ) -> Iterator[tuple[list[Question], list[Reply]]]:
        """Hand answered batches on, and count their replies."""
        started: float | None = None
        for batch, replies in answers:
            now = time.perf_counter()
            if started is not None:
                self._num_timed += len(replies)
                self._seconds += now - started
            self._tokens += [reply.num_image_tokens for reply in replies if reply.num_image_tokens]
            started = now
            yield batch, replies

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
