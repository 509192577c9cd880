"""The context of the job that runs: who it is, and where what it says goes.

Saying something is one synchronous send by the thread that says it, so nothing waits in a buffer
that a crash would lose. The ``async`` methods exist because tasks written for other queues await
them; they do not suspend.
"""

from __future__ import annotations

import math
from contextvars import ContextVar
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Protocol, TypeVar, overload
from uuid import UUID

import msgspec

from litestar_queues.clock import Clock
from litestar_queues.enqueuer import find_enqueuer
from litestar_queues.events import secrets
from litestar_queues.exceptions import JobCancelledError, PayloadError, QueueError
from litestar_queues.models import NewJob
from litestar_queues.redaction import Redactor
from litestar_queues.wire import MAX_LEVEL, MAX_NAME, Event, Log, Progress

if TYPE_CHECKING:  # the master imports this module, and has no use for tasks
    from litestar_queues.tasks import Task

P = ParamSpec("P")
R = TypeVar("R")
Level = Literal["debug", "info", "warning", "error", "critical"]

INJECTED: Any = None
"""Default for parameters that the worker fills in (``_job_id``, ``_task_context``), so that type
checkers do not ask callers for them."""

MAX_MESSAGE = 16_384
"""Characters of one message that are kept; what is longer is cut, and says so."""
LARGEST_FIGURE = 1e18
"""Of progress; a whole number up to it fits a frame."""
MAX_PAYLOAD = 65_536
"""Bytes of one event's payload as JSON."""
MAX_SUCCESSORS = 1_000
"""Jobs that one run may add on success."""
MAX_SUCCESSOR_BYTES = 32 * 1024 * 1024
"""Of the jobs that one run adds on success, as they travel: with them its report stays below ``framing.MAX_FRAME``."""


class Sink(Protocol):
    """Where a job's words go: the channel to the master, or the store of the caller."""

    def say(self, report: Progress | Log | Event) -> None:
        """Send *report* now, or count it as dropped."""
        ...


