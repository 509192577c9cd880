"""streaQ: asyncio, Redis streams, named priorities, bulk enqueue in a pipeline."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from typing import Any

import common
import work
from streaq import Worker

CHUNK = 1_000


class StreaqOnRedis(common.OnRedis):
    distribution = "streaq"
    settings = (
        "uvloop, concurrency and prefetch 100 in all (2 per process for CPU work), priorities low and high, results kept"
        " for the default 5 minutes, task logs off, bulk enqueue by enqueue_many in pipelines of 1,000"
    )
    durability = common.REDIS_DURABILITY + "; what a killed worker had is run again after the idle timeout (60 s)"

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.worker = Worker(
            redis_url=self.url,
            concurrency=int(os.environ.get(work.SLOTS, common.CALLERS)),
            priorities=["low", "high"],
            lifespan=_hold,
            anyio_kwargs={"use_uvloop": True},
        )
        self.tasks = {name: self.worker.task(name=name, silent=True)(function) for name, function in work.ASYNC.items()}

    async def open(self) -> None:
        await self.worker.__aenter__()

    async def close(self) -> None:
        await self.worker.__aexit__(None, None, None)

    async def enqueue(self, task: str, *args: Any, high: bool = False) -> Any:
        return await self.tasks[task].enqueue(*args).start(priority="high" if high else "low")

    async def enqueue_many(self, task: str, count: int) -> None:
        for start in range(0, count, CHUNK):
            size = min(CHUNK, count - start)
            await self.worker.enqueue_many([self.tasks[task].enqueue().start(priority="low") for _ in range(size)])

    async def result(self, handle: Any) -> Any:
        return (await handle.result(60)).result

    async def is_settled(self) -> bool:
        return not await self.worker.queue_size()

    def work(self, slots: int) -> None:
        self.worker.run_sync()


@contextlib.asynccontextmanager
async def _hold() -> AsyncIterator[None]:
    work.hold()
    yield


if __name__ == "__main__":
    common.main(StreaqOnRedis)
