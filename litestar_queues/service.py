"""``QueueService``: enqueue, look, cancel.

A client of the store: it runs nothing itself, but for the jobs of an ``immediate`` backend. It keeps
nothing of an event loop, so that one service serves every loop and thread of the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, NamedTuple, ParamSpec, Self, TypeVar, cast, overload
from uuid import UUID

from litestar_queues import enqueuer
from litestar_queues.clock import Clock, SystemClock
from litestar_queues.config import QueueConfig
from litestar_queues.events.stored import QueueEvent, timeline
from litestar_queues.exceptions import DuplicateJobError, JobNotFound, QueueError, UnknownTaskError
from litestar_queues.immediate import Immediate
from litestar_queues.models import (
    TERMINAL,
    NewJob,
    Query,
    QueuedTaskRecord,
    QueueStatistics,
    Status,
    StoredEvent,
    TaskRequest,
)
from litestar_queues.nodes import TaskEntry
from litestar_queues.registry import tasks
from litestar_queues.request import build_job, build_known_job, build_named_job, split_options
from litestar_queues.results import AsAdded, TaskResult
from litestar_queues.store import Store, open_store
from litestar_queues.synchronous import BlockingService, SyncQueueService
from litestar_queues.tasks import Task
from litestar_queues.watching import Watcher

P = ParamSpec("P")
R = TypeVar("R")
_TRUST_CATALOGUE = 5_000_000_000
"""Nanoseconds for which what was read of the catalogue is taken for what it says."""
_LONGEST_NUMBER = 18
"""Digits of a job number; what is longer is no number of ours."""


class QueueService:
    """The door to the queues: open it once, use it from any event loop and thread of the process.

    ::

        async with QueueService(QueueConfig()) as queues:
            result = await queues.enqueue(render_report, "report-1")
    """

    def __init__(
        self, config: QueueConfig | None = None, *, clock: Clock | None = None, store: Store | None = None
    ) -> None:
        """Make a service; nothing is opened yet. A *store* that is given stays its owner's to close."""
        self.config = config or QueueConfig()
        self._clock = clock or SystemClock()
        self._given_store = store
        self._opened: _Opened | None = None
        self._published: dict[str, TaskEntry] = {}
        self._published_at = 0

    async def open(self) -> None:
        """Open the store, making the database if there is none; the ``StoreError`` says why it cannot be.

        Does nothing while the service is open; opening and closing are for one caller at a time.
        """
        if self._opened is None:
            url, durability = self.config.url, self.config.durability
            store = self._given_store or await open_store(url, durability=durability)
            self._opened = _Opened(store, Watcher(store), Immediate(store, self.config, self._clock, self))
            enqueuer.opened(self)

    async def close(self) -> None:
        """Let go of the store, and send away whoever still waits for a job. What was enqueued stays.

        Goes on when its caller is cancelled.
        """
        opened, self._opened = self._opened, None
        if opened is None:
            return
        enqueuer.closed(self)
        await asyncio.shield(asyncio.ensure_future(self._close(opened)))

    async def _close(self, opened: _Opened) -> None:
        try:
            await opened.watcher.close()
        finally:
            try:
                await opened.immediate.close()
            finally:
                if self._given_store is None:
                    await opened.store.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @classmethod
    def sync(cls, config: QueueConfig | None = None) -> SyncQueueService:
        """Return the synchronous twin, for scripts: the same methods, and they block. It is open already.

        ::

            with QueueService.sync(QueueConfig()) as queues:
                queues.enqueue(render_report, "report-1").get(timeout=60)

        Raises what ``open`` raises.
        """
        return cast("SyncQueueService", BlockingService(cls(config)))

    @property
    def is_open(self) -> bool:
        """True between ``open`` and ``close``."""
        return self._opened is not None

    @property
    def store(self) -> Store:
        """The open store; ``QueueError`` before ``open`` and after ``close``."""
        return self._parts().store

    @property
    def watcher(self) -> Watcher:
        """Who waits for jobs on behalf of their results."""
        return self._parts().watcher

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
        ``execution_backend``, ``execution_profile``, ``max_rss``, ``allow_background``, ``retention``,
        ``result_retention``, ``metadata``.
        A name that is also a parameter of the task goes to the task; give such an option with ``task.using(…)``.

        A task may be given by its name: one that is registered here, or that a master has published.
        While no master has ever served this store, any name is taken.

        Raises ``TypeError`` for arguments that do not fit, ``PayloadError`` for values that cannot make
        the round trip, ``UnknownTaskError``, ``DuplicateJobError`` (``on_duplicate="raise"``),
        ``QueueConfigurationError`` for a backend that is not configured, and ``StoreError``.
        """
        [result] = await self.add([await self.prepare(task, args, options_and_kwargs)])
        return result

    async def enqueue_call(
        self, task: Task[..., Any] | str, args: tuple[Any, ...], kwargs: dict[str, Any], options: dict[str, Any]
    ) -> TaskResult[Any]:
        """Store one call, with arguments and options kept apart; see ``enqueue``."""
        [result] = await self.add([await self._prepare(task, args, kwargs, options)])
        return result

    async def enqueue_many(self, requests: Iterable[TaskRequest]) -> list[TaskResult[Any]]:
        """Store many calls in one transaction, all or none; return their results in order.

        Each request has the defaults of its task, and options and key of its own. Raises what ``enqueue``
        raises, and then nothing was stored.
        """
        jobs = [await self._prepare(each.task, each.args, each.kwargs, each.options) for each in requests]
        return await self.add(jobs)

    async def prepare(
        self, task: Task[..., Any] | str, args: tuple[Any, ...], options_and_kwargs: dict[str, Any]
    ) -> NewJob:
        """Return the job of one call, checked and not yet stored: ``enqueue`` is ``prepare``, then ``add``."""
        options, kwargs = await self._split(task, options_and_kwargs)
        return await self._prepare(task, args, kwargs, options)

    def prepare_known(
        self, task: Task[..., Any] | str, args: tuple[Any, ...], options_and_kwargs: dict[str, Any]
    ) -> NewJob:
        """Return the job of one call of a task that is registered in this process; stores nothing, asks no store."""
        return build_known_job(task, args, options_and_kwargs, config=self.config, now=self._clock.now())

    async def add(self, jobs: Sequence[NewJob]) -> list[TaskResult[Any]]:
        """Store prepared jobs in one transaction, all or none; may be repeated after a ``StoreError``.

        A job that was stored already is not stored again: it is known by its id.
        """
        if not jobs:
            return []
        parts = self._parts()
        runs_here = [parts.immediate.serves(job) for job in jobs]
        added = await (parts.immediate.add(jobs) if any(runs_here) else parts.store.add(jobs))
        for job, entry in zip(jobs, added, strict=True):
            if entry.refused:
                raise DuplicateJobError(job.task, job.key or "", entry.number)
        parts.watcher.ring(entry.number for entry in added)
        results: list[TaskResult[Any]] = []
        for job, entry, has_run in zip(jobs, added, runs_here, strict=True):
            # It is read where it is not as it was added.
            is_other = entry.deduplicated or has_run or entry.status in TERMINAL
            record = await self.get_task(entry.id) if is_other else None
            results.append(TaskResult(self, record or AsAdded(job, entry), deduplicated=entry.deduplicated))
        return results

    async def get_task(self, id: UUID | str | int) -> QueuedTaskRecord | None:
        """Return a job with its attempts, by its id or its number (``4821``, ``"#4821"``); None if there is none."""
        [record] = await self.store.get([_reference(id)], attempts=True)
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
        """Cancel a job; False when it had ended already, or runs and *include_running* is false.

        One that waits is cancelled at once. A running one is asked to stop, and killed after its
        ``kill_grace``; it ends as cancelled unless it completes first. Raises ``JobNotFound``.
        """
        reference = _reference(id)
        number = reference if isinstance(reference, int) else (await self._must_get(reference)).number
        [status] = await self.store.cancel([number], now=self._clock.now(), running=include_running)
        if status is None:
            raise _not_found(id)
        self.watcher.ring([number])
        return status not in TERMINAL and (include_running or status != Status.RUNNING)

    async def task_events(self, id: UUID | str | int) -> list[QueueEvent]:
        """Return the life of a job so far, in order: its turns, and what it said. Raises ``JobNotFound``."""
        record = await self._must_get(id)
        said: list[StoredEvent] = []
        while page := await self.store.events(record.number, after=said[-1].position if said else 0):
            said += page
        return timeline(record, record.attempts, said)

    async def _must_get(self, id: UUID | str | int) -> QueuedTaskRecord:
        record = await self.get_task(id)
        if record is None:
            raise _not_found(id)
        return record

    async def _prepare(
        self, task: Task[..., Any] | str, args: tuple[Any, ...], kwargs: dict[str, Any], options: dict[str, Any]
    ) -> NewJob:
        self._parts()  # a service that is not open says so before it looks at anything else
        known = tasks.find(task) if isinstance(task, str) else task
        if isinstance(known, Task):
            return build_job(known, args, kwargs, options, config=self.config, now=self._clock.now())
        if not isinstance(task, str):
            msg = f"{task!r} is no task; decorate the function with @task, or give a task's name"
            raise TypeError(msg)
        entry = await self._find_published(task)
        job = build_named_job(task, entry, args, kwargs, options, config=self.config, now=self._clock.now())
        if self._parts().immediate.serves(job):  # it runs here, where nobody knows the task
            raise UnknownTaskError(task, tasks.names())
        return job

    async def _split(self, task: Task[..., Any] | str, given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return which of *given* are options and which are the task's, by its signature wherever that is."""
        known = tasks.find(task) if isinstance(task, str) else task
        options, kwargs = split_options(known if isinstance(known, Task) else None, given)
        if known is None and options:
            entry = await self._find_published(str(task))
            own = {parameter.name for parameter in entry.parameters} if entry else set()
            kwargs |= {name: options.pop(name) for name in own & options.keys()}
        return options, kwargs

    async def _find_published(self, name: str) -> TaskEntry | None:
        """Return what masters have published of a task that is not registered here.

        None while they have published nothing at all: a worker may come later. Otherwise an unknown
        name is refused.
        """
        now = self._clock.monotonic()
        if name not in self._published or now - self._published_at > _TRUST_CATALOGUE:
            self._published = {entry.name: entry for entry in (await self.store.catalogue()).tasks}
            self._published_at = now
        if self._published and name not in self._published:
            raise UnknownTaskError(name, {*self._published, *tasks.names()})
        return self._published.get(name)

    def _parts(self) -> _Opened:
        if self._opened is None:
            msg = (
                "this QueueService is not open; use it in `async with`, call open() first, "
                "or let QueuePlugin open it with the app"
            )
            raise QueueError(msg)
        return self._opened


class _Opened(NamedTuple):
    """What a service has while it is open."""

    store: Store
    watcher: Watcher
    immediate: Immediate


def _reference(id: UUID | str | int) -> UUID | int:
    """Return what names a job to the store: an id, or a number as people write it."""
    if not isinstance(id, str):
        return id
    number = id.removeprefix("#")
    if number.isascii() and number.isdecimal() and len(number) <= _LONGEST_NUMBER:
        return int(number)
    try:
        return UUID(id)
    except ValueError:
        msg = f"{id!r} names no job; give its id (a UUID) or its number"
        raise ValueError(msg) from None


def _not_found(id: UUID | str | int) -> JobNotFound:
    return JobNotFound(f"there is no job {id}; it may have been pruned")
