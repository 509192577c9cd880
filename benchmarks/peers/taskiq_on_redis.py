"""taskiq with the Redis broker that acknowledges (streams). It has no priorities and no enqueue in bulk."""

from __future__ import annotations

import os
import sys
from typing import Any

import common
import redis.asyncio
import work
from taskiq import TaskiqEvents
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

URL = os.environ.get("LQ_BENCH_REDIS", "redis://127.0.0.1:6379/0")
broker = RedisStreamBroker(
    URL,
    xread_count=int(os.environ.get(work.SLOTS, "1")),
    consumer_id="0",  # else a group that the first worker makes leaves out what was enqueued before
    max_connection_pool_size=common.CALLERS,
).with_result_backend(RedisAsyncResultBackend(URL, result_ex_time=600, max_connection_pool_size=common.CALLERS))
tasks = {name: broker.register_task(function, task_name=name) for name, function in work.ASYNC.items()}


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def hold(_: Any) -> None:
    work.hold()


class TaskiqOnRedis(common.OnRedis):
    distribution = "taskiq"
    settings = (
        "RedisStreamBroker with taskiq-redis 1.2.4 and its result backend (10 minutes), uvloop, hiredis,"
        " pools of 100 connections, max-async-tasks 100 in all (2 per process for CPU work), xread_count and max-prefetch"
        " the same per process, no-parse; no priorities; no bulk call: 100 concurrent callers"
    )
    durability = common.REDIS_DURABILITY + "; a job not acknowledged (when its result is saved) is delivered again"

    async def open(self) -> None:
        await broker.startup()
        self.redis = redis.asyncio.Redis.from_url(self.url)

    async def close(self) -> None:
        await self.redis.aclose()
        await broker.shutdown()

    async def enqueue(self, task: str, *args: Any, high: bool = False) -> Any:
        return await tasks[task].kiq(*args)

    async def result(self, handle: Any) -> Any:
        return (await handle.wait_result(check_interval=0.005, timeout=60)).return_value

    async def is_settled(self) -> bool:
        [group] = await self.redis.xinfo_groups("taskiq")
        return not group["lag"] and not group["pending"]

    def commands(self, slots: int) -> list[list[str]]:
        limits = ["--max-async-tasks", str(slots), "--max-prefetch", str(slots), "--workers", str(self.workers)]
        quiet = ["--no-parse", "--log-level", "WARNING"]
        return [[sys.executable, "-m", "taskiq", "worker", "taskiq_on_redis:broker", *limits, *quiet]]

    def ready(self, slots: int) -> int:
        return self.workers


if __name__ == "__main__":
    common.main(TaskiqOnRedis)
