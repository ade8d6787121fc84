"""Every line of an actor's log says which run, actor, round and shard it is about."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator

import pytest

from l2l_ray.actors.logs import about, log_as


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("l2l_ray")
    handlers, level = list(root.handlers), ours.level
    yield
    root.handlers[:] = handlers
    ours.setLevel(level)


def _lines(text: str) -> list[str]:
    return [re.sub(r"^\S+ \S+ ", "", line) for line in text.splitlines()]


def test_a_line_says_what_it_is_about(capsys: pytest.CaptureFixture[str]) -> None:
    log_as("photos", "labeler-1")
    logger = logging.getLogger("l2l_ray.actors.labelers")
    logger.info("up")
    log_as("photos", "labeler-2")
    with about("l2l", 2, 17):
        logger.info("labeled")
        logging.getLogger("some.library").warning("strange")
        library = logging.getLogger("some.talkative.library")
        library.setLevel(logging.INFO)
        library.info("nothing new")
    with about("l2l", 3):
        logger.info("evaluated")
    assert _lines(capsys.readouterr().err) == [
        "INFO run=photos actor=labeler-1 up",
        "INFO run=photos actor=labeler-2 method=l2l round=2 shard=17 labeled",
        "WARNING run=photos actor=labeler-2 method=l2l round=2 shard=17 strange",
        "INFO run=photos actor=labeler-2 method=l2l round=3 evaluated",
    ]


def test_what_others_work_on_at_the_same_time_is_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    log_as("photos", "coordinator")

    async def commit(shard: int) -> None:
        with about("l2l", 0, shard):
            await asyncio.sleep(0.01 * (3 - shard))
            logging.getLogger("l2l_ray").info("committed %d", shard)

    async def all_at_once() -> None:
        await asyncio.gather(*map(commit, range(3)))

    asyncio.run(all_at_once())
    assert sorted(line.partition("shard=")[2] for line in _lines(capsys.readouterr().err)) == [
        f"{shard} committed {shard}" for shard in range(3)
    ]
