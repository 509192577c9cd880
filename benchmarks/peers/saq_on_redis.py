"""SAQ: asyncio, Redis lists. It has no priorities in Redis and no enqueue in bulk."""

from __future__ import annotations

from typing import Any

import common
import work
from saq import Queue, Worker
from saq.job import Job


class SaqOnRedis(common.OnRedis):
    distribution = "saq"
    settings = (
        "uvloop, hiredis, concurrency 100 in all (2 per process for CPU work), max_concurrent_ops 100, the default job"
        " timeout of 10 s, results kept for the default 10 minutes; no priorities in Redis; no bulk call: 100"
        " concurrent callers"
    )
    durability = common.REDIS_DURABILITY + "; a job that a killed worker had is swept after its timeout"

    async def open(self) -> None:
        self.queue = Queue.from_url(self.url, max_concurrent_ops=common.CALLERS)
        await self.queue.connect()

    async def close(self) -> None:
        await self.queue.disconnect()

    async def enqueue(self, task: str, *args: Any, high: bool = False) -> Job | None:
        return await self.queue.enqueue(task, args=args)

    async def result(self, handle: Job) -> Any:
        await handle.refresh(60)
        return handle.result

    async def is_settled(self) -> bool:
        return not await self.queue.count("incomplete")

    def work(self, slots: int) -> None:
        async def hold(_: Any) -> None:
            work.hold()

        queue = Queue.from_url(self.url)
        functions = [(name, _taking_context(function)) for name, function in work.ASYNC.items()]
        common.run_loop(Worker(queue, functions, concurrency=slots, startup=hold).start())


def _taking_context(function: Any) -> Any:
    async def run(_: Any, *, args: list[Any]) -> Any:
        return await function(*args)

    return run


if __name__ == "__main__":
    common.main(SaqOnRedis)
