"""Celery with Redis as broker and result store. It has no enqueue in bulk."""

from __future__ import annotations

import os
import sys
from typing import Any

import common
import redis
import work
from celery import Celery
from celery.signals import worker_ready

URL = os.environ.get("LQ_BENCH_REDIS", "redis://127.0.0.1:6379/0")
HIGH, ORDINARY = 0, 9  # in Redis, a lower number is served first

app = Celery("bench", broker=URL, backend=URL)
app.conf.update(
    broker_pool_limit=common.CALLERS,
    broker_transport_options={"queue_order_strategy": "priority", "priority_steps": [HIGH, ORDINARY]},
    worker_prefetch_multiplier=16,
    worker_disable_rate_limits=True,
    worker_hijack_root_logger=False,
)
tasks = {name: app.task(name=name)(function) for name, function in work.BLOCKING.items()}


@worker_ready.connect
def hold(**_: Any) -> None:
    work.hold()


class CeleryOnRedis(common.OnRedis, common.BlockingPeer):
    distribution = "celery"
    settings = (
        "prefork pool with prefetch multiplier 16 (`sleep`: pool of 100 threads), results kept in Redis for the default day, no"
        " gossip, mingle, heartbeat, events or rate limits, hiredis, broker pool of 100, two priority steps; acknowledged"
        " early (the default); no bulk call: one caller in a loop"
    )
    durability = common.REDIS_DURABILITY + "; acknowledged before it runs, so the job that a killed worker ran is gone"

    async def open(self) -> None:
        self.redis = redis.Redis.from_url(self.url)

    async def close(self) -> None:
        self.redis.close()
        app.close()

    async def enqueue(self, task: str, *args: Any, high: bool = False) -> Any:
        return tasks[task].apply_async(args, priority=HIGH if high else ORDINARY)

    async def result(self, handle: Any) -> Any:
        return handle.get(timeout=60)

    async def is_settled(self) -> bool:
        waiting = sum(self.redis.llen(name) for name in self.redis.keys("celery*") if self.redis.type(name) == b"list")
        return not waiting and not self.redis.hlen("unacked")

    def commands(self, slots: int) -> list[list[str]]:
        pool = ["threads", str(common.CALLERS)] if slots > 1 else ["prefork", str(self.workers)]
        lean = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING"]
        command = [sys.executable, "-m", "celery", "-A", "celery_on_redis", "worker", "-P", pool[0], "-c", pool[1]]
        return [[*command, *lean]]

    def slots(self, scenario: str) -> int:
        return super().slots(scenario) if scenario == "sleep" else 1


if __name__ == "__main__":
    common.main(CeleryOnRedis)
