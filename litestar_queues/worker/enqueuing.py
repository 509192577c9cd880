"""Enqueue from inside a task: a worker is a client like any other.

The service is opened at the first enqueue, so that a worker which only runs jobs opens no
database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from litestar_queues.clock import Clock
from litestar_queues.config import QueueConfig
from litestar_queues.exceptions import QueueConfigurationError
from litestar_queues.models import NewJob
from litestar_queues.request import build_known_job
from litestar_queues.results import TaskResult
from litestar_queues.service import QueueService


class WorkerEnqueuer:
    """Opens the worker's ``QueueService`` when it is first needed."""

    def __init__(self, config: QueueConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._service: QueueService | None = None
        self._opening: asyncio.Lock | None = None

    async def enqueue_call(
        self, task: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> TaskResult[Any]:
        """Enqueue one call; see ``QueueService.enqueue_call``."""
        service = await self._open()
        return await service.enqueue_call(task, args, dict(kwargs), dict(options))

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
        if self._opening is None:
            self._opening = asyncio.Lock()
        async with self._opening:
            if self._service is None:
                service = QueueService(self._config)
                await service.open()
                self._service = service
        return self._service
