"""The nouns: what a job is to those who read it, to those who add it, and to the master that claims it.

Frozen structs and nothing else: no clock, no database, no policy. Times in fields whose
name ends in ``_at`` are aware datetimes on the public record and microseconds since 1970
(UTC) everywhere below it; durations below it are microseconds too.

::

    NewJob ──add──► (a row) ──claim──► ClaimedJob ──settle──► (the row again)
                       └────get, find────► QueuedTaskRecord, with Attempts
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import Meta, Struct, field

from litestar_queues import redaction
from litestar_queues.clock import to_datetime
from litestar_queues.exceptions import ResultGone


class Status(StrEnum):
    """Where a job stands. The first three are live, the last four terminal."""

    SCHEDULED = "scheduled"
    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


LIVE = frozenset({Status.SCHEDULED, Status.PENDING, Status.RUNNING})
TERMINAL = frozenset(Status) - LIVE

Count = Annotated[int, Meta(ge=0, le=1 << 62)]
"""A number that fits every store's integer column; a frame with another is refused as forged."""
Whole = Annotated[int, Meta(ge=-(1 << 62), le=1 << 62)]
"""The same, with a sign."""
Moment = Annotated[int, Meta(ge=-62_135_596_800_000_000, le=253_402_300_799_999_999)]
"""Microseconds since 1970 that are a ``datetime``: the years 1 to 9999."""

Span = Annotated[int, Meta(ge=0, le=100 * 366 * 24 * 3600 * 1_000_000)]
"""Microseconds of at most a hundred years: a moment plus one is still a ``datetime``."""

OnDuplicate = Literal["reuse", "replace", "raise"]

FOREVER = 1 << 62
"""A duration that no clock gets to the end of."""


class ErrorReport(Struct, frozen=True):
    """An exception as text: nothing of it is ever imported or evaluated again."""

    type: str
    message: str
    traceback: str | None = None

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


class Receipt(Struct, frozen=True):
    """What a start of a job's function cost, as far as it could be measured."""

    started_at: Moment
    """Wall time in microseconds."""
    ended_at: Moment
    worker: str = ""
    """Who ran it, as shown to people: ``default/2``."""
    pid: Count = 0
    cpu: Count | None = None
    """CPU time in microseconds, user and system; None where several jobs share the process."""
    rss: Count | None = None
    """Sampled peak of resident memory in bytes."""


class Attempt(Struct, frozen=True, kw_only=True):
    """A real start of a job's function and how it ended."""

    attempt: int
    """1 for the first start."""
    fence: int
    outcome: str
    """``succeeded``, ``raised``, ``timed_out``, ``over_memory``, ``crashed``, ``suspected``, ``lost``,
    ``returned``, ``cancelled`` or ``snoozed``."""
    receipt: Receipt | None = None
    error: ErrorReport | None = None
    stack: str | None = None
    """Where it stood when it was killed, or the stack that a fatal signal left."""
    exit: str | None = None
    """How the process ended, in words: ``killed by SIGSEGV``."""


class NewJob(Struct, frozen=True, kw_only=True):
    """A job as its enqueuer hands it to the store.

    It also comes in a worker's report, so every number has its bounds: one that no column takes would
    end the master at the store.
    """

    id: UUID
    task: str
    queue: str
    priority: Whole
    payload: str
    """The call as JSON: ``{"args": […], "kwargs": {…}}``."""
    checksum: Count
    """CRC-32 of *payload* in UTF-8."""
    created_at: Moment
    run_at: Moment
    """Not before this; a job whose time has come is added as pending."""
    max_retries: Count = 0
    backoff: str | None = None
    """A ``RetryBackoff`` as JSON; None is the default."""
    timeout: Count | None = None
    kill_grace: Count = 2_000_000
    expires_at: Moment | None = None
    key: str | None = None
    key_scope: str = ""
    """The task's name, or empty for a key shared by all tasks."""
    key_forever: bool = False
    """The key stays taken after the job has ended."""
    on_duplicate: OnDuplicate = "reuse"
    backend: str = "local"
    profile: str | None = None
    metadata: str | None = None
    """JSON object."""
    max_rss: Count | None = None
    """Bytes of resident memory above which its worker is killed."""
    allow_background: bool = False
    """Processes that it leaves behind may live on."""
    retention: Count | None = None
    """How long it is kept after its end; None leaves that to the configuration, ``FOREVER`` is for ever."""
    result_retention: Count | None = None
    """How long its result is kept after its end; None is as long as the job."""

    def __repr__(self) -> str:  # without the arguments, which may be secret
        return f"<NewJob {self.id} {self.task}>"


