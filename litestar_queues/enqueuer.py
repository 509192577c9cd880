"""Which service ``Task.enqueue`` and the background helpers use.

The one of the context (the plugin sets it for each request), in a worker the worker's, else the
only one open in the process. So that a task need not know services, they meet here.
"""

from __future__ import annotations

import os
import threading
from contextvars import ContextVar
from typing import Any, Protocol

from litestar_queues.exceptions import QueueError
from litestar_queues.models import NewJob


class Enqueuer(Protocol):
    """Who stores a call as a job."""

    async def enqueue_call(
        self, task: Any, args: tuple[Any, ...], kwargs: dict[str, Any], options: dict[str, Any]
    ) -> Any:
        """Store one call; *kwargs* are all the task's."""
        ...

    def prepare_known(self, task: Any, args: tuple[Any, ...], options_and_kwargs: dict[str, Any]) -> NewJob:
        """Return the job of one call of a task that is registered in this process, and store nothing."""
        ...


current_enqueuer: ContextVar[Enqueuer | None] = ContextVar("litestar_queues_enqueuer", default=None)
"""The service of the request that is served here."""

_lock = threading.Lock()
_open: list[Enqueuer] = []
_process: Enqueuer | None = None
_left_by_parent: list[Enqueuer] = []
"""Services of the parent process, kept so that nothing closes their connections."""


def opened(service: Enqueuer) -> None:
    """Take note of a service that is open in this process."""
    with _lock:
        _open.append(service)


def closed(service: Enqueuer) -> None:
    """Take note that it is open no more."""
    with _lock:
        if service in _open:
            _open.remove(service)


def set_process_enqueuer(enqueuer: Enqueuer | None) -> None:
    """Make *enqueuer* the one that tasks in this worker process use."""
    global _process
    _process = enqueuer


def find_enqueuer() -> Enqueuer:
    """Return the service to use here; ``QueueError`` names the choices when there is no telling."""
    for found in (current_enqueuer.get(), _process):
        if found is not None:
            return found
    with _lock:
        if len(_open) == 1:
            return _open[0]
        count = len(_open)
    if count == 0:
        msg = "no QueueService is open here; add QueuePlugin to the app, or open a QueueService and use its enqueue()"
    else:
        msg = f"{count} services are open here and none belongs to this context; use service.enqueue() or pass service="
    raise QueueError(msg)


def _forget_parents_services() -> None:
    global _lock
    _lock = threading.Lock()  # another thread of the parent may have held it
    _left_by_parent.extend(_open)
    _open.clear()


os.register_at_fork(after_in_child=_forget_parents_services)
