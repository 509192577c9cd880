"""Enqueue from inside a task: a worker is a client like any other.

The service is opened at the first enqueue, so that a worker which only runs jobs opens no
database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from litestar_queues.config import QueueConfig
from litestar_queues.results import TaskResult
from litestar_queues.service import QueueService


class WorkerEnqueuer:
    """Opens the worker's ``QueueService`` when it is first needed."""

    def __init__(self, config: QueueConfig) -> None:
        self._config = config
        self._service: QueueService | None = None
        self._opening: asyncio.Lock | None = None

    async def enqueue_call(
        self, task: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> TaskResult[Any]:
        """Enqueue one call; see ``QueueService.enqueue_call``."""
        service = await self._open()
        return await service.enqueue_call(task, args, dict(kwargs), dict(options))

    async def _open(self) -> QueueService:
        if self._opening is None:
            self._opening = asyncio.Lock()
        async with self._opening:
            if self._service is None:
                service = QueueService(self._config)
                await service.open()
                self._service = service
        return self._service
