"""One of several processes that enqueue: ``python -m lq.bench.ours.client URL COUNT``.

Says ``ready`` once its store is open, waits for a line on its standard input, enqueues, and prints
how long each took (milliseconds, JSON).
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import uvloop

from litestar_queues import QueueConfig, QueueService
from lq.bench.ours import tasks


async def enqueue(service: QueueService, count: int, callers: int) -> list[float]:
    """Have *callers* enqueue *count* jobs, each one after the other; return milliseconds for each job."""
    took: list[float] = []
    numbers = iter(range(count))

    async def call() -> None:
        for number in numbers:
            at = time.perf_counter()
            await service.enqueue(tasks.noop, number)
            took.append((time.perf_counter() - at) * 1e3)

    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(call())
    return took


async def main(url: str, count: int) -> None:
    """Be one of them."""
    async with QueueService(QueueConfig(queue_backend=url)) as service:
        print("ready", flush=True)
        sys.stdin.readline()
        took = await enqueue(service, count, 1)
    print(json.dumps(took), flush=True)


class Client:
    """Such a process, as who measures sees it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, url: str, count: int) -> Client:
        """Start one, and return once it is ready."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "lq.bench.ours.client", url, str(count)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=64 * 1024 * 1024,  # the latencies are one line
        )
        client = cls(process)
        await client._line()
        return client

    def go(self) -> None:
        """Let it begin."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")

    async def latencies(self) -> list[float]:
        """Return what it has measured, once it is done."""
        took: list[float] = json.loads(await self._line())
        await self._process.wait()
        return took

    async def _line(self) -> bytes:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            msg = f"the enqueuing process ended with status {await self._process.wait()}"
            raise RuntimeError(msg)
        return line


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
