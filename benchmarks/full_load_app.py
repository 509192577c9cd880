"""The application of ``full_load.py``: jobs of several kinds that mark in a file, not in the database, that they ran.

Each job has a ticket, a number of its caller's own, and each caller two files with a byte for each ticket:
``accepted-CALLER``, in which the caller writes how many runs the job shall have once its enqueue has returned, and
``ran-CALLER``, in which each run adds one. So what is lost can be counted though the store forgets.
"""

from __future__ import annotations

import functools
import logging
import os
import random
import time
from pathlib import Path

from litestar import Litestar

from litestar_queues import (
    INJECTED,
    QueueConfig,
    QueuePlugin,
    Retention,
    RetryBackoff,
    Task,
    TaskExecutionContext,
    TaskRequest,
    task,
)

VARIABLE = "LQ_FULL_LOAD"
"""Names the folder of the files."""
KEPT = 60.0
"""Seconds that a job is kept which ended as it should. Others stay, to be counted at the end."""
DAY = 24 * 3600.0
"""The timeout of every job: watched like any other, and longer than anybody stops the whole run."""
SOON = RetryBackoff(initial_delay=0.5)

log = logging.getLogger("load")
app = Litestar(plugins=[QueuePlugin(QueueConfig(retention=Retention(completed=KEPT)))])


class Marks:
    """A byte for each ticket."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, ticket: int, marks: bytes) -> None:
        os.pwrite(self._descriptor, marks, ticket)

    def add(self, ticket: int) -> int:
        count = (os.pread(self._descriptor, 1, ticket) or b"\0")[0] + 1
        os.pwrite(self._descriptor, bytes([min(count, 255)]), ticket)
        return count


@functools.cache
def marks(kind: str, caller: str) -> Marks:
    return Marks(Path(os.environ[VARIABLE]) / f"{kind}-{caller}")


def _run(caller: str, ticket: int) -> int:
    """Mark a run; return which one it is."""
    return marks("ran", caller).add(ticket)


@task("load.nothing", timeout=DAY)
def nothing(caller: str, ticket: int) -> int:
    _run(caller, ticket)
    return ticket


@task("load.talk", timeout=DAY)
def talk(caller: str, ticket: int, _task_context: TaskExecutionContext = INJECTED) -> int:
    for step in range(3):
        log.info("step %d of ticket %d of %s, which has something to say", step, ticket, caller)
        _task_context.progress_sync(current=step + 1, total=3, message="on the way")
    print("and this was printed")
    _run(caller, ticket)
    return ticket


@task("load.compute", timeout=DAY)
def compute(caller: str, ticket: int) -> int:
    """Use 2 ms of CPU."""
    until = time.thread_time() + 0.002
    while time.thread_time() < until:
        sum(range(100))
    _run(caller, ticket)
    return ticket


@task("load.carry", timeout=DAY)
def carry(caller: str, ticket: int, text: str) -> str:
    _run(caller, ticket)
    return text


@task("load.stumble", timeout=DAY, retries=2, retry_backoff=SOON)
def stumble(caller: str, ticket: int) -> int:
    """Fail at the first run, and succeed at the second."""
    if _run(caller, ticket) == 1:
        raise RuntimeError("the first run fails")
    return ticket


@task("load.doomed", timeout=DAY, retries=1, retry_backoff=SOON, retention=KEPT)
def doomed(caller: str, ticket: int) -> int:
    """Fail at both runs: one that shall end as failed."""
    raise RuntimeError(f"run {_run(caller, ticket)} fails, as each")


SHARES: dict[Task, int] = {nothing: 160, talk: 16, compute: 12, carry: 8, stumble: 3, doomed: 1}
"""Of 200 jobs, how many are of each kind."""
RUNS = {stumble: 2, doomed: 2}
_TEXT = "twenty thousand characters. " * 715
_MIX = [each for each, share in SHARES.items() for _ in range(share)]
random.Random(1).shuffle(_MIX)


def request(caller: str, ticket: int) -> TaskRequest:
    """Return the job that has *ticket*."""
    kind = _MIX[ticket % len(_MIX)]
    return TaskRequest(kind, (caller, ticket, _TEXT) if kind is carry else (caller, ticket))


def runs_of(ticket: int) -> int:
    """Return how often it shall run."""
    return RUNS.get(_MIX[ticket % len(_MIX)], 1)
