"""The micro-batcher: who shares a batch, and whose error is whose."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import pytest

from l2l_ray.actors.batching import MicroBatcher


class _Doubler:
    """Doubles numbers; remembers batch sizes; refuses negative numbers; can be held up."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, numbers: list[int]) -> list[int]:
        assert self.go.wait(10.0)
        self.sizes.append(len(numbers))
        if any(number < 0 for number in numbers):
            raise ValueError(f"negative among {numbers}")
        return [2 * number for number in numbers]


async def _held_up(doubler: _Doubler) -> tuple[MicroBatcher[int, int], asyncio.Task[list[int]]]:
    """Return a batcher whose first call is in work until `doubler.go` is set, and that call."""
    doubler.go.clear()
    batcher = MicroBatcher(doubler, max_batch=4, max_wait_s=0.0)
    first = asyncio.create_task(batcher.submit([1]))
    await asyncio.sleep(0.1)
    return batcher, first


def test_calls_of_several_clients_share_batches_and_keep_their_order() -> None:
    doubler = _Doubler()

    async def story() -> list[list[int]]:
        batcher = MicroBatcher(doubler, max_batch=8, max_wait_s=0.05)
        return await asyncio.gather(*(batcher.submit([client * 10 + k for k in range(3)]) for client in range(4)))

    answers = asyncio.run(story())
    assert answers == [[2 * (client * 10 + k) for k in range(3)] for client in range(4)]
    assert doubler.sizes == [8, 4]


def test_a_lonely_call_waits_only_so_long() -> None:
    doubler = _Doubler()

    async def story() -> list[int]:
        return await asyncio.wait_for(MicroBatcher(doubler, max_batch=100, max_wait_s=0.01).submit([1]), 5.0)

    assert asyncio.run(story()) == [2]


def test_what_nobody_waits_for_any_more_is_left_out() -> None:
    doubler = _Doubler()

    async def story() -> None:
        batcher, first = await _held_up(doubler)
        given_up, kept = (asyncio.create_task(batcher.submit([k])) for k in (2, 3))
        await asyncio.sleep(0.1)
        given_up.cancel()
        await asyncio.sleep(0)
        doubler.go.set()
        assert await asyncio.gather(first, kept) == [[2], [6]]

    asyncio.run(story())
    assert doubler.sizes == [1, 1]


def test_what_was_given_up_is_let_go_at_once() -> None:
    class Picture:
        pass

    go = threading.Event()

    def work(items: list[Picture]) -> list[None]:
        assert go.wait(10.0)
        return [None for _ in items]

    async def story() -> None:
        batcher = MicroBatcher(work, max_batch=1, max_wait_s=0.0)
        first = asyncio.create_task(batcher.submit([Picture()]))
        await asyncio.sleep(0.1)
        picture = Picture()
        held = weakref.ref(picture)
        given_up = asyncio.create_task(batcher.submit([picture]))
        del picture
        await asyncio.sleep(0.1)
        assert held() is not None
        given_up.cancel()
        await asyncio.wait([given_up])
        del given_up
        await asyncio.sleep(0.1)
        gc.collect()
        assert held() is None
        go.set()
        await first

    asyncio.run(story())


def test_what_comes_while_a_batch_runs_makes_the_next_one() -> None:
    doubler = _Doubler()

    async def story() -> None:
        batcher, first = await _held_up(doubler)
        rest = [asyncio.create_task(batcher.submit([k])) for k in range(3)]
        await asyncio.sleep(0.1)
        assert batcher.queue_length == 3
        doubler.go.set()
        await asyncio.gather(first, *rest)

    asyncio.run(story())
    assert doubler.sizes == [1, 3]


def test_an_error_reaches_everybody_in_the_batch_and_nobody_else() -> None:
    doubler = _Doubler()

    async def story() -> list[object]:
        batcher = MicroBatcher(doubler, max_batch=2, max_wait_s=0.05)
        calls = [batcher.submit([1, -1]), batcher.submit([2, 3])]
        return await asyncio.gather(*calls, return_exceptions=True)

    bad, good = asyncio.run(story())
    assert good == [4, 6]
    assert isinstance(bad, ValueError) and "negative among [1, -1]" in str(bad)


def test_an_empty_call_gets_an_empty_answer() -> None:
    async def story() -> list[int]:
        return await MicroBatcher(_Doubler(), max_batch=4, max_wait_s=0.01).submit([])

    assert asyncio.run(story()) == []


@pytest.mark.parametrize("max_batch", [1, 3, 7])
def test_no_batch_is_larger_than_allowed(max_batch: int) -> None:
    doubler = _Doubler()

    async def story() -> list[int]:
        return await MicroBatcher(doubler, max_batch, max_wait_s=0.0).submit(list(range(20)))

    assert asyncio.run(story()) == [2 * k for k in range(20)]
    assert max(doubler.sizes) <= max_batch and sum(doubler.sizes) == 20