class Added(Struct, frozen=True):
    """What became of one ``NewJob``."""

    id: UUID
    """The id of the live job: the new one's, or that of the job which holds the key."""
    number: int
    status: Status
    deduplicated: bool = False
    """Another job held the key, and this call made none."""
    refused: bool = False
    """``on_duplicate="raise"`` met a live job: nothing of the batch was added."""


class ClaimedJob(Struct, frozen=True, kw_only=True):
    """A job that this master has claimed: all it needs to run it and to settle it."""

    number: int
    id: UUID
    task: str
    queue: str
    priority: int
    fence: int
    payload: str
    checksum: int
    attempts: int
    """Starts so far, this claim not counted."""
    failures: int
    crashes: int
    losses: int
    max_retries: int
    backoff: str | None
    timeout: int | None
    kill_grace: int
    run_at: int
    created_at: int
    unknown_since: int | None = None
    """When a worker first said that it does not know the task."""
    backend: str = "local"
    profile: str | None = None
    cancel_requested: bool = False
    max_rss: int | None = None
    allow_background: bool = False
    suspect: bool = False
    """Its worker died with several jobs running: this attempt is to run alone."""

    def __repr__(self) -> str:  # without the arguments, which may be secret
        return f"<ClaimedJob #{self.number} {self.task}>"


