"""Write what became of claimed jobs, fenced; cancel jobs; keep what jobs said."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from litestar_queues.lifecycle import Settlement
from litestar_queues.models import TERMINAL, Attempt, ErrorReport, Receipt, Status, StoredEvent
from litestar_queues.store.base import Verdict
from litestar_queues.store.sqlite.writer import Transaction

_SETTLE = """
UPDATE lq_job SET status = ?, run_at = ?, attempts = ?, failures = ?, crashes = ?, losses = ?, unknown_since = ?,
    result = ?, error = ?, ended_at = ?, node = NULL, sequence = ?,
    started_at = coalesce(?, started_at), worker = coalesce(?, worker), pid = coalesce(?, pid), cpu = ?, rss = ?
WHERE number = ? AND fence = ? AND status = 'running' AND (? OR cancel_requested_at IS NULL)
"""
_IS_OURS = "SELECT 1 FROM lq_job WHERE number = ? AND fence = ? AND status = 'running'"
_ATTEMPT = (
    "INSERT INTO lq_attempt (job, fence, attempt, outcome, started_at, ended_at, worker, pid, cpu, rss, error, stack, "
    "exit, sequence) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_EVENT = (
    "INSERT INTO lq_event (job, attempt, type, at, level, message, data, sequence) "
    "SELECT ?, ?, ?, ?, ?, ?, ?, ? WHERE EXISTS (SELECT 1 FROM lq_job WHERE number = ?)"
)
_NOTHING = Receipt(0, 0)


def settle(transaction: Transaction, settlements: Sequence[Settlement]) -> list[Verdict]:
    """Write *settlements*; see ``JobStore.settle``."""
    return [_settle_one(transaction, settlement) for settlement in settlements]


def record(transaction: Transaction, events: Sequence[StoredEvent]) -> None:
    """Keep *events*, in this order."""
    stamp = transaction.stamp
    for event in events:
        transaction.execute(
            _EVENT,
            (
                event.job, event.attempt, event.type, event.at, event.level, event.message, event.data, stamp, event.job,
            ),
        )  # fmt: skip
        transaction.changed.add(event.job)


def cancel(transaction: Transaction, numbers: Sequence[int], now: int, *, running: bool) -> list[Status | None]:
    """Cancel jobs that have not started, and mark those that run; see ``Administration.cancel``."""
    return [_cancel_one(transaction, number, now, running=running) for number in numbers]


def _settle_one(transaction: Transaction, settlement: Settlement) -> Verdict:
    s = settlement
    receipt = s.receipt
    is_terminal = s.status in TERMINAL
    cost = receipt or _NOTHING
    changed = transaction.change(
        _SETTLE,
        (
            s.status, s.run_at, s.attempts, s.failures, s.crashes, s.losses, s.unknown_since,
            s.result, _json(s.error), s.settled_at if is_terminal else None, transaction.stamp,
            receipt and cost.started_at, receipt and cost.worker, receipt and cost.pid, cost.cpu, cost.rss,
            s.number, s.fence, is_terminal,
        ),
    )  # fmt: skip
    if not changed:
        is_ours = transaction.execute(_IS_OURS, (s.number, s.fence))
        return Verdict.CANCEL_REQUESTED if is_ours else Verdict.STALE
    if s.attempt is not None:
        _add_attempt(transaction, s.number, s.attempt)
    transaction.move(s.queue, Status.RUNNING, s.status)
    transaction.changed.add(s.number)
    return Verdict.SETTLED


def _add_attempt(transaction: Transaction, number: int, attempt: Attempt) -> None:
    receipt = attempt.receipt or _NOTHING
    transaction.execute(
        _ATTEMPT,
        (
            number, attempt.fence, attempt.attempt, attempt.outcome, receipt.started_at, receipt.ended_at,
            receipt.worker, receipt.pid, receipt.cpu, receipt.rss, _json(attempt.error), attempt.stack, attempt.exit,
            transaction.stamp,
        ),
    )  # fmt: skip


def _cancel_one(transaction: Transaction, number: int, now: int, *, running: bool) -> Status | None:
    rows = transaction.execute("SELECT queue, status FROM lq_job WHERE number = ?", (number,))
    if not rows:
        return None
    queue, status = rows[0][0], Status(rows[0][1])
    if status in (Status.SCHEDULED, Status.PENDING):
        transaction.execute(
            "UPDATE lq_job SET status = 'cancelled', cancel_requested_at = ?, ended_at = ?, sequence = ? WHERE number = ?",
            (now, now, transaction.stamp, number),
        )
        transaction.move(queue, status, Status.CANCELLED)
    elif status == Status.RUNNING and running:
        transaction.execute(
            "UPDATE lq_job SET cancel_requested_at = coalesce(cancel_requested_at, ?), sequence = ? WHERE number = ?",
            (now, transaction.stamp, number),
        )
        transaction.gives_work = True
    else:
        return status
    transaction.changed.add(number)
    return status


def _json(error: ErrorReport | None) -> str | None:
    return None if error is None else msgspec.json.encode(error).decode()
