"""A store and a master for one run, and what the measures do with them: hold, release, wait, compare."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

from litestar_queues import QueueConfig, QueueService, Task, TaskRequest, TaskResult
from litestar_queues.exceptions import QueueError
from litestar_queues.models import Query, Status
from lq import owned
from lq.bench.adapter import Work
from lq.bench.ours import tasks
from lq.bench.ours.app import SLOTS

BATCH = 1_000
"""Jobs in one call of ``enqueue_many``."""
_LOOK_EVERY = 0.01
"""Seconds between looks at the counts: 0.4 ms of CPU each."""
_LOOK_AT_MASTER_EVERY = 0.2
_FIRST = 1_000
"""Priority of what holds the workers."""


class Stage:
    """An open service, and a master that serves its store."""

    def __init__(self, work: Work, service: QueueService, slots: int) -> None:
        self.work = work
        self.service = service
        self._slots = slots
        self._log = work.folder / "worker.log"
        self._flag = work.folder / "flag-0"
        self._holds = 0
        self.master: subprocess.Popen[bytes] | None = None

    def start(self, *, imports: str = "lq.bench.ours.tasks") -> subprocess.Popen[bytes]:
        """Start the master; a job that has run is the sign that it serves."""
        serve = ["--app", "lq.bench.ours.app:app"] if self._slots > 1 else ["--import", imports]
        self.master = owned.start(
            self.work.folder,
            self._log,
            *serve,
            *("--url", self.work.url, "-c", str(self.work.workers), "--log-level", "none", "--drain-timeout", "1"),
            environment={SLOTS: str(self._slots)},
        )
        return self.master

    def stop(self) -> None:
        """End the master."""
        if self.master is not None:
            owned.stop(self.master)

    @property
    def held(self) -> int:
        """How many jobs have held slots so far; they complete too."""
        return self._holds * self.work.workers * self._slots

    async def hold(self) -> None:
        """Keep every slot of every worker busy until ``release``, so that what is enqueued now waits; raise when one fails."""
        self._holds += 1
        self._flag = self.work.folder / f"flag-{self._holds}"
        count = self.work.workers * self._slots
        hold = tasks.hold.using(priority=_FIRST)
        await self.service.enqueue_many([TaskRequest(hold, (str(self._flag),)) for _ in range(count)])
        while len(list(self.work.folder.glob(f"{self._flag.name}-*.held"))) < count:
            await self._completed()
            await asyncio.sleep(_LOOK_EVERY)

    def release(self) -> None:
        """Let the workers go."""
        self._flag.touch()

    async def enqueue(self, task: Task[..., Any], arguments: Iterable[tuple[Any, ...]]) -> list[TaskResult[Any]]:
        """Enqueue a call of *task* for each of *arguments*, in batches."""
        requests = [TaskRequest(task, each) for each in arguments]
        results: list[TaskResult[Any]] = []
        for first in range(0, len(requests), BATCH):
            results += await self.service.enqueue_many(requests[first : first + BATCH])
        return results

    async def until_completed(self, count: int) -> int:
        """Return how many jobs have completed, holds included, once that is *count* or more; raise when one fails."""
        while True:
            completed = await self._completed()
            if completed >= count:
                return completed
            await asyncio.sleep(_LOOK_EVERY)

    async def _completed(self) -> int:
        """Return how many jobs have completed; raise when one has failed, with its error: the database goes."""
        counts = await self.service.get_statistics()
        if counts.failed:
            failed = await self.service.store.find(Query(statuses=(Status.FAILED,), limit=1))
            words = "".join(f", the last with {job.error}" for job in failed)
            msg = f"{counts.failed} job{'s' if counts.failed > 1 else ''} failed{words}"
            raise QueueError(msg)
        return counts.completed

    async def compare(self, results: list[TaskResult[Any]], expected: Iterable[Any]) -> None:
        """Read all results back, and raise where one is not what was expected or took more than one attempt."""
        values = iter(expected)
        for first in range(0, len(results), BATCH):
            records = await self.service.store.get([each.number for each in results[first : first + BATCH]])
            for record in records:
                if record is None or (record.result, record.attempt) != (next(values), 1):
                    msg = f"a job did not come back as it should: {record!r:.500}"
                    raise QueueError(msg)

    def commits(self) -> int:
        """Return how many transactions the store has seen: each takes one number of its sequence.

        With ``synchronous=FULL`` each of them has synced the write-ahead log once.
        """
        return self.ask("SELECT value FROM lq_sequence")

    def ask(self, sql: str) -> int:
        """Return the one number that a statement selects."""
        with contextlib.closing(
            sqlite3.connect(f"file:{self.work.folder / 'bench.db'}?mode=ro", uri=True)
        ) as connection:
            [(value,)] = connection.execute(sql).fetchall()
        return int(value)

    async def watch(self) -> None:
        """Raise when the master has ended: who waits for a job then would wait for ever."""
        while True:
            self.check()
            await asyncio.sleep(_LOOK_AT_MASTER_EVERY)

    def check(self) -> None:
        """Raise when the master has ended."""
        if self.master is not None and self.master.poll() is not None:
            msg = f"the master ended with status {self.master.returncode}: {owned.last_words(self._log)}"
            raise QueueError(msg)


@contextlib.asynccontextmanager
async def stage(work: Work, *, slots: int = 1, serves: bool = True) -> AsyncIterator[Stage]:
    """Open a store in the run's folder, and start a master that serves it."""
    # Where the search for settings ends: no project's above it is found.
    Path(work.folder, "pyproject.toml").touch()
    async with QueueService(QueueConfig(queue_backend=work.url)) as service:
        made = Stage(work, service, slots)
        if serves:
            made.start()
        try:
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(made.watch())
                yield made
                watching.cancel()
                made.check()
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            made.stop()
