"""From what a job said to what is kept, and from what is kept to what is read."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from msgspec import Struct

from litestar_queues.clock import to_datetime
from litestar_queues.models import TERMINAL, Attempt, QueuedTaskRecord, Status, StoredEvent
from litestar_queues.redaction import Redactor
from litestar_queues.wire import Event, Log, Progress

_FIGURES = frozenset({"current", "total", "percent"})
_LARGEST = 1e300


class QueueEvent(Struct, frozen=True, kw_only=True, rename="camel"):
    """Something that happened to a job, as readers and browsers get it (camelCase on the wire)."""

    type: str
    id: str
    """Position in the job's stream; stable, so that a reader can resume after it."""
    task_id: UUID
    task_name: str
    queue: str
    occurred_at: datetime
    attempt: int = 0
    sequence: int = 0
    level: str | None = None
    message: str | None = None
    progress_current: float | None = None
    progress_total: float | None = None
    progress_percent: float | None = None
    payload: dict[str, Any] | None = None


def to_stored(report: Progress | Log | Event, attempt: int) -> StoredEvent:
    """Return what is kept of *report*, said in the job's *attempt*."""
    match report:
        case Progress():
            figures = {"current": report.current, "total": report.total, "percent": report.percent}
            data = msgspec.json.encode(figures).decode()
            if report.payload is not None:
                data = f'{data[:-1]},"payload":{report.payload}}}'
            return _event(report, attempt, "task.progress", data=data)
        case Log():
            kind = "task.log" if report.stream is None else "task.output"
            return _event(report, attempt, kind, level=report.level, data=report.payload)
        case Event():
            return _event(report, attempt, report.name, data=report.payload)


def to_event(event: StoredEvent, job: QueuedTaskRecord) -> QueueEvent:
    """Return *event* of *job* as readers get it: whatever it holds, and without the secrets of the call.

    A worker cleans what a job says before it sends it; what went to a descriptor past Python came as it was.
    """
    redactor = Redactor.of(job.payload)
    if redactor is not None:
        event = msgspec.structs.replace(
            event,
            message=event.message and redactor.clean(event.message),
            data=event.data and redactor.clean_json(event.data),
        )
    data = _data(event.data)
    is_progress = event.type == "task.progress"
    return QueueEvent(
        type=event.type,
        id=str(event.position),
        task_id=job.id,
        task_name=job.task_name,
        queue=job.queue,
        occurred_at=to_datetime(event.at),
        attempt=event.attempt,
        sequence=event.sequence,
        level=event.level,
        message=event.message,
        progress_current=_figure(data.get("current")) if is_progress else None,
        progress_total=_figure(data.get("total")) if is_progress else None,
        progress_percent=_figure(data.get("percent")) if is_progress else None,
        payload=_payload(data, is_progress=is_progress),
    )


def _data(text: str | None) -> dict[str, Any]:
    """Return a stored object; any other text under a name of its own, as it is there to be read."""
    if not text:
        return {}
    try:
        data = msgspec.json.decode(text)
    except (ValueError, RecursionError):
        data = None
    return data if isinstance(data, dict) else {"unreadable": text}


def _payload(data: dict[str, Any], *, is_progress: bool) -> dict[str, Any] | None:
    """Return what the task gave; of its own event that is called as progress is, all that is no figure."""
    if not is_progress:
        return data or None
    left = {name: value for name, value in data.items() if name not in _FIGURES or _figure(value) != value}
    payload = left.pop("payload", None)
    if left or not isinstance(payload, dict | None):
        return data
    return payload


def _figure(value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number and abs(value) <= _LARGEST else None


def timeline(job: QueuedTaskRecord, attempts: Iterable[Attempt], stored: Iterable[StoredEvent]) -> list[QueueEvent]:
    """Return the job's life in order: what it said, and the turns that follow from job and attempts.

    The turns are not stored: they are derived, so that a job which simply succeeds writes no event.
    """
    turns: list[QueueEvent] = [_turn(job, "task.enqueued", job.created_at)]
    for attempt in attempts:
        turns += _attempt_turns(job, attempt)
    if job.status == Status.RUNNING and job.started_at is not None:
        turns.append(_turn(job, "task.started", job.started_at, job.attempt + 1))
    if job.is_terminal and job.completed_at is not None:
        message = job.error if job.status == Status.FAILED else None
        turns.append(_turn(job, f"task.{job.status.value}", job.completed_at, job.attempt, message))
    said = [to_event(event, job) for event in stored]
    return sorted([*turns, *said], key=_place)


_ENDS = {"raised": "task.retrying", "timed_out": "task.timed_out", "crashed": "task.retrying", "lost": "task.retrying"}
_TURNS = frozenset(_ENDS.values()) | {"task.interrupted"}
_FINAL = frozenset(f"task.{status.value}" for status in TERMINAL)


def _attempt_turns(job: QueuedTaskRecord, attempt: Attempt) -> list[QueueEvent]:
    if attempt.receipt is None:
        return []
    started = _turn(job, "task.started", to_datetime(attempt.receipt.started_at), attempt.attempt)
    kind = _ENDS.get(attempt.outcome)
    if attempt.outcome in ("returned", "snoozed"):
        kind = "task.interrupted"
    last = job.is_terminal and attempt.attempt == job.attempt
    if kind is None or (last and attempt.outcome != "timed_out"):
        return [started]
    message = str(attempt.error) if attempt.error else attempt.exit
    return [started, _turn(job, kind, to_datetime(attempt.receipt.ended_at), attempt.attempt, message)]


def _place(event: QueueEvent) -> tuple[bool, int, int]:
    """Return where an event stands in the job's life: by what it is, as the clock may have stepped meanwhile.

    What was said within an attempt stays in the order in which it was stored.
    """
    is_turn = not event.id
    if is_turn and event.type in _FINAL:
        return True, 0, 0
    phase = 1 if not is_turn else 2 if event.type in _TURNS else 0
    return False, event.attempt, phase


def _turn(job: QueuedTaskRecord, kind: str, at: datetime, attempt: int = 0, message: str | None = None) -> QueueEvent:
    return QueueEvent(
        type=kind,
        id="",
        task_id=job.id,
        task_name=job.task_name,
        queue=job.queue,
        occurred_at=at,
        attempt=attempt,
        sequence=job.sequence,
        message=message,
    )


def _event(
    report: Progress | Log | Event, attempt: int, kind: str, *, level: str | None = None, data: str | None = None
) -> StoredEvent:
    return StoredEvent(
        job=report.number,
        attempt=attempt,
        type=kind,
        at=report.at,
        level=level,
        message=report.message,
        data=data,
    )
