"""Dramatiq on Redis: threads in forked processes. It has no enqueue in bulk."""

from __future__ import annotations

import os
import sys
from typing import Any

import common
import dramatiq
import redis
import work
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

URL = os.environ.get("LQ_BENCH_REDIS", "redis://127.0.0.1:6379/0")


class Hold(dramatiq.Middleware):
    def before_worker_boot(self, _broker: Any, _worker: Any) -> None:
        work.hold()


results = RedisBackend(url=URL)
broker = RedisBroker(url=URL)
broker.add_middleware(Results(backend=results, store_results=True))
broker.add_middleware(Hold())
dramatiq.set_broker(broker)
actors = {
    # A lower number is served first, among the messages that a worker has fetched.
    name: dramatiq.actor(function, actor_name=name, max_retries=0, priority=0 if name == "stamp" else 10)
    for name, function in work.BLOCKING.items()
}


class DramatiqOnRedis(common.OnRedis, common.BlockingPeer):
    distribution = "dramatiq"
    settings = (
        "RedisBroker with its default middleware, results kept in Redis, hiredis, 4 threads per process for no-op jobs, 2"
        " for CPU work and 100 in all for sleeps, prefetch 100 (CPU work: 4); an actor's priority orders only what a"
        " worker has fetched; no bulk call: one caller in a loop"
    )
    durability = common.REDIS_DURABILITY + "; messages of a dead worker go back to the queue after a minute"

    async def open(self) -> None:
        self.redis = redis.Redis.from_url(self.url)

    async def close(self) -> None:
        self.redis.close()
        broker.close()

    async def enqueue(self, task: str, *args: Any, high: bool = False) -> Any:
        return actors[task].send(*args)

    async def result(self, handle: Any) -> Any:
        return handle.get_result(backend=results, block=True, timeout=60_000)

    async def is_settled(self) -> bool:
        return not self.redis.hlen("dramatiq:default.msgs")

    def slots(self, scenario: str) -> int:
        return super().slots(scenario) if scenario in ("sleep", "cpu") else 4

    def commands(self, slots: int) -> list[list[str]]:
        os.environ["dramatiq_queue_prefetch"] = str(100 if slots > 2 else 4)  # noqa: SIM112 - Dramatiq's spelling
        sizes = ["--processes", str(self.workers), "--threads", str(slots), "--skip-logging"]
        return [[sys.executable, "-m", "dramatiq", "dramatiq_on_redis", *sizes]]

    def ready(self, slots: int) -> int:
        return self.workers


if __name__ == "__main__":
    common.main(DramatiqOnRedis)
