"""``QueueService``: enqueue, look, cancel. A client of the store; it runs nothing itself."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, overload
from uuid import UUID

from litestar_queues import enqueuer
from litestar_queues.clock import Clock, SystemClock
from litestar_queues.config import QueueConfig
from litestar_queues.events.stored import QueueEvent, timeline
from litestar_queues.exceptions import DuplicateJobError, JobNotFound, QueueError, UnknownTaskError
from litestar_queues.immediate import Immediate
from litestar_queues.models import (
    TERMINAL,
    Added,
    NewJob,
    Query,
    QueuedTaskRecord,
    QueueStatistics,
    TaskEntry,
    TaskRequest,
)
from litestar_queues.registry import tasks
from litestar_queues.request import build_job, build_named_job, split_options
from litestar_queues.results import TaskResult, first_record
from litestar_queues.store import Store, open_store
from litestar_queues.tasks import Task
from litestar_queues.watching import Watcher

P = ParamSpec("P")
R = TypeVar("R")


class QueueService:
    """The door to the queues: open it once, use it from any event loop and thread of the process.

    ::

        async with QueueService(QueueConfig()) as queues:
            result = await queues.enqueue(render_report, "report-1")
    """

    def __init__(self, config: QueueConfig | None = None, *, clock: Clock | None = None) -> None:
        self.config = config or QueueConfig()
        self._clock = clock or SystemClock()
        self._store: Store | None = None
        self._watcher: Watcher | None = None
        self._immediate: Immediate | None = None

    async def open(self) -> None:
        """Open the store, making the database if there is none; the ``StoreError`` says why it cannot be."""
        if self._store is None:
            self._store = await open_store(self.config.url, durability=self.config.durability)
            self._watcher = Watcher(self._store)
            self._immediate = Immediate(self._store, self.config, self._clock)
            enqueuer.opened(self)

    async def close(self) -> None:
        """Let go of the store. What was enqueued stays."""
        if self._store is not None:
            store, self._store = self._store, None
            enqueuer.closed(self)
            if self._immediate is not None:
                await self._immediate.close()
            await store.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def store(self) -> Store:
        """The open store; ``QueueError`` before ``open`` and after ``close``."""
        if self._store is None:
            msg = "this QueueService is not open; use it in `async with`, or call open() first"
            raise QueueError(msg)
        return self._store

    @property
    def watcher(self) -> Watcher:
        """Who waits for jobs on behalf of their results."""
        if self._watcher is None:
            self.store  # noqa: B018 (raises why)
        assert self._watcher is not None, "opened with the store"
        return self._watcher

    @overload
    async def enqueue(self, task: Task[P, R], /, *args: P.args, **kwargs: P.kwargs) -> TaskResult[R]: ...
    @overload
    async def enqueue(self, task: Task[..., R], /, *args: Any, **options_and_kwargs: Any) -> TaskResult[R]: ...
    @overload
    async def enqueue(self, task: str, /, *args: Any, **options_and_kwargs: Any) -> TaskResult[Any]: ...
    async def enqueue(self, task: Task[..., Any] | str, /, *args: Any, **options_and_kwargs: Any) -> TaskResult[Any]:
        """Store a job that calls *task* with these arguments; return once it is durable.

        Options of the task can be given beside the arguments: ``queue``, ``priority``, ``retries``,
        ``timeout``, ``run_after``, ``scheduled_at``, ``expires_in``, ``expires_at``, ``key``,
        ``key_scope``, ``unique_until``, ``on_duplicate``, ``retry_backoff``, ``kill_grace``,
        ``execution_backend``, ``execution_profile``, ``metadata``. A name that is also a parameter of the
        task goes to the task; give such an option with ``task.using(…)``.

        A task may be given by its name: one that is registered here, or that a master has published.
        While no master has ever served this store, any name is taken.

        Raises ``TypeError`` for arguments that do not fit, ``PayloadError`` for values that cannot make
        the round trip, ``UnknownTaskError``, ``DuplicateJobError`` (``on_duplicate="raise"``),
        ``QueueConfigurationError`` for a backend that is not configured, and ``StoreError``.
        """
        known = tasks.find(task) if isinstance(task, str) else task
        options, kwargs = split_options(known, options_and_kwargs)
        return await self.enqueue_call(known or task, args, kwargs, options)

    async def enqueue_call(
        self, task: Task[..., Any] | str, args: tuple[Any, ...], kwargs: dict[str, Any], options: dict[str, Any]
    ) -> TaskResult[Any]:
        """Store one call, with arguments and options kept apart; see ``enqueue``."""
        job = await self._build(task, args, kwargs, options)
        [result] = await self._add([job])
        return result

    async def enqueue_many(self, requests: Iterable[TaskRequest]) -> list[TaskResult[Any]]:
        """Store many calls in one transaction, all or none; return their results in order.

        Each request has the defaults of its task, and options and key of its own.
        """
        jobs = [await self._build(each.task, each.args, each.kwargs, each.options) for each in requests]
        return await self._add(jobs)

    async def get_task(self, id: UUID | str | int) -> QueuedTaskRecord | None:
        """Return the job with this id or number, with its attempts; None when there is none."""
        reference = UUID(id) if isinstance(id, str) else id
        [record] = await self.store.get([reference], attempts=True)
        return record

    async def get_result(self, id: UUID | str | int) -> TaskResult[Any]:
        """Return the ``TaskResult`` of a job enqueued elsewhere or before; ``JobNotFound`` when there is none."""
        return TaskResult(self, await self._must_get(id))

    async def list_tasks(self, query: Query | None = None) -> list[QueuedTaskRecord]:
        """Return the jobs that match *query*, newest first, without their attempts."""
        return await self.store.find(query or Query())

    async def get_statistics(self, queue: str | None = None) -> QueueStatistics:
        """Return how many jobs stand where, in *queue* or in all."""
        counts = await self.store.statistics()
        if queue is not None:
            return counts.get(queue, QueueStatistics())
        return sum(counts.values(), QueueStatistics())

    async def cancel_task(self, id: UUID | str | int, include_running: bool = True) -> bool:
        """Cancel a job; False when it had ended already (or runs, and *include_running* is false).

        One that waits is cancelled at once. A running one is asked to stop, and killed after its
        ``kill_grace``; it ends as cancelled unless it completes first.
        """
        record = await self._must_get(id)
        [status] = await self.store.cancel([record.number], now=self._clock.now(), running=include_running)
        if status is None or status in TERMINAL:
            return False
        return include_running or status != "running"

    async def get_events(self, id: UUID | str | int) -> list[QueueEvent]:
        """Return the life of a job in order: its turns, and what it said."""
        record = await self._must_get(id)
        said = await self.store.events(record.number, limit=100_000)
        return timeline(record, record.attempts, said)

    async def _must_get(self, id: UUID | str | int) -> QueuedTaskRecord:
        record = await self.get_task(id)
        if record is None:
            msg = f"no job has the id {id}; it may have been pruned"
            raise JobNotFound(msg)
        return record

    async def _build(self, task: Any, args: tuple[Any, ...], kwargs: dict[str, Any], options: dict[str, Any]) -> NewJob:
        known = tasks.find(task) if isinstance(task, str) else task
        now = self._clock.now()
        if isinstance(known, Task):
            return build_job(known, args, kwargs, options, config=self.config, now=now)
        if not isinstance(task, str):
            msg = f"{task!r} is no task; decorate the function with @task, or give a task's name"
            raise TypeError(msg)
        entry = await self._published(task)
        return build_named_job(task, entry, args, kwargs, options, config=self.config, now=now)

    async def _published(self, name: str) -> TaskEntry | None:
        entries = {entry.name: entry for entry in (await self.store.catalogue()).tasks}
        if entries and name not in entries:
            raise UnknownTaskError(name, {*entries, *tasks.names()})
        return entries.get(name)

    async def _add(self, jobs: list[NewJob]) -> list[TaskResult[Any]]:
        if not jobs:
            return []
        added = await self.store.add(jobs)
        for job, entry in zip(jobs, added, strict=True):
            if entry.refused:
                raise DuplicateJobError(job.task, job.key or "", entry.number)
        results = [await self._result(job, entry) for job, entry in zip(jobs, added, strict=True)]
        await self._run_immediates(jobs, results)
        return results

    async def _result(self, job: NewJob, entry: Added) -> TaskResult[Any]:
        if not entry.deduplicated:
            return TaskResult(self, first_record(job, entry))
        record = await self.get_task(entry.id)
        return TaskResult(self, record or first_record(job, entry), deduplicated=True)

    async def _run_immediates(self, jobs: list[NewJob], results: list[TaskResult[Any]]) -> None:
        assert self._immediate is not None, "opened with the store"
        for job, result in zip(jobs, results, strict=True):
            if self.config.kind_of(job.backend) == "immediate" and not result.deduplicated:
                # Shielded: a caller that is cancelled must not leave the job running for ever.
                await asyncio.shield(self._immediate.run(result.number, job.backend))
                await result.refresh()
