"""All about one job: what it is, what happened to it, and what it said."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from litestar_queues.clock import SECOND, to_datetime
from litestar_queues.events.stored import QueueEvent, timeline
from litestar_queues.models import Attempt, QueuedTaskRecord, StoredEvent
from lq.render.page import Block, Cell, Heading, Lines, Pairs, Table, status_cell
from lq.render.text import duration, size


class Page(Struct, frozen=True):
    """A job, what it said, and how much of that to show."""

    job: QueuedTaskRecord
    said: list[StoredEvent]
    limit: int


def as_blocks(page: Page) -> list[Block]:
    """Return the page for people; what is empty is left out."""
    job = page.job
    status = status_cell(job.status)
    blocks: list[Block] = [
        Heading(f"#{job.number}  {job.task_name}  {status.text}"),
        Pairs(tuple((name, value) for name, value in _facts(job) if value not in (None, "", "-"))),
    ]
    blocks += _arguments(job)
    if job.shown_result_json is not None:
        blocks += [Heading("Result"), Lines(_pretty(job.shown_result_json))]
    if job.is_result_gone:
        blocks += [Heading("Result", "dropped: it was kept for as long as the task's result_retention says")]
    if job.error:
        blocks += [Heading("Error"), Pairs((("", Cell(job.error, "red")),))]
    blocks += _events(page)
    for attempt in job.attempts:
        blocks += _attempt(attempt)
    return blocks


def as_json(page: Page) -> dict[str, Any]:
    """Return the page for programs."""
    job = page.job
    return {
        "number": job.number,
        "id": job.id,
        "task": job.task_name,
        "queue": job.queue,
        "status": str(job.status),
        "priority": job.priority,
        "args": job.shown_args,
        "kwargs": job.shown_kwargs,
        "result": None if job.shown_result_json is None else msgspec.json.decode(job.shown_result_json),
        "result_dropped": job.is_result_gone,
        "error": _error_json(job.failure),
        "key": job.key,
        "timeout_seconds": job.timeout,
        "max_retries": job.max_retries,
        "retry_count": job.retry_count,
        "attempt": job.attempt,
        "crashes": job.crashes,
        "execution_backend": job.execution_backend,
        "execution_profile": job.execution_profile,
        "worker": job.worker_id,
        "metadata": job.metadata,
        "created_at": job.created_at,
        "scheduled_at": job.scheduled_at,
        "expires_at": job.expires_at,
        "started_at": job.started_at,
        "completed_at": job.completed_at,
        "cancel_requested_at": job.cancel_requested_at,
        "attempts": [_attempt_json(attempt) for attempt in job.attempts],
        "events": [_event_json(event) for event in timeline(job, job.attempts, page.said)],
    }


def _facts(job: QueuedTaskRecord) -> list[tuple[str, Any]]:
    ran = None
    if job.started_at and job.completed_at:
        ran = duration((job.completed_at - job.started_at).total_seconds())
    return [
        ("id", str(job.id)),
        ("queue", job.queue),
        ("priority", str(job.priority)),
        ("retries", f"{job.retry_count} of {job.max_retries} spent" if job.max_retries else None),
        ("crashes", str(job.crashes) if job.crashes else None),
        ("timeout", duration(job.timeout) if job.timeout is not None else None),
        ("key", job.key),
        ("backend", job.execution_backend if job.execution_backend != "local" else None),
        ("profile", job.execution_profile),
        ("worker", job.worker_id),
        ("enqueued", _time(job.created_at)),
        ("not before", _time(job.scheduled_at) if job.scheduled_at != job.created_at else None),
        ("expires", _time(job.expires_at) if job.expires_at else None),
        ("ended", _time(job.completed_at) if job.completed_at else None),
        ("last run", ran),
        ("cancel asked", _time(job.cancel_requested_at) if job.cancel_requested_at else None),
        ("metadata", _compact(job.metadata) if job.metadata else None),
    ]


def _arguments(job: QueuedTaskRecord) -> list[Block]:
    rows = [(str(index), _compact(value)) for index, value in enumerate(job.shown_args)]
    rows += [(name, _compact(value)) for name, value in job.shown_kwargs.items()]
    return [Heading("Arguments"), Pairs(tuple(rows))] if rows else []


def _events(page: Page) -> list[Block]:
    events = timeline(page.job, page.job.attempts, page.said)
    shown = events[-page.limit :] if page.limit else []
    if not shown:
        return []
    aside = f"the last {len(shown)} of {len(events)}" if len(shown) < len(events) else ""
    rows = tuple((_time(event.occurred_at), event.type.removeprefix("task."), _said(event)) for event in shown)
    return [Heading("Timeline", aside), Table(("AT", "EVENT", "WHAT"), rows)]


def _said(event: QueueEvent) -> Any:
    if event.type == "task.progress":
        percent = "" if event.progress_percent is None else f"{event.progress_percent:.0f}%"
        figures = "" if event.progress_current is None else f"{event.progress_current:g}/{event.progress_total or 0:g}"
        return " ".join(filter(None, [percent, figures, event.message or ""]))
    style = "red" if event.level in ("error", "critical") else "yellow" if event.level == "warning" else ""
    text = f"{event.level} {event.message}" if event.level else event.message or ""
    if event.attempt and event.type == "task.started":
        text = f"attempt {event.attempt}"
    return Cell(text, style)


def _attempt(attempt: Attempt) -> list[Block]:
    receipt = attempt.receipt
    rows: list[tuple[str, Any]] = []
    if receipt is not None:
        rows = [
            ("worker", f"{receipt.worker} (pid {receipt.pid})" if receipt.pid else receipt.worker),
            ("started", _time(to_datetime(receipt.started_at))),
            ("took", duration((receipt.ended_at - receipt.started_at) / SECOND)),
            ("cpu", None if receipt.cpu is None else duration(receipt.cpu / SECOND)),
            ("memory", None if receipt.rss is None else size(receipt.rss)),
        ]
    if attempt.exit:
        rows.append(("process", attempt.exit))
    if attempt.error:
        rows.append(("error", Cell(str(attempt.error), "red")))
    kept = tuple((name, value) for name, value in rows if value not in (None, ""))
    blocks: list[Block] = [Heading(f"Attempt {attempt.attempt}  {attempt.outcome.replace('_', ' ')}"), Pairs(kept)]
    if attempt.error and attempt.error.traceback:
        blocks.append(Lines(attempt.error.traceback.rstrip()))
    if attempt.stack:
        blocks += [Heading("", "where it stood when it was stopped"), Lines(attempt.stack)]
    return blocks


def _attempt_json(attempt: Attempt) -> dict[str, Any]:
    receipt = attempt.receipt
    return {
        "attempt": attempt.attempt,
        "outcome": attempt.outcome,
        "worker": receipt and receipt.worker,
        "pid": receipt and receipt.pid,
        "started_at": receipt and to_datetime(receipt.started_at),
        "ended_at": receipt and to_datetime(receipt.ended_at),
        "cpu_seconds": None if receipt is None or receipt.cpu is None else receipt.cpu / SECOND,
        "rss_bytes": receipt and receipt.rss,
        "exit": attempt.exit,
        "error": _error_json(attempt.error),
        "stack": attempt.stack,
    }


def _event_json(event: QueueEvent) -> dict[str, Any]:
    progress = {
        "current": event.progress_current,
        "total": event.progress_total,
        "percent": event.progress_percent,
    }
    return {
        "type": event.type,
        "at": event.occurred_at,
        "attempt": event.attempt,
        "level": event.level,
        "message": event.message,
        "progress": progress if event.type == "task.progress" else None,
        "payload": event.payload,
    }


def _error_json(error: Any) -> dict[str, Any] | None:
    return None if error is None else {"type": error.type, "message": error.message, "traceback": error.traceback}


def _time(when: Any) -> str:
    return str(when.isoformat(sep=" ", timespec="milliseconds").replace("+00:00", "Z"))


def _compact(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _pretty(text: str) -> str:
    return msgspec.json.format(text, indent=2)
