"""Rows as they are read: SQL for the reader's connection, and the way from rows to structs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
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
from litestar_queues.nodes import Catalogue, PoolEntry, TaskEntry
from litestar_queues.store.sqlite import texts
from litestar_queues.store.sqlite.transaction import Row

_JOB = (
    f"SELECT number, id, task, queue, backend, profile, status, priority, {texts.PAYLOAD}, key, fence, attempts, "
    "failures, crashes, max_retries, timeout, created_at, run_at, expires_at, claimed_at, started_at, ended_at, node, worker, "
    f"pid, cpu, rss, cancel_requested_at, execution_ref, {texts.RESULT}, error, metadata, sequence, "
    "(SELECT beat_at FROM lq_node WHERE lq_node.id = lq_job.node)"
)
# One statement, so that a job and its attempts are of one moment.
_HISTORY = (
    "(SELECT json_group_array(json_array(attempt, fence, outcome, started_at, ended_at, worker, pid, cpu, rss, error, "
    "stack, exit)) FROM (SELECT * FROM lq_attempt WHERE job = lq_job.number ORDER BY fence))"
)
EVENTS = (
    "SELECT job, attempt, type, at, level, message, data, position, sequence FROM lq_event "
    "WHERE job = ? AND position > ? ORDER BY position LIMIT ?"
)
CHANGED = (
    "SELECT number, status, sequence, cancel_requested_at IS NOT NULL FROM lq_job "
    "WHERE number IN (SELECT value FROM json_each(?)) AND sequence > ?"
)
STATISTICS = (
    "SELECT queue, status, count FROM lq_tally UNION ALL SELECT name, 'pending', 0 FROM lq_queue "
    "WHERE name NOT IN (SELECT queue FROM lq_tally)"
)
# The index of what is pending is by queue, backend and priority: a few seeks for each of those find
# the lowest number, where a plain min(number) would walk all that wait.
OLDEST_WAITING = """
WITH RECURSIVE
place (queue, backend) AS (
    SELECT queue, (SELECT min(backend) FROM lq_job WHERE status = 'pending' AND queue = lq_tally.queue)
    FROM lq_tally WHERE status = 'pending' AND count > 0
    UNION ALL
    SELECT queue, (SELECT min(backend) FROM lq_job WHERE status = 'pending' AND queue = place.queue
        AND backend > place.backend)
    FROM place WHERE backend IS NOT NULL
),
rank (queue, backend, priority) AS (
    SELECT queue, backend, (SELECT max(priority) FROM lq_job WHERE status = 'pending' AND queue = place.queue
        AND backend = place.backend)
    FROM place WHERE backend IS NOT NULL
    UNION ALL
    SELECT queue, backend, (SELECT max(priority) FROM lq_job WHERE status = 'pending' AND queue = rank.queue
        AND backend = rank.backend AND priority < rank.priority)
    FROM rank WHERE priority IS NOT NULL
),
head (queue, number) AS (
    SELECT queue, min((SELECT number FROM lq_job WHERE status = 'pending' AND queue = rank.queue
        AND backend = rank.backend AND priority = rank.priority ORDER BY number LIMIT 1))
    FROM rank WHERE priority IS NOT NULL GROUP BY queue
)
SELECT head.queue, lq_job.run_at FROM head CROSS JOIN lq_job ON lq_job.number = head.number
"""
NODES = "SELECT row FROM lq_node ORDER BY id"
_DAMAGED = "damaged"
"""Says of what is shown as it stands that it is not what was stored."""
_ENDED = "('completed', 'failed', 'cancelled', 'expired')"
_WILD = re.compile("[%_!]")
CATALOGUE = "SELECT kind, entry FROM lq_catalogue ORDER BY kind, name"


def jobs(references: Sequence[UUID | int], *, attempts: bool) -> tuple[str, tuple[str, str]]:
    """Return the statement for *references* and its parameters; the last column is their history."""
    numbers = json.dumps([reference for reference in references if isinstance(reference, int)])
    ids = json.dumps([str(reference) for reference in references if isinstance(reference, UUID)])
    sql = (
        f"{_JOB}, {_HISTORY if attempts else 'NULL'} FROM lq_job WHERE number IN (SELECT value FROM json_each(?) "
        "UNION ALL SELECT number FROM lq_job WHERE id IN (SELECT value FROM json_each(?)))"
    )
    return sql, (numbers, ids)


def record(row: Row) -> QueuedTaskRecord:
    """Return the job in *row* of ``jobs`` or ``find``."""
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
        metadata=_metadata(row[31]),
        sequence=row[32],
        heartbeat_at=_when(row[33]),
        attempts=() if row[34] is None else _history(row),
    )


def _history(row: Row) -> tuple[Attempt, ...]:
    """Return the attempts of the job in *row*, the one included that left no row because it simply succeeded."""
    stored = tuple(_attempt(each) for each in msgspec.json.decode(row[34]))
    simply_succeeded = row[6] == Status.COMPLETED and row[11] == 1 and not stored
    if not simply_succeeded:
        return stored
    receipt = Receipt(row[20] or 0, row[21] or 0, row[23] or "", row[24] or 0, row[25], row[26])
    return (Attempt(attempt=1, fence=row[10], outcome="succeeded", receipt=receipt),)


def event(row: Row) -> StoredEvent:
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


def statistics(rows: Iterable[Row]) -> dict[str, QueueStatistics]:
    """Return the counts of each queue."""
    counts: dict[str, dict[str, int]] = {}
    for queue, status, count in rows:
        counts.setdefault(queue, {})[status] = count
    return {queue: QueueStatistics(**each) for queue, each in sorted(counts.items())}


def catalogue(rows: Iterable[Row]) -> Catalogue:
    """Return what the rows of ``CATALOGUE`` tell together."""
    entries: dict[str, list[str]] = {"task": [], "pool": [], "app": []}
    for kind, entry in rows:
        entries[kind].append(entry)
    rest = msgspec.json.decode(entries["app"][0], type=Catalogue) if entries["app"] else Catalogue()
    return msgspec.structs.replace(
        rest,
        tasks=tuple(msgspec.json.decode(entry, type=TaskEntry) for entry in entries["task"]),
        pools=tuple(msgspec.json.decode(entry, type=PoolEntry) for entry in entries["pool"]),
    )


def find(query: Query) -> tuple[str, tuple[Any, ...]]:
    """Return the statement for *query* and its parameters.

    The numbers are chosen from indexes first; only those that are shown are read as rows.
    """
    condition, parameters = _condition(query)
    has_ended = bool(query.statuses) and set(query.statuses) <= TERMINAL
    order = "ended_at DESC, number DESC" if has_ended else "number DESC"
    # Each status for itself: its index gives the newest of it at once, where the newest of several
    # statuses together would be a sort of all of them.
    branches = [f"{_is(status)} AND {condition}" for status in sorted(set(query.statuses))] or [condition]
    chosen = " UNION ALL ".join(
        f"SELECT * FROM (SELECT number FROM lq_job WHERE {branch} ORDER BY {order} LIMIT ?)" for branch in branches
    )
    sql = f"{_JOB}, NULL FROM lq_job WHERE number IN ({chosen}) ORDER BY {order} LIMIT ?"
    return sql, ((*parameters, query.limit) * len(branches) + (query.limit,))


def _is(status: Status) -> str:
    # SQLite uses a partial index only where it finds the index's own condition in the statement.
    return f"status = '{status}'" + (f" AND status IN {_ENDED}" if status in TERMINAL else "")


def _condition(query: Query) -> tuple[str, tuple[Any, ...]]:
    conditions = {
        "queue = ?": query.queue,
        "task = ?": query.task,
        "key = ?": query.key,
        "number < ?": query.before,
        "id LIKE ? ESCAPE '!'": None if query.id_ending is None else "%" + _WILD.sub(r"!\g<0>", query.id_ending),
    }
    given = {condition: value for condition, value in conditions.items() if value is not None}
    return " AND ".join(given) or "true", tuple(given.values())


def _attempt(row: Sequence[Any]) -> Attempt:
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
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=ErrorReport)
    except msgspec.DecodeError:  # one damaged row must not hide the others
        return ErrorReport(_DAMAGED, text)


def _metadata(text: str | None) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any]) if text else {}
    except msgspec.DecodeError:
        return {_DAMAGED: text}


def _when(at: int | None) -> datetime | None:
    return None if at is None else to_datetime(at)
