"""Rows as they are read: SQL for the reader's connection, and the way from rows to structs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

import msgspec

from litestar_queues.clock import SECOND, to_datetime
from litestar_queues.models import (
    TERMINAL,
    Attempt,
    ErrorReport,
    Query,
    QueuedTaskRecord,
    QueueStatistics,
    Receipt,
    Status,
    StoredEvent,
)

_JOB = (
    "SELECT number, id, task, queue, backend, profile, status, priority, payload, key, fence, attempts, failures, "
    "crashes, max_retries, timeout, created_at, run_at, expires_at, claimed_at, started_at, ended_at, node, worker, "
    "pid, cpu, rss, cancel_requested_at, execution_ref, result, error, metadata, sequence, "
    "(SELECT beat_at FROM lq_node WHERE lq_node.id = lq_job.node) FROM lq_job"
)
BY_NUMBER = f"{_JOB} WHERE number IN (SELECT value FROM json_each(?))"
BY_ID = f"{_JOB} WHERE id IN (SELECT value FROM json_each(?))"
ATTEMPTS = (
    "SELECT attempt, fence, outcome, started_at, ended_at, worker, pid, cpu, rss, error, stack, exit "
    "FROM lq_attempt WHERE job = ? ORDER BY fence"
)
EVENTS = (
    "SELECT job, attempt, type, at, level, message, data, position, sequence FROM lq_event "
    "WHERE job = ? AND position > ? ORDER BY position LIMIT ?"
)
CHANGED = (
    "SELECT number, status, sequence, cancel_requested_at IS NOT NULL FROM lq_job "
    "WHERE number IN (SELECT value FROM json_each(?)) AND sequence > ?"
)
STATISTICS = "SELECT queue, status, count FROM lq_tally"
# One seek a priority: the lowest number of each, of which the lowest is the oldest. A plain
# ORDER BY number would walk all that wait.
OLDEST_WAITING = """
WITH RECURSIVE head (queue, backend, priority) AS (
    SELECT queue, backend, priority FROM (
        SELECT queue, backend, priority FROM lq_job WHERE status = 'pending'
        ORDER BY queue, backend, priority DESC LIMIT 1)
    UNION ALL
    SELECT following.queue, following.backend, following.priority FROM head, lq_job AS following
    WHERE following.number = (
        SELECT number FROM lq_job WHERE status = 'pending' AND (
            (queue = head.queue AND backend = head.backend AND priority < head.priority)
            OR (queue = head.queue AND backend > head.backend) OR queue > head.queue)
        ORDER BY queue, backend, priority DESC LIMIT 1))
SELECT head.queue, min((
    SELECT run_at FROM lq_job WHERE status = 'pending' AND lq_job.queue = head.queue
    AND lq_job.backend = head.backend AND lq_job.priority = head.priority ORDER BY number LIMIT 1))
FROM head GROUP BY head.queue
"""
NODES = "SELECT row FROM lq_node ORDER BY id"
CATALOGUE = "SELECT kind, entry FROM lq_catalogue ORDER BY kind, name"


def record(row: tuple[Any, ...], attempts: Iterable[Attempt] = ()) -> QueuedTaskRecord:
    """Return the job in *row* of ``_JOB``."""
    status = Status(row[6])
    is_running = status == Status.RUNNING
    return QueuedTaskRecord(
        number=row[0],
        id=UUID(row[1]),
        task_name=row[2],
        queue=row[3],
        execution_backend=row[4],
        execution_profile=row[5],
        status=status,
        priority=row[7],
        payload=row[8],
        key=row[9],
        fence=row[10],
        attempt=row[11],
        retry_count=row[12],
        crashes=row[13],
        max_retries=row[14],
        timeout=None if row[15] is None else row[15] / SECOND,
        created_at=to_datetime(row[16]),
        queued_at=to_datetime(row[16]),
        scheduled_at=to_datetime(row[17]),
        expires_at=_when(row[18]),
        started_at=_when(row[19] if is_running else row[20]),
        completed_at=_when(row[21]),
        node=row[22],
        worker_id=row[22] if is_running else row[23],
        cancel_requested_at=_when(row[27]),
        execution_ref=row[28],
        result_json=row[29],
        failure=_error(row[30]),
        metadata=msgspec.json.decode(row[31]) if row[31] else {},
        sequence=row[32],
        heartbeat_at=_when(row[33]),
        attempts=tuple(attempts),
    )


def history(row: tuple[Any, ...], rows: Iterable[tuple[Any, ...]]) -> tuple[Attempt, ...]:
    """Return the attempts of the job in *row*, the one included that left no row because it simply succeeded."""
    stored = tuple(_attempt(each) for each in rows)
    simply_succeeded = row[6] == Status.COMPLETED and row[11] == 1 and not stored
    if not simply_succeeded:
        return stored
    receipt = Receipt(row[20] or 0, row[21] or 0, row[23] or "", row[24] or 0, row[25], row[26])
    return (Attempt(attempt=1, fence=row[10], outcome="succeeded", receipt=receipt),)


def event(row: tuple[Any, ...]) -> StoredEvent:
    """Return the event in *row*."""
    return StoredEvent(
        job=row[0],
        attempt=row[1],
        type=row[2],
        at=row[3],
        level=row[4],
        message=row[5],
        data=row[6],
        position=row[7],
        sequence=row[8],
    )


def statistics(rows: Iterable[tuple[str, str, int]]) -> dict[str, QueueStatistics]:
    """Return the counts of each queue."""
    counts: dict[str, dict[str, int]] = {}
    for queue, status, count in rows:
        counts.setdefault(queue, {})[status] = count
    return {queue: QueueStatistics(**each) for queue, each in sorted(counts.items())}


def find(query: Query) -> tuple[str, tuple[Any, ...]]:
    """Return the statement for *query* and its parameters."""
    conditions: list[str] = []
    parameters: list[Any] = []
    if query.statuses:
        conditions.append(f"status IN ({', '.join('?' * len(query.statuses))})")
        parameters += query.statuses
    wanted = {"queue": query.queue, "task": query.task, "key": query.key}
    for column, value in wanted.items():
        if value is not None:
            conditions.append(f"{column} = ?")
            parameters.append(value)
    if query.id_ending is not None:
        conditions.append("id LIKE ?")
        parameters.append("%" + query.id_ending.replace("%", "").replace("_", ""))
    if query.before is not None:
        conditions.append("number < ?")
        parameters.append(query.before)
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    has_ended = bool(query.statuses) and set(query.statuses) <= TERMINAL
    order = "ended_at DESC, number DESC" if has_ended else "number DESC"
    return f"{_JOB}{where} ORDER BY {order} LIMIT ?", (*parameters, query.limit)


def _attempt(row: tuple[Any, ...]) -> Attempt:
    return Attempt(
        attempt=row[0],
        fence=row[1],
        outcome=row[2],
        receipt=Receipt(row[3], row[4], row[5], row[6], row[7], row[8]),
        error=_error(row[9]),
        stack=row[10],
        exit=row[11],
    )


def _error(text: str | None) -> ErrorReport | None:
    return None if text is None else msgspec.json.decode(text, type=ErrorReport)


def _when(at: int | None) -> Any:
    return None if at is None else to_datetime(at)
