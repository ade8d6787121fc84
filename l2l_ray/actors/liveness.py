"""Who is alive, and how long to wait for whom: apart from each other, because work may rightly take long.

A process that is stopped, swapped out or cut off the network answers nothing. So every actor answers a question about
nothing beside its work: labelers in a thread of their own (`HEARTBEAT`), async actors between two steps. Whoever has
not answered for `cluster.heartbeat_timeout_s` is replaced, however long its work may take. Train workers are asked by
Ray Train itself, with the same limit.

An actor that answers may still never finish: its limit follows from how long such work took before (`patience_s`).

Work is given only to those that are up, so one that never came up says nothing about it. Where nobody is up, so many
failed starts in a row end the run (`Heartbeats.failed_start`).

Decided here is only who is late; what happens then is written where the actor is used.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

import ray
from ray.actor import ActorHandle

from l2l_ray.errors import ClusterError

HEARTBEAT = "heartbeat"
HEARTBEAT_GROUP = {HEARTBEAT: 1}  # concurrency group of actors that are not async: one thread that only answers
LOOK_S = 1.0  # longest time that counts between two looks: a driver that was itself stopped accuses nobody
ASK_EVERY_S = 1.0

ENOUGH_SEEN = 3  # items after which their durations say something
PATIENCE_FACTOR = 20.0  # times the slowest seen: pictures and texts of one set differ less than that
LEAST_PATIENCE_S = 60.0
SLOW_FACTOR = 3.0  # times the median: an idle worker tries too
LEAST_SLOW_S = 2.0


class Durations:
    """How long the last items of one kind took.

    Args:
        least_s: What `patience_s` never goes below, seconds.

    Example: `seen = Durations(); seen.add(2.5); seen.patience_s(1800.0)`
    """

    def __init__(self, least_s: float = LEAST_PATIENCE_S) -> None:
        self._least_s = least_s
        self._seen: deque[float] = deque(maxlen=200)

    def add(self, seconds: float) -> None:
        """Note a finished item."""
        self._seen.append(seconds)

    def patience_s(self, most_s: float) -> float:
        """Return how long to wait for the next one; `most_s` until enough were seen."""
        return patience_s(self._seen, most_s, self._least_s)

    def slow_s(self) -> float:
        """Return after how long somebody idle should try too; infinite until enough were seen."""
        if len(self._seen) < ENOUGH_SEEN:
            return float("inf")
        return max(LEAST_SLOW_S, SLOW_FACTOR * statistics.median(self._seen))


def patience_s(seen: Sequence[float], most_s: float, least_s: float = LEAST_PATIENCE_S) -> float:
    """Return how long to wait for an item of a worker that answers.

    Args:
        seen: Seconds that items of this kind took.
        most_s: The limit until enough were seen, and never exceeded.
        least_s: The limit however fast they were.
    """
    if len(seen) < ENOUGH_SEEN:
        return most_s
    return min(most_s, max(least_s, PATIENCE_FACTOR * max(seen)))


def limit_words(limit_s: float, most_s: float) -> str:
    """Say which limit of `patience_s` somebody exceeded."""
    if limit_s < most_s:
        return f"{limit_s:.0f} s, the limit that follows from how long such work took before"
    return f"cluster.work_timeout_s={most_s:g} s"


class Looks:
    """Tells how much time counts between two looks: at most `LOOK_S`, as a driver that was stopped accuses nobody.

    Example: `looks = Looks(); waited_s += looks.passed_s()`
    """

    def __init__(self) -> None:
        self._last = time.monotonic()

    def passed_s(self) -> float:
        """Return the seconds since the last look that count, and look."""
        now = time.monotonic()
        passed, self._last = min(now - self._last, LOOK_S), now
        return passed


class _Pulse:
    """What is known of one actor's answers."""

    def __init__(self, actor: ActorHandle[Any]) -> None:
        self.actor = actor
        self.is_up = False  # whether it answers; else it loads, or died
        self.came_up = False  # whether it has ever answered
        self.error: Exception | None = None  # what the last question failed with: it died, or is being restarted
        self.pid = 0  # of the process that answered last
        self.next_s = 0.0  # until the next question
        self.asked: ray.ObjectRef[Any] | None = None
        self.waited_s = 0.0  # since the open question was asked
        self.ask()

    def ask(self) -> None:
        # Not retried: an answer after a restart would hide the death.
        self.asked = self.actor.beat.options(max_task_retries=0).remote()
        self.waited_s = 0.0


