"""What a running job can say, and how it is read.

In a task: take ``_task_context: TaskExecutionContext``, or call the ``publish_*`` helpers, which
find the context of the job that runs. What a task writes with ``logging``, ``print`` or to its
standard output arrives as events too.
"""

from litestar_queues.events.context import (
    INJECTED,
    Sink,
    TaskExecutionContext,
    bound,
    get_current_task_context,
    publish_task_event,
    publish_task_log,
    publish_task_progress,
    require_current_task_context,
)
from litestar_queues.events.stored import QueueEvent, to_stored

__all__ = [
    "INJECTED",
    "QueueEvent",
    "Sink",
    "TaskExecutionContext",
    "bound",
    "get_current_task_context",
    "publish_task_event",
    "publish_task_log",
    "publish_task_progress",
    "require_current_task_context",
    "to_stored",
]
