"""Write what became of claimed jobs, fenced; cancel jobs; keep what jobs said."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from litestar_queues.lifecycle import Settlement
from litestar_queues.models import TERMINAL, Attempt, ErrorReport, Receipt, Status, StoredEvent
from litestar_queues.store.base import Verdict
from litestar_queues.store.sqlite import texts
from litestar_queues.store.sqlite.adding import add
from litestar_queues.store.sqlite.transaction import ManyRows, Row, Transaction, numbers_of

_RUNNING = (
    "SELECT json_group_array(json_array(number, fence, cancel_requested_at IS NOT NULL)) FROM lq_job "
    "WHERE status = 'running' AND number IN (SELECT value FROM json_each(?))"
)
# The order of the values is that of ``_settled``. A job that lives on keeps its last error.
_SETTLE = ManyRows(
    """
UPDATE lq_job SET status = new.column3, run_at = new.column4, attempts = new.column5, failures = new.column6,
    crashes = new.column7, losses = new.column8, unknown_since = new.column9, result = new.column10,
    error = iif(new.column12 IS NULL, coalesce(new.column11, error), new.column11), ended_at = new.column12,
    sequence = new.column13, node = NULL,
    started_at = coalesce(new.column14, started_at), worker = coalesce(new.column15, worker),
    pid = coalesce(new.column16, pid), cpu = new.column17, rss = new.column18, suspect = new.column19
FROM (VALUES @rows) AS new WHERE number = new.column1 AND fence = new.column2 AND status = 'running'
""",
    19,
    padded=True,
)
_ATTEMPT = ManyRows(
    "INSERT INTO lq_attempt (job, fence, attempt, outcome, started_at, ended_at, worker, pid, cpu, rss, error, stack, "
    "exit, sequence) SELECT * FROM (VALUES @rows) WHERE column1 IS NOT NULL",
    14,
    padded=True,
)
_EVENT = ManyRows(
    "INSERT INTO lq_event (job, attempt, type, at, level, message, data, sequence) SELECT * FROM (VALUES @rows) "
    "WHERE EXISTS (SELECT 1 FROM lq_job WHERE number = column1)",
    8,
    padded=True,
)
_STANDING = (
    "SELECT json_group_array(json_array(number, queue, status)) FROM lq_job "
    "WHERE number IN (SELECT value FROM json_each(?))"
)
_CANCEL = (
    "UPDATE lq_job SET status = 'cancelled', cancel_requested_at = coalesce(cancel_requested_at, ?), ended_at = ?, "
    "sequence = ? WHERE number IN (SELECT value FROM json_each(?)) AND status IN ('scheduled', 'pending')"
)
_ASK = (
    "UPDATE lq_job SET cancel_requested_at = ?, sequence = ? WHERE number IN (SELECT value FROM json_each(?)) "
    "AND status = 'running' AND cancel_requested_at IS NULL"
)
_UNMEASURED = Receipt(0, 0)
_encode = msgspec.json.Encoder().encode


def settle(transaction: Transaction, settlements: Sequence[Settlement]) -> list[Verdict]:
    """Write *settlements*, each for itself; see ``JobStore.settle``."""
    asked = {number: (fence, bool(cancel)) for number, fence, cancel in _running(transaction, settlements)}
    verdicts: list[Verdict] = []
    accepted: list[Settlement] = []
    for settlement in settlements:
        fence, is_cancelled = asked.get(settlement.number, (None, False))
        if fence != settlement.fence:
            verdicts.append(Verdict.STALE)
        elif is_cancelled and settlement.status not in TERMINAL:
            verdicts.append(Verdict.CANCEL_REQUESTED)
        else:
            del asked[settlement.number]  # the first wins, also within the batch
            verdicts.append(Verdict.SETTLED)
            accepted.append(settlement)
    _write(transaction, accepted)
    successors = [job for settlement in accepted for job in settlement.successors]
    if successors:
        add(transaction, successors)
    return verdicts


def record(transaction: Transaction, events: Sequence[StoredEvent]) -> list[None]:
    """Keep *events*, in this order."""
    if events:
        stamp = transaction.stamp
        _EVENT.run(transaction, [(e.job, e.attempt, e.type, e.at, e.level, e.message, e.data, stamp) for e in events])
        transaction.changed.update(event.job for event in events)
    return [None] * len(events)


def cancel(transaction: Transaction, numbers: Sequence[int], now: int, *, running: bool) -> list[Status | None]:
    """Cancel jobs that have not started, and mark those that run; see ``Administration.cancel``."""
    found: list[tuple[int, str, str]] = transaction.json(_STANDING, (numbers_of(numbers),))
    waiting = [number for number, _, status in found if status in (Status.SCHEDULED, Status.PENDING)]
    if waiting:
        transaction.change(_CANCEL, (now, now, transaction.stamp, numbers_of(waiting)))
        for _, queue, status in found:
            if status in (Status.SCHEDULED, Status.PENDING):
                transaction.move(queue, status, Status.CANCELLED)
    started = [number for number, _, status in found if running and status == Status.RUNNING]
    if started:
        transaction.change(_ASK, (now, transaction.stamp, numbers_of(started)))
        transaction.asks_masters = True
    transaction.changed.update(waiting, started)
    standing = {number: Status(status) for number, _, status in found}
    return [standing.get(number) for number in numbers]


def _running(transaction: Transaction, settlements: Sequence[Settlement]) -> list[tuple[int, int, int]]:
    numbers = numbers_of(settlement.number for settlement in settlements)
    found: list[tuple[int, int, int]] = transaction.json(_RUNNING, (numbers,))
    return found


def _write(transaction: Transaction, settlements: Sequence[Settlement]) -> None:
    if not settlements:
        return
    stamp = transaction.stamp
    _SETTLE.run(transaction, [_settled(settlement, stamp) for settlement in settlements])
    large = [(each.number, each.result) for each in settlements if each.result and len(each.result) > texts.LARGE]
    texts.keep(transaction, "result", large)
    attempts = [_started(each.number, each.attempt, stamp) for each in settlements if each.attempt is not None]
    _ATTEMPT.run(transaction, attempts)
    for settlement in settlements:
        transaction.move(settlement.queue, Status.RUNNING, settlement.status)
        transaction.changed.add(settlement.number)


def _settled(settlement: Settlement, stamp: int) -> Row:
    s, receipt = settlement, settlement.receipt
    start: Row = (None,) * 5
    if receipt is not None:
        start = (receipt.started_at, receipt.worker, receipt.pid, receipt.cpu, receipt.rss)
    return (
        s.number, s.fence, s.status, s.run_at, s.attempts, s.failures, s.crashes, s.losses, s.unknown_since,
        s.result and texts.inline(s.result), _json(s.error), s.ended_at, stamp, *start, s.suspect,
    )  # fmt: skip


def _started(number: int, attempt: Attempt, stamp: int) -> Row:
    receipt = attempt.receipt or _UNMEASURED
    return (
        number, attempt.fence, attempt.attempt, attempt.outcome, receipt.started_at, receipt.ended_at, receipt.worker,
        receipt.pid, receipt.cpu, receipt.rss, _json(attempt.error), attempt.stack, attempt.exit, stamp,
    )  # fmt: skip


def _json(error: ErrorReport | None) -> str | None:
    return None if error is None else _encode(error).decode()
