"""Enqueue from inside a task: a worker is a client like any other.

The service is opened at the first enqueue, so that a worker which only runs jobs opens no
database. One serves all: tasks enqueue from the worker's event loop, from loops of their own in
threads, several at a time, and in processes that they fork.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from litestar_queues.clock import Clock
from litestar_queues.config import QueueConfig
from litestar_queues.exceptions import QueueConfigurationError, StoreStopped
from litestar_queues.models import NewJob
from litestar_queues.request import build_known_job
from litestar_queues.results import TaskResult
from litestar_queues.service import QueueService


class WorkerEnqueuer:
    """Opens the worker's ``QueueService`` when it is first needed."""

    def __init__(self, config: QueueConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._lock = threading.Lock()
        self._opening: Future[QueueService] | None = None
        self._left_by_parent: list[object] = []
        """Kept so that nothing closes its connections: SQLite must not be carried over a fork."""
        os.register_at_fork(after_in_child=self._begin_anew)

    async def enqueue_call(
        self, task: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> TaskResult[Any]:
        """Enqueue one call; see ``QueueService.enqueue_call``."""
        service = await self._open()
        try:
            return await service.enqueue_call(task, args, dict(kwargs), dict(options))
        except StoreStopped:
            # Not the next job's to hear of: this process goes on, and would fail one after the other.
            self._forget(service)
            await service.close()
            raise

    def prepare_known(self, task: Any, args: tuple[Any, ...], options_and_kwargs: dict[str, Any]) -> NewJob:
        """Return the job of one call, and store nothing.

        ``QueueConfigurationError`` for a backend that runs jobs in their caller: by the time the job is
        stored there is none.
        """
        job = build_known_job(task, args, options_and_kwargs, config=self._config, now=self._clock.now())
        if self._config.kind_of(job.backend) == "immediate":
            msg = (
                f"a job of backend {job.backend!r} runs in its caller, so it cannot follow this one; enqueue it instead"
            )
            raise QueueConfigurationError(msg)
        return job

    async def _open(self) -> QueueService:
        opening = self._opening
        if opening is None or _has_failed(opening):
            with self._lock:
                if self._opening is None or _has_failed(self._opening):
                    self._opening = self._start_opening()
                opening = self._opening
        if opening.done():
            return opening.result()
        return await asyncio.shield(asyncio.wrap_future(opening))

    def _forget(self, service: QueueService) -> None:
        """Let the next call open another, where this is still the one that all use."""
        with self._lock:
            opening = self._opening
            if opening is not None and opening.done() and not _has_failed(opening) and opening.result() is service:
                self._opening = None

    def _start_opening(self) -> Future[QueueService]:
        """Open the service in a thread of its own: whoever waits for it may be interrupted, or end with its loop."""
        opening: Future[QueueService] = Future()
        opening.set_running_or_notify_cancel()  # from here on nobody can cancel it
        threading.Thread(target=self._open_into, args=(opening,), name="lq-open", daemon=True).start()
        return opening

    def _open_into(self, opening: Future[QueueService]) -> None:
        service = QueueService(self._config)
        try:
            asyncio.run(service.open())
        # Whatever it is, those who enqueue must hear of it: it is raised there.
        except BaseException as error:
            opening.set_exception(error)
        else:
            opening.set_result(service)

    def _begin_anew(self) -> None:
        """In a child of a task: the service is the parent's, and its thread may have held the lock."""
        self._left_by_parent.append(self._opening)
        self._opening = None
        self._lock = threading.Lock()


def _has_failed(opening: Future[QueueService]) -> bool:
    return opening.done() and opening.exception() is not None
