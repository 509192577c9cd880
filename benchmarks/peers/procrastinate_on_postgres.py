"""Procrastinate: PostgreSQL functions, LISTEN/NOTIFY. It keeps finished jobs, but no results."""

from __future__ import annotations

import logging
from typing import Any

import common
import work
from procrastinate import App, PsycopgConnector

SCHEMA = "lq_bench_procrastinate"
CONNECTIONS = 20
CHUNK = 1_000


class ProcrastinateOnPostgres(common.OnPostgres):
    distribution = "procrastinate"
    settings = (
        f"psycopg 3 with its C speed-ups (psycopg[binary]), pools of up to {CONNECTIONS} connections, uvloop,"
        " concurrency 100 in all (2 per process for CPU work), LISTEN/NOTIFY, finished jobs kept, bulk enqueue by"
        " batch_defer of 1,000"
    )
    durability = (
        common.POSTGRES_DURABILITY + "; a job that a killed worker had waits for a task of the user's own to retry it"
    )
    lacks = {"large": "results are not kept"}

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        logging.getLogger("procrastinate").setLevel(logging.ERROR)
        connector = PsycopgConnector(
            conninfo=self.dsn, kwargs={"options": f"-c search_path={SCHEMA}"}, min_size=2, max_size=CONNECTIONS
        )
        self.app = App(connector=connector)
        self.tasks = {name: self.app.task(name=name)(function) for name, function in work.ASYNC.items()}

    async def open(self) -> None:
        await self.app.open_async()

    async def close(self) -> None:
        await self.app.close_async()

    async def create(self) -> None:
        await self.erase()
        await self.app.connector.execute_query_async(f"CREATE SCHEMA {SCHEMA}")
        await self.app.schema_manager.apply_schema_async()

    async def erase(self) -> None:
        await self.app.connector.execute_query_async(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")

    async def enqueue(self, task: str, *args: Any, high: bool = False) -> Any:
        kwargs = {"token": args[0]} if args else {}
        return await self.tasks[task].configure(priority=int(high)).defer_async(**kwargs)

    async def enqueue_many(self, task: str, count: int) -> None:
        for start in range(0, count, CHUNK):
            await self.tasks[task].batch_defer_async(*[{} for _ in range(min(CHUNK, count - start))])

    async def is_settled(self) -> bool:
        query = "SELECT NOT EXISTS (SELECT FROM procrastinate_jobs WHERE status IN ('todo', 'doing')) AS settled"
        return (await self.app.connector.execute_query_one_async(query))["settled"]

    def work(self, slots: int) -> None:
        common.run_loop(self._serve(slots))

    async def _serve(self, slots: int) -> None:
        async with self.app.open_async():
            work.hold()
            await self.app.run_worker_async(concurrency=slots)


if __name__ == "__main__":
    common.main(ProcrastinateOnPostgres)
