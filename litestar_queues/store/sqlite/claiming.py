"""Claim jobs, after those that are due, overdue or cancelled have been moved to where they belong."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from litestar_queues.models import ClaimedJob, Status
from litestar_queues.store.base import Claims, Want
from litestar_queues.store.sqlite.writer import Transaction

PROMOTED_AT_ONCE = 1_000
"""Due, overdue or cancelled jobs moved in one claim: a million that fall due together must not hold
the lock for seconds."""

_CLAIMED = (
    "number, id, task, queue, priority, fence, payload, checksum, attempts, failures, crashes, losses, max_retries, "
    "backoff, timeout, kill_grace, run_at, created_at, unknown_since, backend, profile, cancel_requested_at"
)
# The statements of the hot path are constants, so that each is prepared once.
_DUE = "SELECT number, queue, status FROM lq_job WHERE status = 'scheduled' AND run_at <= ? ORDER BY run_at LIMIT ?"
_OVERDUE = (
    "SELECT number, queue, status FROM lq_job "
    "WHERE expires_at IS NOT NULL AND status IN ('scheduled', 'pending') AND expires_at <= ? LIMIT ?"
)
_CANCELLED = (
    "SELECT number, queue, status FROM lq_job "
    "WHERE cancel_requested_at IS NOT NULL AND status IN ('scheduled', 'pending') LIMIT ?"
)
_MOVE = "UPDATE lq_job SET status = ?, ended_at = ?, sequence = ? WHERE number IN (SELECT value FROM json_each(?))"
_NEXT_DUE = "SELECT min(run_at) FROM lq_job WHERE status = 'scheduled'"
_QUEUES = (
    "SELECT queue FROM lq_tally JOIN lq_queue ON lq_queue.name = lq_tally.queue "
    "WHERE lq_tally.status = 'pending' AND lq_tally.count > 0 AND NOT lq_queue.paused"
)
_HEAD = (
    "SELECT -priority, number FROM lq_job WHERE status = 'pending' AND queue = ? AND backend = ? "
    "ORDER BY priority DESC, number LIMIT ?"
)
_ONLY = "SELECT queue, backend, status FROM lq_job WHERE number = ? AND status IN ('scheduled', 'pending')"
_TAKE = (
    "UPDATE lq_job SET status = 'running', fence = fence + 1, node = ?, claimed_at = ?, sequence = ? "
    f"WHERE number IN (SELECT value FROM json_each(?)) RETURNING {_CLAIMED}"
)
_ADOPT = (
    "UPDATE lq_job SET fence = fence + 1, node = ?, sequence = ? "
    f"WHERE number IN (SELECT value FROM json_each(?)) RETURNING {_CLAIMED}"
)


def claim(transaction: Transaction, node: str, wants: Sequence[Want], now: int) -> Claims:
    """Claim what *wants* ask for; see ``JobStore.claim``."""
    _move(transaction, transaction.execute(_DUE, (now, PROMOTED_AT_ONCE)), Status.PENDING, None)
    _move(transaction, transaction.execute(_OVERDUE, (now, PROMOTED_AT_ONCE)), Status.EXPIRED, now)
    _move(transaction, transaction.execute(_CANCELLED, (PROMOTED_AT_ONCE,)), Status.CANCELLED, now)
    transaction.write_counts()
    jobs = tuple(_claim_one(transaction, node, want, now) for want in wants)
    # Pending jobs that were promoted here are claimed here, or their pools are full: ring nobody.
    [(next_due,)] = transaction.execute(_NEXT_DUE)
    return Claims(jobs, next_due)


def adopt(transaction: Transaction, node: str, dead: Sequence[str], living: Sequence[str]) -> list[ClaimedJob]:
    """Take over the jobs of *dead* and unknown nodes; see ``JobStore.adopt``."""
    rows = transaction.execute(
        "SELECT number FROM lq_job WHERE status = 'running' AND (node IN (SELECT value FROM json_each(?)) "
        "OR (node NOT IN (SELECT value FROM json_each(?)) AND node NOT IN (SELECT id FROM lq_node)))",
        (json.dumps(list(dead)), json.dumps([*living, node])),
    )
    if dead:
        transaction.execute(
            "DELETE FROM lq_node WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(list(dead)),)
        )
    if not rows:
        return []
    numbers = json.dumps([number for (number,) in rows])
    adopted = transaction.execute(_ADOPT, (node, transaction.stamp, numbers))
    return sorted((_job(row) for row in adopted), key=lambda job: job.number)


def _move(transaction: Transaction, rows: list[tuple[Any, ...]], status: Status, ended_at: int | None) -> None:
    if not rows:
        return
    numbers = [number for number, _, _ in rows]
    transaction.execute(_MOVE, (status, ended_at, transaction.stamp, json.dumps(numbers)))
    for _, queue, before in rows:
        transaction.move(queue, before, status)
    transaction.changed.update(numbers)


def _claim_one(transaction: Transaction, node: str, want: Want, now: int) -> tuple[ClaimedJob, ...]:
    if want.limit < 1:
        return ()
    numbers = _numbers(transaction, want)
    if not numbers:
        return ()
    rows = transaction.execute(_TAKE, (node, now, transaction.stamp, json.dumps(numbers)))
    transaction.changed.update(numbers)
    jobs = [_job(row) for row in rows]  # in no order: RETURNING keeps none
    for job in jobs:
        transaction.move(job.queue, Status.PENDING, Status.RUNNING)
    transaction.write_counts()  # the next want must see what is left
    return tuple(sorted(jobs, key=lambda job: (-job.priority, job.number)))


def _numbers(transaction: Transaction, want: Want) -> list[int]:
    """Return the numbers to claim: the best of the heads of all the queues together."""
    if want.only is not None:
        return _the_only(transaction, want, want.only)
    heads: list[tuple[int, int]] = []
    for queue in _queues(transaction, want):
        for backend in want.backends:
            heads += transaction.execute(_HEAD, (queue, backend, want.limit))
    return [number for _, number in sorted(heads)[: want.limit]]


def _queues(transaction: Transaction, want: Want) -> Iterable[str]:
    waiting = [queue for (queue,) in transaction.execute(_QUEUES)]
    if want.queues is not None:
        return [queue for queue in waiting if queue in want.queues]
    return [queue for queue in waiting if queue not in want.excluded]


def _the_only(transaction: Transaction, want: Want, number: int) -> list[int]:
    for queue, backend, status in transaction.execute(_ONLY, (number,)):
        if backend in want.backends:
            if status == Status.SCHEDULED:  # its time is ignored
                transaction.move(queue, Status.SCHEDULED, Status.PENDING)
            return [number]
    return []


def _job(row: tuple[Any, ...]) -> ClaimedJob:
    return ClaimedJob(
        number=row[0],
        id=UUID(row[1]),
        task=row[2],
        queue=row[3],
        priority=row[4],
        fence=row[5],
        payload=row[6],
        checksum=row[7],
        attempts=row[8],
        failures=row[9],
        crashes=row[10],
        losses=row[11],
        max_retries=row[12],
        backoff=row[13],
        timeout=row[14],
        kill_grace=row[15],
        run_at=row[16],
        created_at=row[17],
        unknown_since=row[18],
        backend=row[19],
        profile=row[20],
        cancel_requested=row[21] is not None,
    )