class TaskExecutionContext:
    """One run of one job, as its task sees it. Works from asynchronous and synchronous code alike.

    The ``async`` methods and their ``_sync`` twins do the same. Figures and messages are checked
    here, so that a wrong one is an error in the task, not a lost event.
    """

    __slots__ = (
        "_clock", "_is_cancelled", "_redactor", "_sink", "_successor_bytes", "_successors", "_successors_lock", "attempt",
        "fence", "max_retries", "number", "queue", "retry_count", "task_id", "task_name", "worker_id",
    )  # fmt: skip

    def __init__(
        self,
        *,
        task_id: UUID,
        number: int,
        fence: int,
        task_name: str,
        queue: str,
        attempt: int,
        retry_count: int,
        max_retries: int,
        worker_id: str,
        sink: Sink,
        clock: Clock,
        redactor: Redactor | None = None,
    ) -> None:
        self.task_id = task_id
        self.number = number
        self.fence = fence
        self.task_name = task_name
        self.queue = queue
        self.attempt = attempt
        self.retry_count = retry_count
        self.max_retries = max_retries
        self.worker_id = worker_id
        self._sink = sink
        self._clock = clock
        self._redactor = redactor
        """Held, so that the process keeps it while anybody can speak through this."""
        self._is_cancelled = False
        self._successors: list[NewJob] | None = []
        self._successor_bytes = 0
        self._successors_lock = Lock()
        """A thread that the task has left may add one while the end of the run is reported."""

    def __repr__(self) -> str:
        return f"<TaskExecutionContext #{self.number} {self.task_name} attempt {self.attempt}>"

    async def progress(
        self,
        current: float | None = None,
        total: float | None = None,
        percent: float | None = None,
        message: str | None = None,
        payload: dict[str, Any] | None = None,
    ) -> None:
        """Say how far the job is; ``percent`` follows from ``current`` and ``total`` when not given."""
        self.progress_sync(current, total, percent, message, payload)

    async def log(self, message: str, level: Level = "info", payload: dict[str, Any] | None = None) -> None:
        """Add a line to the job's log."""
        self.log_sync(message, level, payload)

    async def event(self, type: str, message: str | None = None, payload: dict[str, Any] | None = None) -> None:
        """Publish an event under a type of the task's own."""
        self.event_sync(type, message, payload)

    def progress_sync(
        self,
        current: float | None = None,
        total: float | None = None,
        percent: float | None = None,
        message: str | None = None,
        payload: dict[str, Any] | None = None,
    ) -> None:
        """Do what ``progress`` does, from synchronous code."""
        current, total, percent = _figure(current), _figure(total), _figure(percent)
        if percent is None and current is not None and total and math.isfinite(share := current / total):
            percent = 100.0 * share
        self.say(Progress(self.number, self.fence, self._clock.now(), current, total, percent, message, _json(payload)))

    def log_sync(self, message: str, level: Level = "info", payload: dict[str, Any] | None = None) -> None:
        """Do what ``log`` does, from synchronous code."""
        self.say(Log(self.number, self.fence, self._clock.now(), str(level).lower(), str(message), _json(payload)))

    def event_sync(self, type: str, message: str | None = None, payload: dict[str, Any] | None = None) -> None:
        """Do what ``event`` does, from synchronous code."""
        self.say(Event(self.number, self.fence, self._clock.now(), str(type), message, _json(payload)))

    @overload
    def enqueue_on_success(self, task: Task[P, R], /, *args: P.args, **kwargs: P.kwargs) -> UUID: ...
    @overload
    def enqueue_on_success(self, task: Task[..., Any] | str, /, *args: Any, **options_and_kwargs: Any) -> UUID: ...
    def enqueue_on_success(self, task: Task[..., Any] | str, /, *args: Any, **options_and_kwargs: Any) -> UUID:
        """Add a job with the completion of this one, in one transaction: both or neither; return its id.

        *task* is a ``Task`` (also ``task.using(…)``), or the name of one that is registered here; options
        may be given beside the arguments, as to ``QueueService.enqueue``. The call is checked now, and
        nothing is stored before this job's result is: if it fails, snoozes, is cancelled or dies, nothing
        is added. Works from asynchronous and synchronous code.

        The job is dated now: ``run_after`` and ``expires_in`` count from this call. Where another live job
        holds the key when this one completes, that one stands (or is replaced), and no job has the
        returned id.

        Raises what ``Task.enqueue`` raises, ``ValueError`` for ``on_duplicate="raise"`` (nobody could
        be told), ``PayloadError`` for more than 1,000 jobs or 32 MiB of them, and ``QueueError``
        once this run has ended.
        """
        job = find_enqueuer().prepare_known(task, args, options_and_kwargs)
        if job.on_duplicate == "raise":
            msg = 'enqueue_on_success cannot raise for a duplicate later; use on_duplicate="reuse" or "replace"'
            raise ValueError(msg)
        with self._successors_lock:
            self._add_successor(job)
        return job.id

    def take_successors(self) -> tuple[NewJob, ...]:
        """Return what is to be added with the completion, and take no more; for whoever reports that."""
        with self._successors_lock:
            taken, self._successors = self._successors, None
        return tuple(taken or ())

    def _add_successor(self, job: NewJob) -> None:
        if self._successors is None:
            msg = f"the run of #{self.number} has ended; enqueue_on_success must be called while it runs"
            raise QueueError(msg)
        size = self._successor_bytes + len(msgspec.msgpack.encode(job))
        if len(self._successors) >= MAX_SUCCESSORS or size > MAX_SUCCESSOR_BYTES:
            msg = (
                f"one run may add {MAX_SUCCESSORS} jobs of {MAX_SUCCESSOR_BYTES} bytes together; "
                "enqueue the rest, or let one of them enqueue more"
            )
            raise PayloadError(msg)
        self._successors.append(job)
        self._successor_bytes = size

    def say(self, report: Progress | Log | Event) -> None:
        """Send a report about this run: without secrets, then cut to what is kept; the report itself is changed.

        All that a task says comes through here; what it prints or logs too.
        """
        # Clean first: what is left of a secret where a text was cut is nothing that could be found.
        if report.message is not None:
            report.message = cut(secrets.clean(str(report.message))) or ""
        if report.payload is not None:
            report.payload = secrets.clean_json(report.payload)
        match report:
            case Log():
                report.level = _name(report.level, MAX_LEVEL)
            case Event():
                report.name = _name(report.name, MAX_NAME)
            case Progress():
                report.current, report.total, report.percent = (
                    None if figure is None or secrets.tells(figure) else figure
                    for figure in (report.current, report.total, report.percent)
                )
        self._sink.say(report)

    @property
    def is_cancelled(self) -> bool:
        """True once this run has been asked to stop: its time is up, or the job is cancelled."""
        return self._is_cancelled

    def raise_if_cancelled(self) -> None:
        """Raise ``JobCancelledError`` once this run has been asked to stop."""
        if self._is_cancelled:
            msg = "the job has been asked to stop"
            raise JobCancelledError(msg)

    def mark_cancelled(self) -> None:
        """Make ``is_cancelled`` true; for whoever delivers the request."""
        self._is_cancelled = True


