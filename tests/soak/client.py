"""A client of the soak: enqueues, cancels and reads at random until it is told to stop, or killed."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from collections import deque
from typing import Any

from litestar_queues import DuplicateJobError, QueueConfig, QueueService, TaskRequest, TaskResult
from soak import jobs
from support import history

MOST_LIVE = 300
"""Jobs that may be live before a client waits for its last one."""


def a_job() -> TaskRequest[Any]:
    """Return a call that behaves, or one in eight that does not."""
    number = random.randrange(1_000)
    good = [
        TaskRequest(jobs.quick, (number,)),
        TaskRequest(jobs.quick, (number,)),
        TaskRequest(jobs.takes, (random.choice([0.001, 0.005, 0.03]),)),
        TaskRequest(jobs.waits, (random.choice([0.001, 0.02]),)),
        TaskRequest(jobs.speaks, (random.randrange(20),)),
        TaskRequest(jobs.adds, (number,)),
        TaskRequest(jobs.large.using(queue="large"), ("x" * random.choice([10, 10_000, 100_000]),)),
    ]
    bad = [
        TaskRequest(jobs.fails, (random.randrange(1, 5),)),
        TaskRequest(jobs.dies, (random.choice(["exit", "SIGKILL", "SIGSEGV"]),)),
        TaskRequest(jobs.hangs),
        TaskRequest(jobs.leaves),
        TaskRequest(jobs.snoozes),
    ]
    return random.choice(good if random.random() < 0.875 else bad)


async def act(service: QueueService, made: deque[TaskResult[Any]]) -> None:
    """Do one thing that clients do."""
    match random.choices(["many", "keyed", "dated", "cancel", "read", "wait"], [40, 20, 10, 10, 5, 15])[0]:
        case "many":
            made.extend(await service.enqueue_many([a_job() for _ in range(random.choice([1, 1, 5, 30]))]))
        case "keyed":
            task = jobs.takes.using(
                key=f"key-{random.randrange(20)}",
                on_duplicate=random.choice(["reuse", "replace", "raise"]),
                priority=random.randrange(3),
            )
            try:
                made.append(await service.enqueue(task, 0.01))
            except DuplicateJobError:
                return  # as it asked
        case "dated":
            task = jobs.quick.using(run_after=random.uniform(0, 2), expires_in=random.choice([None, 0.5, 3.0]))
            made.append(await service.enqueue(task, 0))
        case "cancel" if made:
            await random.choice(made).cancel()
        case "read" if made:
            await service.get_task(random.choice(made).id)
        case "wait" if made:
            await _until_calm(service, made[-1])


async def _until_calm(service: QueueService, last: TaskResult[Any]) -> None:
    counts = await service.get_statistics()
    if counts.scheduled + counts.pending + counts.running > MOST_LIVE:
        try:
            await last.wait(timeout=2)
        except TimeoutError:
            return  # nobody works just now


async def main(url: str, seed: int) -> None:
    """Go on until SIGTERM."""
    random.seed(seed)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    made: deque[TaskResult[Any]] = deque(maxlen=500)
    async with QueueService(QueueConfig(queue_backend=url)) as service:
        history.record(service)
        while not stop.is_set():
            await act(service, made)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