class Heartbeats:
    """Asks actors for signs of life; `silent` names those that gave none for too long.

    Not thread-safe: each user has its own.

    Args:
        timeout_s: Longest silence of an actor that has answered before.
        start_timeout_s: Longest time until the first answer.
    """

    def __init__(self, timeout_s: float, start_timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._start_timeout_s = start_timeout_s
        self._pulses: dict[str, _Pulse] = {}
        self._failed_starts = Counter[str]()  # by place, as `failed_start` counts them
        self._looks = Looks()

    def watch(self, name: str, actor: ActorHandle[Any]) -> None:
        """Begin to ask an actor that is starting, or starting again; its method `beat` returns its process id."""
        self._pulses[name] = _Pulse(actor)

    def forget(self, name: str) -> None:
        """Ask it no more."""
        self._pulses.pop(name, None)

    def is_up(self, name: str) -> bool:
        """Whether it answers."""
        return name in self._pulses and self._pulses[name].is_up

    def dead(self) -> dict[str, Exception]:
        """Return who died, as far as `silent` saw, and of what; one that Ray starts again is in it until it is up."""
        return {name: pulse.error for name, pulse in self._pulses.items() if pulse.error is not None}

    def failed_start(self, name: str, fault: str, most: int) -> None:
        """Note that one is lost; nothing where it had come up, or where another one is up.

        Args:
            name: `place` or `place.number`: who takes its place has another number.
            fault: What became of it, in words.
            most: How many in a row may fail to come up in one place while nobody is up.
        Raises:
            ClusterError: More did.
        """
        if self._pulses[name].came_up or any(pulse.is_up for pulse in self._pulses.values()):
            return
        place = name.partition(".")[0]
        self._failed_starts[place] += 1
        if (num := self._failed_starts[place]) > most:
            raise ClusterError(
                f"nobody comes up in the place of {place}, and none of its like is up: {num} in a row did not, and "
                f"cluster.max_item_retries={most} allows {most} more tries; the last one {fault}; expected a node with "
                "room for it: is one away, or full? Where it only comes up slowly, raise cluster.start_timeout_s; "
                "--resume continues"
            )

    def fault(self, name: str) -> str:
        """Return in words what one that `silent` names did wrong."""
        if self._pulses[name].came_up:
            return f"has not answered for cluster.heartbeat_timeout_s={self._timeout_s:g} s"
        return f"did not come up within cluster.start_timeout_s={self._start_timeout_s:g} s"

    def pid(self, name: str) -> int:
        """Return the id of the process that answered last; 0 = none has. Another one than before has taken over."""
        return self._pulses[name].pid if name in self._pulses else 0

    def silent(self) -> list[str]:
        """Ask where it is time to, and name who has been silent for too long; call about once a second.

        One that died is not silent: its calls fail, and it is asked again in case Ray restarts it.
        """
        passed = self._looks.passed_s()
        return [name for name, pulse in self._pulses.items() if self._look(pulse, passed)]

    def _look(self, pulse: _Pulse, passed_s: float) -> bool:
        if pulse.asked is not None and ray.wait([pulse.asked], timeout=0)[0]:
            try:
                pulse.pid, pulse.error = ray.get(pulse.asked, timeout=0), None
                pulse.came_up = pulse.is_up = True
                self._failed_starts.clear()
            except ray.exceptions.RayError as error:
                pulse.error, pulse.is_up = error, False
            pulse.asked, pulse.next_s = None, ASK_EVERY_S
        if pulse.asked is not None:
            pulse.waited_s += passed_s
            return pulse.waited_s > (self._timeout_s if pulse.is_up else self._start_timeout_s)
        pulse.next_s -= passed_s
        if pulse.next_s <= 0:
            pulse.ask()
        return False
