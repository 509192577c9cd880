"""arq: asyncio, a sorted set in Redis that is polled. It has no priorities and no enqueue in bulk."""

from __future__ import annotations

from typing import Any

import common
import work
from arq import create_pool, func
from arq.connections import RedisSettings
from arq.worker import Worker

POLL_S = 0.01


class ArqOnRedis(common.OnRedis):
    distribution = "arq"
    settings = (
        f"uvloop, hiredis, polled every {POLL_S * 1000:.0f} ms (default: 500 ms), max_jobs 100 in all, results kept for the"
        " default hour, job results not logged; no priorities; no bulk call: 100 concurrent callers"
    )
    durability = common.REDIS_DURABILITY + "; a job of a killed worker is run again when its key has expired"

    async def open(self) -> None:
        self.pool = await create_pool(RedisSettings.from_dsn(self.url))

    async def close(self) -> None:
        await self.pool.aclose()

    async def enqueue(self, task: str, *args: Any, high: bool = False) -> Any:
        return await self.pool.enqueue_job(task, *args)

    async def result(self, handle: Any) -> Any:
        return await handle.result(timeout=60, poll_delay=0.005)

    async def is_settled(self) -> bool:
        return not await self.pool.zcard("arq:queue")

    def work(self, slots: int) -> None:
        common.run_loop(_serve(self.url, slots))


def _taking_context(function: Any) -> Any:
    async def run(_: Any, *args: Any) -> Any:
        return await function(*args)

    return run


async def _hold(_: Any) -> None:
    work.hold()


async def _serve(url: str, slots: int) -> None:
    worker = Worker(
        [func(_taking_context(function), name=name) for name, function in work.ASYNC.items()],
        redis_settings=RedisSettings.from_dsn(url),
        on_startup=_hold,
        max_jobs=slots,
        poll_delay=POLL_S,
        log_results=False,
        handle_signals=False,
    )
    await worker.async_run()


if __name__ == "__main__":
    common.main(ArqOnRedis)
