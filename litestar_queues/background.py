"""``QueuedBackgroundTask``: enqueue after the response has been sent."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from litestar.background_tasks import BackgroundTask

from litestar_queues.enqueuer import find_enqueuer
from litestar_queues.exceptions import QueueError, StoreError
from litestar_queues.models import NewJob
from litestar_queues.redaction import shown_call
from litestar_queues.registry import tasks
from litestar_queues.request import split_options
from litestar_queues.service import QueueService
from litestar_queues.tasks import Task

PAUSES = (0.25, 0.75)
"""Seconds before each new try: the client has its answer, so a passing fault must not lose the job."""
_log = logging.getLogger("litestar_queues.background")


class QueuedBackgroundTask(BackgroundTask):
    """A background task that enqueues *task* with these arguments once the response has been sent.

    Takes options of the task among the keyword arguments, as ``QueueService.enqueue`` does. Uses
    *service*, else the request's, else the only one open in the process; it is found now, and
    ``QueueError`` says so when there is none. Arguments that do not fit the task are a ``TypeError``
    now too, while the client can still be told.

    A store that refuses is asked again, three times in about a second; then the call is logged as an
    error and raised. To be sure before the response is sent, enqueue in the route.
    """

    __slots__ = ()

    def __init__(
        self, task: Task[..., Any] | str, /, *args: Any, service: QueueService | None = None, **kwargs: Any
    ) -> None:
        """Take what is to be enqueued; nothing is stored yet."""
        if service is not None and not isinstance(service, QueueService):
            kwargs["service"] = service  # an argument of the task
            service = None
        known = tasks.find(task) if isinstance(task, str) else task
        if isinstance(known, Task):
            known.codec.bind(args, split_options(known, kwargs)[1])
        super().__init__(_enqueue, service or _find_service(), task, args, kwargs)


async def _enqueue(
    service: QueueService, task: Task[..., Any] | str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    job: NewJob | None = None
    for pause in (*PAUSES, None):
        try:
            # Prepared once: the same id again, should a commit that seemed to fail have happened.
            job = job or await service.prepare(task, args, kwargs)
            await service.add([job])
        except StoreError:
            if pause is None:
                _log.exception("%s was not enqueued after the response: %s", _name(task), _shown(job, args, kwargs))
                raise
            await asyncio.sleep(pause)
        else:
            return


def _name(task: Task[..., Any] | str) -> str:
    return task if isinstance(task, str) else task.name


def _shown(job: NewJob | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Return a call for the log, so that it can be made again: without its secret values."""
    if job is None:  # known by name alone, and which of its values are secret stands in the store
        return (
            f"{len(args)} positional arguments, keywords {sorted(kwargs)}; its values may be secret, and are not shown"
        )
    shown_args, shown_kwargs = shown_call(job.payload)
    return f"args {shown_args!r}, kwargs {shown_kwargs!r}, id {job.id}"


def _find_service() -> QueueService:
    try:
        service = find_enqueuer()
    except QueueError as error:
        msg = f"QueuedBackgroundTask needs a QueueService: {error}; register QueuePlugin on the app, or pass service="
        raise QueueError(msg) from None
    if not isinstance(service, QueueService):
        msg = "QueuedBackgroundTask is for responses; inside a task, use task.enqueue()"
        raise QueueError(msg)
    return service
