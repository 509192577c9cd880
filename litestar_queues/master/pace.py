"""How long jobs take, as far as is known, and what that allows to wait at a worker. Pure.

With one job in flight, the round trip and the commit rule: 1.2 k jobs/s; with 32 waiting 15 k.
But what waits behind a job is late by that job, so waiting is bounded by time and not by number:
``BUDGET`` of work by each task's own recent durations; none behind a slow job, or one of a task
that has not been measured.
"""

from __future__ import annotations

BUDGET = 40_000
"""Microseconds of work that may be in a lane."""
SHORT = 8_000
"""Microseconds of work below which a lane is filled up at once: so long a claim may take on a busy machine."""
PAUSE = 0.02
"""Seconds that a master lets ends and words wait for company while no worker is short of jobs."""
MOST_BYTES = 4 * 1024 * 1024
"""Characters of arguments in a lane past which nothing more waits there: the master holds them too. 45 short jobs
of 28 MiB had made it grow to 2.5 GB."""
MOST_WAITING = 128
"""Jobs that may wait in a lane, however short they are: more did not drain faster."""
SLOWEST = 50 * BUDGET
"""A duration counts for no more: a slow job is slow, and one hour in between is forgotten after 30 short jobs."""
_SLOWEST_IN_MEAN = BUDGET
"""The same for the mean over all tasks, by which room is guessed: after six short jobs a lane has room for two. After two
that took half a second, 30 short ones were claimed one by one (45 ms). A claim too large is learnt from: ``Pool``."""
_WEIGHT = 8
"""A duration counts an eighth: one pause of the machine (10 ms among jobs of 50 µs) does not empty the lanes."""


class Pace:
    """Recent durations, by task and over all, in microseconds."""

    def __init__(self) -> None:
        self._by_task: dict[str, float] = {}
        self.mean: float | None = None
        """Over all tasks; None while nothing has been measured."""

    def learn(self, task: str, duration: int) -> None:
        """Take note of how long one job of *task* took."""
        duration = min(max(duration, 0), SLOWEST)
        self._by_task[task] = _blend(self._by_task.get(task), duration)
        self.mean = _blend(self.mean, min(duration, _SLOWEST_IN_MEAN))

    def expect(self, task: str) -> float | None:
        """Return how long a job of *task* is likely to take; None for a task not yet measured, or slow."""
        expected = self._by_task.get(task)
        return None if expected is None or expected >= BUDGET else expected


def _blend(before: float | None, duration: int) -> float:
    return float(duration) if before is None else before + (duration - before) / _WEIGHT
