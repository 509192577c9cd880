"""litestar-queues with its Redis store: the store that several processes can share without a plug-in database."""

from __future__ import annotations

import asyncio
from typing import Any

import common
import work
from litestar_queues.backends.redis import RedisBackendConfig
from redis.asyncio import BlockingConnectionPool, Redis

from litestar_queues import QueueConfig, QueueService, TaskRequest, Worker, WorkerConfig, task

CHUNK = 1_000
POLL_S = 0.01

tasks = {name: task(name)(function) for name, function in work.ASYNC.items()}


class LitestarQueues(common.Peer):
    """What its two stores share: all but how the service is made."""

    distribution = "litestar-queues"
    service: QueueService

    async def enqueue(self, task: str, *args: Any, high: bool = False) -> Any:
        return await self.service.enqueue(tasks[task], *args, priority=int(high))

    async def enqueue_many(self, task: str, count: int) -> None:
        backend = self.service.get_queue_backend()
        for start in range(0, count, CHUNK):
            await backend.enqueue_many([TaskRequest(task) for _ in range(min(CHUNK, count - start))])

    async def result(self, handle: Any) -> Any:
        return (await handle.wait(timeout=60, poll_interval=0.005)).result

    async def is_settled(self) -> bool:
        counts = await self.service.get_statistics()
        return not counts.pending and not counts.running and not counts.scheduled


class LitestarQueuesOnRedis(common.OnRedis, LitestarQueues):
    settings = (
        "RedisBackendConfig with worker wake-ups, uvloop, hiredis, a blocking pool of 100 connections, max_concurrency"
        " and batch_size 100 in all (2 per process for CPU work),"
        f" polled every {POLL_S * 1000:.0f} ms without back-off (default: 100 ms growing to 30 s),"
        " bulk enqueue by the backend's enqueue_many of 1,000"
    )
    durability = common.REDIS_DURABILITY + "; what a killed worker had is requeued when its heartbeat is stale"

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        # With redis-py's own pool, claims beyond its 100 connections raise, and their jobs stay running for ever.
        pool = BlockingConnectionPool.from_url(self.url, max_connections=common.CALLERS, timeout=None)
        backend = RedisBackendConfig(url=self.url, client=Redis(connection_pool=pool))
        self.service = QueueService(QueueConfig(queue_backend=backend))

    async def open(self) -> None:
        await self.service.open()

    async def close(self) -> None:
        await self.service.close()

    def work(self, slots: int) -> None:
        common.run_loop(self._serve(slots))

    async def _serve(self, slots: int) -> None:
        config = WorkerConfig(
            max_concurrency=slots, batch_size=slots, poll_interval=POLL_S, poll_backoff_max=POLL_S, poll_jitter=0.0
        )
        async with self.service:
            worker = Worker(self.service, config)
            work.hold()
            await worker.start()
            await asyncio.Event().wait()


if __name__ == "__main__":
    common.main(LitestarQueuesOnRedis)
