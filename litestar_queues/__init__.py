"""A task queue for Litestar apps that needs nothing but a file.

The names below are imported when they are first used, so that a program which only looks at a
queue does not import Litestar.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str

    from litestar_queues.background import QueuedBackgroundTask as QueuedBackgroundTask
    from litestar_queues.config import PoolConfig as PoolConfig
    from litestar_queues.config import QueueConfig as QueueConfig
    from litestar_queues.config import Retention as Retention
    from litestar_queues.config import WorkerConfig as WorkerConfig
    from litestar_queues.events import INJECTED as INJECTED
    from litestar_queues.events import QueueEvent as QueueEvent
    from litestar_queues.events import TaskExecutionContext as TaskExecutionContext
    from litestar_queues.exceptions import DuplicateJobError as DuplicateJobError
    from litestar_queues.exceptions import JobCancelledError as JobCancelledError
    from litestar_queues.exceptions import JobGone as JobGone
    from litestar_queues.exceptions import JobInterrupted as JobInterrupted
    from litestar_queues.exceptions import NonRetryableError as NonRetryableError
    from litestar_queues.exceptions import PayloadError as PayloadError
    from litestar_queues.exceptions import QueueConfigurationError as QueueConfigurationError
    from litestar_queues.exceptions import QueueError as QueueError
    from litestar_queues.exceptions import ResultGone as ResultGone
    from litestar_queues.exceptions import Snooze as Snooze
    from litestar_queues.exceptions import StoreError as StoreError
    from litestar_queues.exceptions import TaskCancelled as TaskCancelled
    from litestar_queues.exceptions import TaskExpired as TaskExpired
    from litestar_queues.exceptions import TaskFailed as TaskFailed
    from litestar_queues.exceptions import UnknownTaskError as UnknownTaskError
    from litestar_queues.exceptions import job_cancelled as job_cancelled
    from litestar_queues.exceptions import non_retryable as non_retryable
    from litestar_queues.lifecycle import RetryBackoff as RetryBackoff
    from litestar_queues.models import Query as Query
    from litestar_queues.models import QueuedTaskRecord as QueuedTaskRecord
    from litestar_queues.models import QueueStatistics as QueueStatistics
    from litestar_queues.models import Status as Status
    from litestar_queues.models import TaskRequest as TaskRequest
    from litestar_queues.plugin import QueuePlugin as QueuePlugin
    from litestar_queues.redaction import Secret as Secret
    from litestar_queues.results import TaskResult as TaskResult
    from litestar_queues.service import QueueService as QueueService
    from litestar_queues.tasks import Task as Task
    from litestar_queues.tasks import task as task

_HOMES = {
    "DuplicateJobError": "exceptions",
    "INJECTED": "events",
    "JobCancelledError": "exceptions",
    "JobGone": "exceptions",
    "JobInterrupted": "exceptions",
    "NonRetryableError": "exceptions",
    "PayloadError": "exceptions",
    "PoolConfig": "config",
    "Query": "models",
    "QueueConfig": "config",
    "QueueConfigurationError": "exceptions",
    "QueueError": "exceptions",
    "QueueEvent": "events",
    "QueuePlugin": "plugin",
    "QueueService": "service",
    "QueueStatistics": "models",
    "QueuedBackgroundTask": "background",
    "QueuedTaskRecord": "models",
    "ResultGone": "exceptions",
    "Retention": "config",
    "RetryBackoff": "lifecycle",
    "Secret": "redaction",
    "Snooze": "exceptions",
    "Status": "models",
    "StoreError": "exceptions",
    "Task": "tasks",
    "TaskCancelled": "exceptions",
    "TaskExecutionContext": "events",
    "TaskExpired": "exceptions",
    "TaskFailed": "exceptions",
    "TaskRequest": "models",
    "TaskResult": "results",
    "UnknownTaskError": "exceptions",
    "WorkerConfig": "config",
    "job_cancelled": "exceptions",
    "non_retryable": "exceptions",
    "task": "tasks",
}

__all__ = list(_HOMES)


if not TYPE_CHECKING:  # a type checker that sees it believes in every name, misspelt ones too

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            value = _version()
        elif name in _HOMES:
            value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        else:
            msg = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(msg)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, "__version__"})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("litestar-lq")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0+unknown"
