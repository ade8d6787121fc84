"""Many small calls become few large ones: what waits while the model works is its next batch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class MicroBatcher(Generic[T, R]):
    """Merge concurrent small calls into few large ones.

    Args:
        run: Called in a thread with at most `max_batch` items; returns one result per item.
        max_batch: Items per call of `run`.
        max_wait_s: How long a first item waits for company.
    """

    def __init__(self, run: Callable[[list[T]], Sequence[R]], max_batch: int, max_wait_s: float) -> None:
        self._run = run
        self._max_batch = max_batch
        self._max_wait_s = max_wait_s
        self._queue: asyncio.Queue[asyncio.Future[R]] = asyncio.Queue()
        self._items: dict[asyncio.Future[R], T] = {}  # let go as soon as nobody waits for them any more
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batch")
        self._worker: asyncio.Task[None] | None = None

    @property
    def queue_length(self) -> int:
        """Items that wait for a batch."""
        return self._queue.qsize()

    async def submit(self, items: Sequence[T]) -> list[R]:
        """Return the result of every item, in order.

        Raises:
            Exception: Whatever `run` raised for a batch with one of these items.
        """
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        futures: list[asyncio.Future[R]] = [asyncio.get_running_loop().create_future() for _ in items]
        for item, future in zip(items, futures, strict=True):
            self._items[future] = item
            future.add_done_callback(self._items.pop)
            self._queue.put_nowait(future)
        return list(await asyncio.gather(*futures))

    async def _work(self) -> None:
        while True:
            await self._answer(await self._collect())

    async def _collect(self) -> list[asyncio.Future[R]]:
        batch = [await self._queue.get()]
        deadline = time.monotonic() + self._max_wait_s
        while len(batch) < self._max_batch:
            left_s = deadline - time.monotonic()
            try:
                if self._queue.empty() and left_s > 0:
                    batch.append(await asyncio.wait_for(self._queue.get(), left_s))
                else:
                    batch.append(self._queue.get_nowait())
            except (TimeoutError, asyncio.QueueEmpty):
                break
        return batch

    async def _answer(self, batch: list[asyncio.Future[R]]) -> None:
        batch = [future for future in batch if not future.done()]  # nobody waits for the others any more
        if not batch:
            return
        try:
            items = [self._items[future] for future in batch]
            results = await asyncio.get_running_loop().run_in_executor(self._thread, self._run, items)
        except Exception as error:  # every kind of failure belongs to the callers who asked, not to this loop
            for future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for future, result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)
