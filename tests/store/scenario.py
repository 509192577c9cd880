"""A small history of a store that is the same each time, and what the database must say after each step of it."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

from litestar_queues.lifecycle import Raised, settle
from litestar_queues.models import ClaimedJob, ErrorReport, NewJob, Status, StoredEvent
from litestar_queues.store import Store, Want
from store.making import NOW, SECOND, new_job, node, receipt, settlement

PROBE = "probe"
Content = dict[str, Any]


class History:
    """The steps, in order. Each is one call that returns when it is durable."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._claimed: list[ClaimedJob] = []
        self._ids = 0

    @property
    def steps(self) -> list[Callable[[], Any]]:
        return [
            self.add_three, self.add_again, self.claim_two, self.record_events, self.settle_two, self.replace_key,
            self.add_many, self.cancel_one, self.beat, self.claim_five, self.settle_five, self.adopt, self.retire,
            self.add_large, self.claim_late, self.settle_five, self.prune, self.add_three,
        ]  # fmt: skip

    def job(self, **changes: Any) -> NewJob:
        self._ids += 1
        return new_job(id=UUID(int=self._ids), **changes)

    async def add_three(self) -> None:
        await self._store.add([self.job(key="k"), self.job(priority=3), self.job(run_at=NOW + 90 * SECOND)])

    async def add_again(self) -> None:
        await self._store.add([self.job(key="k")])

    async def claim_two(self) -> None:
        await self._claim(2, NOW)

    async def record_events(self) -> None:
        await self._store.record([StoredEvent(job=2, attempt=1, type="task.log", at=NOW, message="x" * 5_000)] * 3)

    async def settle_two(self) -> None:
        first, second = self._claimed
        raised = settle(second, Raised(ErrorReport("E", "once"), delay=0), receipt(), now=NOW + 20)
        await self._store.settle([settlement(first), raised])

    async def replace_key(self) -> None:
        await self._store.add([self.job(key="k", priority=9, on_duplicate="replace")])

    async def add_many(self) -> None:
        await self._store.add([self.job(queue=f"q{number % 3}") for number in range(40)])

    async def cancel_one(self) -> None:
        await self._store.cancel([10], now=NOW)

    async def beat(self) -> None:
        await self._store.beat(node("node"))

    async def claim_five(self) -> None:
        await self._claim(5, NOW)

    async def settle_five(self) -> None:
        await self._store.settle([settlement(job) for job in self._claimed])

    async def adopt(self) -> None:
        await self._store.adopt("me", ["node"], living=["me"])

    async def retire(self) -> None:
        await self._store.retire("node")

    async def add_large(self) -> None:
        await self._store.add([self.job(payload='{"args":["' + "x" * 100_000 + '"],"kwargs":{}}')])

    async def claim_late(self) -> None:
        await self._claim(3, NOW + 200 * SECOND)

    async def prune(self) -> None:
        await self._store.prune({Status.COMPLETED: 0, Status.CANCELLED: None}, now=NOW + 900 * SECOND)

    async def _claim(self, limit: int, now: int) -> None:
        claims = await self._store.claim("node", [Want(limit)], now=now)
        self._claimed = list(claims.jobs[0])


_JOBS = """SELECT number, task, queue, status, priority, key, fence, attempts, failures, crashes, run_at, result,
    cancel_requested_at, node, length(payload) FROM lq_job WHERE task != 'probe' ORDER BY number"""

_TEXTS = """SELECT 'payload', job, length(text) FROM lq_payload UNION ALL SELECT 'result', job, length(text) FROM lq_result
    ORDER BY 1, 2"""


def content(database: Path) -> Content:
    """Return what the database says, with SQLite alone; it must be whole, and its counts those of its rows."""
    if not database.exists():
        return {}
    with closing(sqlite3.connect(database, timeout=10)) as connection:
        [(verdict,)] = connection.execute("PRAGMA integrity_check").fetchall()
        assert verdict == "ok", verdict
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "lq_job" not in tables:
            return {}
        jobs = connection.execute(_JOBS).fetchall()
        attempts = connection.execute(
            "SELECT job, fence, attempt, outcome, error FROM lq_attempt ORDER BY 1, 2"
        ).fetchall()
        events = connection.execute("SELECT job, type, length(message) FROM lq_event ORDER BY position").fetchall()
        nodes = connection.execute("SELECT id FROM lq_node ORDER BY id").fetchall()
        texts = connection.execute(_TEXTS).fetchall() if "lq_payload" in tables else []
        counted = connection.execute("SELECT queue, status, count FROM lq_tally WHERE count != 0").fetchall()
        rows = connection.execute("SELECT queue, status, count(*) FROM lq_job GROUP BY 1, 2").fetchall()
        assert Counter(counted) == Counter(rows), f"counted {counted}, and there are {rows}"
        keys = connection.execute(
            "SELECT key FROM lq_job WHERE key IS NOT NULL AND status IN ('scheduled', 'pending', 'running')"
        ).fetchall()
        assert len(keys) == len(set(keys)), "one live job a key"
    if not (jobs or nodes):
        return {}
    return {"jobs": jobs, "attempts": attempts, "events": events, "nodes": nodes, "texts": texts}


async def serve(store: Store) -> None:
    """Do what a store is for, once."""
    await store.add([new_job(task=PROBE, queue=PROBE)])
    [[job]] = (await store.claim("probe", [Want(1, queues=(PROBE,))], now=NOW)).jobs
    await store.settle([settlement(job)])
