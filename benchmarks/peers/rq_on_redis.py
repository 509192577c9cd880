"""RQ: one job at a time per process, on Redis."""

from __future__ import annotations

import os
from typing import Any

import common
import redis
import work
from rq import Queue, SimpleWorker

CHUNK = 1_000


class RqOnRedis(common.OnRedis, common.BlockingPeer):
    distribution = "rq"
    settings = (
        "SimpleWorker (runs jobs in the worker itself; the default forks for each job), one job at a time per process"
        " (`sleep`: 100 processes), results kept for the default 500 s, hiredis, a second queue served first as high"
        " priority, bulk enqueue by enqueue_many in pipelines of 1,000"
    )
    durability = common.REDIS_DURABILITY + "; a job that a killed worker had fails when its registry is cleaned"

    async def open(self) -> None:
        self.redis = redis.Redis.from_url(self.url)
        self.high = Queue("high", connection=self.redis)
        self.queue = Queue("default", connection=self.redis)

    async def close(self) -> None:
        self.redis.close()

    async def enqueue(self, task: str, *args: Any, high: bool = False) -> Any:
        return (self.high if high else self.queue).enqueue(f"work.{task}", *args)

    async def enqueue_many(self, task: str, count: int) -> None:
        for start in range(0, count, CHUNK):
            size = min(CHUNK, count - start)
            self.queue.enqueue_many([Queue.prepare_data(f"work.{task}") for _ in range(size)])

    async def result(self, handle: Any) -> Any:
        return handle.latest_result(timeout=60).return_value

    async def is_settled(self) -> bool:
        return not self.queue.count and not self.queue.started_job_registry.count

    def slots(self, scenario: str) -> int:
        return super().slots(scenario) if scenario == "sleep" else 1

    def ready(self, slots: int) -> int:
        return self.workers * slots

    def work(self, slots: int) -> None:
        for _ in range(slots - 1):
            if os.fork() == 0:
                break
        connection = redis.Redis.from_url(self.url)
        queues = [Queue(name, connection=connection) for name in ("high", "default")]
        worker = SimpleWorker(queues, connection=connection, log_job_description=False)
        work.hold()
        worker.work(logging_level="WARNING")


if __name__ == "__main__":
    common.main(RqOnRedis)
