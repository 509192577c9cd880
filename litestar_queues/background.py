"""``QueuedBackgroundTask``: enqueue after the response has been sent."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from litestar.background_tasks import BackgroundTask

from litestar_queues.enqueuer import Enqueuer, find_enqueuer
from litestar_queues.exceptions import QueueError, StoreError
from litestar_queues.registry import tasks
from litestar_queues.request import split_options
from litestar_queues.tasks import Task

_PAUSES = (0.1, 0.3, 0.6)
"""Seconds before each new try: the client has its answer already, so a passing fault must not lose the job."""
_log = logging.getLogger("litestar_queues.background")


class QueuedBackgroundTask(BackgroundTask):
    """A background task that enqueues *task* with these arguments once the response has been sent.

    Takes options of the task among the keyword arguments, as ``QueueService.enqueue`` does. Uses
    *service*, else the request's, else the only one open in the process, found when it is built;
    ``QueueError`` when there is none: is ``QueuePlugin`` registered on the app?

    A store that refuses is asked again, for about a second; then the call is logged as an error and
    raised, because the client cannot be told any more. To be sure before the response is sent,
    enqueue in the route.
    """

    __slots__ = ("_enqueuer",)

    def __init__(self, task: Task[..., Any] | str, *args: Any, service: Enqueuer | None = None, **kwargs: Any) -> None:
        super().__init__(self._enqueue, task, *args, **kwargs)
        try:
            self._enqueuer = service or find_enqueuer()
        except QueueError as error:
            msg = (
                f"QueuedBackgroundTask needs a QueueService: {error}; register QueuePlugin on the app, or pass service="
            )
            raise QueueError(msg) from None

    async def _enqueue(self, task: Task[..., Any] | str, *args: Any, **given: Any) -> None:
        known = tasks.find(task) if isinstance(task, str) else task
        options, kwargs = split_options(known, given)
        for pause in (*_PAUSES, None):
            try:
                await self._enqueuer.enqueue_call(known or task, args, kwargs, options)
            except StoreError:
                if pause is None:
                    name = task if isinstance(task, str) else task.name
                    _log.exception("task %r could not be enqueued after the response: args %r, %r", name, args, kwargs)
                    raise
                await asyncio.sleep(pause)
            else:
                return
