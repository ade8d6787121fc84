"""Every line of an actor's log says which run, actor, round and shard it is about."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator

import pytest

from l2l_ray.actors.logs import KeptNotes, Relay, about, hand_on, log_as


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("l2l_ray")
    handlers, our_handlers, level = list(root.handlers), list(ours.handlers), ours.level
    yield
    root.handlers[:] = handlers
    ours.handlers[:] = our_handlers
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


def test_what_the_package_warns_of_is_handed_on_to_the_newest_and_a_failure_loses_nobody(
    capsys: pytest.CaptureFixture[str],
) -> None:
    first: list[str] = []
    second: list[str] = []
    logger = logging.getLogger("l2l_ray.device")
    hand_on(first.append)
    logger.info("all is well")
    logger.warning("out of memory with %d samples", 8)
    logging.getLogger("some.library").warning("not ours")
    hand_on(second.append)
    logger.error("worse")
    assert (first, second) == (["out of memory with 8 samples"], ["worse"])

    def gone(line: str) -> None:
        raise RuntimeError("nobody is there")

    hand_on(gone)
    logger.warning("nobody hears it")
    assert "nobody is there" in capsys.readouterr().err


def test_notes_are_taken_once_and_said_once_whoever_made_them(caplog: pytest.LogCaptureFixture) -> None:
    notes, relay = KeptNotes(), Relay()
    logger = logging.getLogger("l2l_ray.device")
    for _ in range(2):
        logger.warning("out of memory")
    logger.warning("strange")
    taken = notes.taken()
    assert (taken, notes.taken()) == (["out of memory", "strange"], [])
    caplog.clear()
    relay.say(taken)
    relay.say(["strange", "100 % new"])
    assert [record.getMessage() for record in caplog.records] == ["out of memory", "strange", "100 % new"]
