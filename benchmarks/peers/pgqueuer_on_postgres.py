"""PgQueuer: PostgreSQL with LISTEN/NOTIFY and SKIP LOCKED. It keeps a log of finished jobs, but no results."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from typing import Any

import asyncpg
import common
import work
from pgqueuer import AsyncpgPoolDriver, PgQueuer, Queries
from pgqueuer.models import Job

CONNECTIONS = 20
CHUNK = 5_000


class PgQueuerOnPostgres(common.OnPostgres):
    distribution = "pgqueuer"
    settings = (
        f"asyncpg pool of {CONNECTIONS} connections per process, uvloop, LISTEN/NOTIFY, tables of the default durability"
        " (logged), max_concurrent_tasks 1,000 for no-op jobs and 100 in all for others, batch_size half of that, bulk"
        " enqueue by one call per 5,000 jobs"
    )
    durability = (
        common.POSTGRES_DURABILITY
        + "; settled jobs are written in batches; a killed worker's jobs are taken again when their heartbeat is stale (30 s)"
    )
    lacks = {"large": "results are not kept"}

    async def open(self) -> None:
        self.pool = await asyncpg.create_pool(self.dsn, min_size=2, max_size=CONNECTIONS)
        self.queries = Queries(AsyncpgPoolDriver(self.pool))

    async def close(self) -> None:
        await self.pool.close()

    async def create(self) -> None:
        await self.queries.install()

    async def erase(self) -> None:
        await self.queries.uninstall()

    async def enqueue(self, task: str, *args: Any, high: bool = False) -> Any:
        return await self.queries.enqueue(task, json.dumps(args).encode() if args else None, priority=int(high))

    async def enqueue_many(self, task: str, count: int) -> None:
        for start in range(0, count, CHUNK):
            size = min(CHUNK, count - start)
            await self.queries.enqueue([task] * size, [None] * size, [0] * size)

    async def is_settled(self) -> bool:
        return not await self.pool.fetchval("SELECT EXISTS (SELECT FROM pgqueuer)")

    def slots(self, scenario: str) -> int:
        return 1000 if scenario in ("drain", "beside") else super().slots(scenario)

    def work(self, slots: int) -> None:
        common.run_loop(_serve(slots))


async def _serve(slots: int) -> None:
    async with asyncpg.create_pool(os.environ["LQ_BENCH_PG"], min_size=2, max_size=CONNECTIONS) as pool:
        queue = PgQueuer(AsyncpgPoolDriver(pool))

        def register(name: str, function: Any) -> None:
            @queue.entrypoint(name)
            async def run(job: Job) -> None:
                await function(*json.loads(job.payload or b"[]"))

        for name, function in work.ASYNC.items():
            register(name, function)
        work.hold()
        await queue.run(batch_size=slots // 2, max_concurrent_tasks=slots, dequeue_timeout=timedelta(seconds=30))


if __name__ == "__main__":
    common.main(PgQueuerOnPostgres)
