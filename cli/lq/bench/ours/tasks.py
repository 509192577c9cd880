"""What the workers run. A master serves them with ``lq worker --import lq.bench.ours.tasks``."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from litestar_queues import INJECTED, TaskExecutionContext, task

TIMEOUT = 60.0
"""Seconds; every job has one, as in production."""
COMPUTING = 0.005
"""Seconds of CPU."""


@task("bench.noop", timeout=TIMEOUT)
def noop(number: int) -> int:
    """Return something that can be compared."""
    return number + 1


@task("bench.sleep", timeout=TIMEOUT)
async def sleep(number: int) -> int:
    """Wait 5 ms, as for a reply from elsewhere."""
    await asyncio.sleep(0.005)
    return number + 1


@task("bench.compute", timeout=TIMEOUT)
def compute(number: int) -> int:
    """Use 5 ms of CPU, however long that takes."""
    until = time.thread_time() + COMPUTING
    while time.thread_time() < until:
        pass
    return number + 1


@task("bench.stamp", timeout=TIMEOUT)
def stamp() -> int:
    """Return when this line ran (monotonic nanoseconds)."""
    return time.monotonic_ns()


@task("bench.echo", timeout=TIMEOUT)
def echo(text: str) -> str:
    """Return what was given."""
    return text


@task("bench.report", timeout=TIMEOUT)
def report(times: int, _task_context: TaskExecutionContext = INJECTED) -> int:
    """Report progress so many times."""
    for index in range(times):
        _task_context.progress_sync(current=index + 1, total=times)
    return times


@task("bench.hold", timeout=600.0)
async def hold(flag: str) -> int:
    """Keep a slot busy until a file appears, so that everything can be enqueued before a drain begins."""
    file = Path(flag)
    file.with_name(f"{file.name}-{time.monotonic_ns()}.held").touch()
    while not file.exists():
        await asyncio.sleep(0.002)
    return 1


@task("bench.last", timeout=600.0)
def last(mark: str) -> int:
    """Say when it runs, and go on until killed."""
    with Path(mark).open("a") as file:
        file.write(f"{time.monotonic_ns()}\n")
    time.sleep(300)
    return 1