class QueuedTaskRecord(Struct, frozen=True, kw_only=True):
    """A job as it is read: the stored row at one moment."""

    id: UUID
    number: int
    task_name: str
    queue: str
    status: Status
    priority: int
    payload: str
    max_retries: int
    retry_count: int
    """Retries spent: attempts that raised or timed out and were run again, or ended the job."""
    attempt: int
    """Starts of the function so far."""
    crashes: int
    fence: int
    scheduled_at: datetime
    """Not before this."""
    created_at: datetime
    queued_at: datetime
    """When it was enqueued; the same moment as ``created_at``."""
    expires_at: datetime | None = None
    started_at: datetime | None = None
    """Start of the last attempt; while it runs, the moment it was claimed."""
    completed_at: datetime | None = None
    """When it ended, however it ended."""
    heartbeat_at: datetime | None = None
    """Last sign of life of the node that runs it."""
    worker_id: str | None = None
    """The worker of the last attempt (``default/2``), or the node while it runs."""
    node: str | None = None
    execution_backend: str = "local"
    execution_profile: str | None = None
    execution_ref: str | None = None
    key: str | None = None
    timeout: float | None = None
    """Seconds."""
    result_json: str | None = None
    failure: ErrorReport | None = None
    """The error that ended the job, or the last one while it is retried."""
    metadata: dict[str, Any] = field(default_factory=dict)
    cancel_requested_at: datetime | None = None
    sequence: int = 0
    """The store-wide stamp of its last change."""
    attempts: tuple[Attempt, ...] = ()

    def __repr__(self) -> str:
        return f"<QueuedTaskRecord #{self.number} {self.task_name} {self.status}>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("number", self.number), ("task_name", self.task_name), ("status", str(self.status))]

    @property
    def shown_args(self) -> list[Any]:
        """The same, those that are secret as ``[redacted]``; for screens and logs."""
        return redaction.shown_call(self.payload)[0]

    @property
    def shown_kwargs(self) -> dict[str, Any]:
        """The keyword arguments, those that are secret as ``[redacted]``; for screens and logs."""
        return redaction.shown_call(self.payload)[1]

    @property
    def shown_result_json(self) -> str | None:
        """The stored result as JSON: ``"[redacted]"`` where it is secret, else without secret arguments; for screens."""
        return None if self.result_json is None else redaction.shown_result(self.payload, self.result_json)

    @property
    def args(self) -> list[Any]:
        """The positional arguments as plain JSON values."""
        return list(msgspec.json.decode(self.payload)["args"])

    @property
    def kwargs(self) -> dict[str, Any]:
        """The keyword arguments as plain JSON values."""
        return dict(msgspec.json.decode(self.payload)["kwargs"])

    @property
    def is_result_gone(self) -> bool:
        """True when the job has completed, and its result has been dropped since (``result_retention``)."""
        return self.status == Status.COMPLETED and self.result_json is None

    @property
    def result(self) -> Any:
        """The stored result as plain JSON values; ``TaskResult.result`` gives it its type back.

        None until the job has completed. Raises ``ResultGone`` once the result has been dropped.
        """
        if self.is_result_gone:
            raise ResultGone(self.number, self.task_name)
        return None if self.result_json is None else msgspec.json.decode(self.result_json)

    @property
    def error(self) -> str | None:
        """The stored error in one line."""
        return None if self.failure is None else str(self.failure)

    @property
    def is_terminal(self) -> bool:
        """True once nothing will happen to the job any more."""
        return self.status in TERMINAL

    def is_due(self, now: int) -> bool:
        """True when a claim at *now* (microseconds) may take the job."""
        return self.status in (Status.SCHEDULED, Status.PENDING) and self.scheduled_at <= to_datetime(now)

    def is_expired(self, now: int) -> bool:
        """True when the job has not started and may not start any more."""
        waiting = self.status in (Status.SCHEDULED, Status.PENDING)
        overdue = self.expires_at is not None and self.expires_at <= to_datetime(now)
        return self.status == Status.EXPIRED or (waiting and overdue)


class QueueStatistics(Struct, frozen=True):
    """How many jobs stand where."""

    scheduled: int = 0
    pending: int = 0
    running: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return sum(getattr(self, status) for status in Status)

    def __add__(self, other: QueueStatistics) -> QueueStatistics:
        return QueueStatistics(**{status: getattr(self, status) + getattr(other, status) for status in Status})


class StoredEvent(Struct, frozen=True, kw_only=True):
    """Something a running job said, as it is kept."""

    job: int
    attempt: int
    type: str
    """``task.progress``, ``task.log``, ``task.output`` or ``task.event``."""
    at: int
    level: str | None = None
    message: str | None = None
    data: str | None = None
    """JSON object: progress figures, or the payload given by the task."""
    position: int = 0
    """Set by the store: order among all events."""
    sequence: int = 0
    """Set by the store: the stamp of the transaction that wrote it."""


class Query(Struct, frozen=True, kw_only=True):
    """Which jobs to find. Newest number first, or last ended first for terminal statuses."""

    statuses: tuple[Status, ...] = ()
    queue: str | None = None
    task: str | None = None
    key: str | None = None
    id_ending: str | None = None
    before: int | None = None
    """Only numbers below this: the cursor of a page."""
    limit: int = 50


class TaskRequest(Struct, frozen=True):
    """One call for ``QueueService.enqueue_many``."""

    task: Any
    """A ``Task``, or the name of one."""
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    """Per-enqueue overrides, as ``QueueService.enqueue`` takes them."""

    def __repr__(self) -> str:  # without the arguments, which may be secret
        return f"<TaskRequest {getattr(self.task, 'name', self.task)}>"