_current: ContextVar[TaskExecutionContext | None] = ContextVar("litestar_queues_context", default=None)


class bound:  # noqa: N801 (used as a function is; a generator with a decorator costs each job 0.6 µs more)
    """Make *context* the current one for the block, and for what is started in it."""

    __slots__ = ("_context", "_token")

    def __init__(self, context: TaskExecutionContext) -> None:
        self._context = context

    def __enter__(self) -> TaskExecutionContext:
        self._token = _current.set(self._context)
        return self._context

    def __exit__(self, *error: object) -> None:
        _current.reset(self._token)


def get_current_task_context() -> TaskExecutionContext | None:
    """Return the context of the job that runs here, or None outside one."""
    return _current.get()


def require_current_task_context() -> TaskExecutionContext:
    """Return the context of the job that runs here; ``QueueError`` outside one."""
    context = _current.get()
    if context is None:
        msg = "no job is running here; call this from a task, or from what a task calls"
        raise QueueError(msg)
    return context


async def publish_task_progress(
    current: float | None = None,
    total: float | None = None,
    percent: float | None = None,
    message: str | None = None,
    payload: dict[str, Any] | None = None,
) -> None:
    """Say how far the job that runs here is; see ``TaskExecutionContext.progress``."""
    require_current_task_context().progress_sync(current, total, percent, message, payload)


async def publish_task_log(message: str, level: Level = "info", payload: dict[str, Any] | None = None) -> None:
    """Add a line to the log of the job that runs here."""
    require_current_task_context().log_sync(message, level, payload)


async def publish_task_event(type: str, message: str | None = None, payload: dict[str, Any] | None = None) -> None:
    """Publish an event of the job that runs here, under a type of the task's own."""
    require_current_task_context().event_sync(type, message, payload)


def cut(text: str | None, limit: int = MAX_MESSAGE) -> str | None:
    """Return *text*, cut to *limit* characters, without what UTF-8 cannot carry."""
    if text is None:
        return None
    text = str(text)
    if len(text) > limit:
        text = f"{text[:limit]}… ({len(text) - limit} more characters)"
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def _name(text: str, limit: int) -> str:
    """Return a short word of the task's own (a level, a type of event) as it is kept: cleaned, then cut."""
    return secrets.clean(text)[:limit].encode("utf-8", "replace").decode()


def _figure(value: float | None) -> float | None:
    """Return a figure of progress; ``ValueError`` for what is no number that every screen can show."""
    if value is None:
        return None
    # A whole number past the largest float is finite and cannot be sent; ``abs`` compares it without converting.
    if isinstance(value, (int, float)) and abs(value) <= LARGEST_FIGURE:
        return value
    shown = f"a {type(value).__name__}" if isinstance(value, int) else repr(value)[:100]
    msg = f"progress takes finite numbers of at most {LARGEST_FIGURE:g}, not {shown}; give a share of the whole"
    raise ValueError(msg)


def _json(payload: dict[str, Any] | None) -> str | None:
    if payload is None:
        return None
    try:
        text = msgspec.json.encode(payload).decode()
    except (TypeError, ValueError, RecursionError) as error:
        msg = f"an event's payload must be a JSON object: {error}"
        raise PayloadError(msg) from error
    if len(text) > MAX_PAYLOAD:
        msg = f"an event's payload is {len(text)} bytes; the limit is {MAX_PAYLOAD}"
        raise PayloadError(msg)
    return text
