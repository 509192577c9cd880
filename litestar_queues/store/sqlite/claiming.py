"""Claim jobs, after those that are due, overdue or cancelled have been moved to where they belong."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

import msgspec
from msgspec import structs

from litestar_queues.exceptions import StoreCorrupt
from litestar_queues.models import ClaimedJob, Status
from litestar_queues.store.base import Claims, Want
from litestar_queues.store.sqlite import texts
from litestar_queues.store.sqlite.transaction import Transaction, numbers_of

MOVED_AT_ONCE = 1_000
"""Due, overdue and cancelled jobs moved in one claim, each: a million that fall due together must
not hold the lock for seconds."""

BYTES_AT_ONCE = 1024 * 1024
"""Bytes of arguments that one want brings, but for its first job: 256 jobs of 100 KB held the lock to write for 0.7 s."""

# The statements of the hot path are constants, so that each is prepared once, and each brings one
# row of JSON: see ``transaction``.
_OUT_OF_PLACE = """
SELECT json_group_array(json_array(number, queue, status, becomes)) FROM (
    SELECT * FROM (SELECT number, queue, status, 'expired' AS becomes FROM lq_job
        WHERE expires_at IS NOT NULL AND status IN ('scheduled', 'pending') AND expires_at <= :now
        ORDER BY expires_at LIMIT :most)
    UNION ALL
    SELECT * FROM (SELECT number, queue, status, 'cancelled' FROM lq_job
        WHERE cancel_requested_at IS NOT NULL AND status IN ('scheduled', 'pending') LIMIT :most)
    UNION ALL
    SELECT * FROM (SELECT number, queue, status, 'pending' FROM lq_job
        WHERE status = 'scheduled' AND run_at <= :now ORDER BY run_at LIMIT :most)
)
"""
_MOVE = "UPDATE lq_job SET status = ?, ended_at = ?, sequence = ? WHERE number IN (SELECT value FROM json_each(?))"
_NEXT_DUE = "SELECT min(run_at) FROM lq_job WHERE status = 'scheduled'"
_QUEUES = (
    "SELECT json_group_array(queue) FROM lq_tally LEFT JOIN lq_queue ON lq_queue.name = lq_tally.queue "
    "WHERE lq_tally.status = 'pending' AND lq_tally.count > 0 AND coalesce(lq_queue.paused, 0) = 0"
)
_HEAD = (
    "SELECT json_group_array(json_array(-priority, number, expires_at, payload_bytes)) FROM ("
    "SELECT priority, number, expires_at, payload_bytes FROM lq_job WHERE status = 'pending' AND queue = ? AND backend = ? "
    "AND priority > ? ORDER BY priority DESC, number LIMIT ?)"
)
_LOWEST = -(1 << 63)
"""Less than any priority."""
_ONLY = (
    "SELECT queue, backend, status, expires_at, coalesce(paused, 0) FROM lq_job "
    "LEFT JOIN lq_queue ON lq_queue.name = lq_job.queue WHERE number = ? AND status IN ('scheduled', 'pending')"
)
_TAKE = (
    "UPDATE lq_job SET status = 'running', fence = fence + 1, node = ?, claimed_at = ?, sequence = ? "
    "WHERE number IN (SELECT value FROM json_each(?))"
)
_ORPHANS = """
SELECT json_group_array(number) FROM lq_job WHERE status = 'running' AND (
    node IN (SELECT value FROM json_each(:dead))
    OR (node NOT IN (SELECT value FROM json_each(:living)) AND node NOT IN (SELECT id FROM lq_node)))
"""
_ADOPT = "UPDATE lq_job SET fence = fence + 1, node = ?, sequence = ? WHERE number IN (SELECT value FROM json_each(?))"
_TRUTHS = {
    "cancel_requested": "cancel_requested_at IS NOT NULL",
    "allow_background": "allow_background",
    "suspect": "suspect",
}
"""Fields that are true or false, which SQLite knows as 1 and 0."""
_FIELDS = [f"'{name}', {name}" for name in ClaimedJob.__struct_fields__ if name not in _TRUTHS and name != "payload"]
_FIELDS += [f"'{name}', json(iif({test}, 'true', 'false'))" for name, test in _TRUTHS.items()]
_TAKEN, _ADOPTED = (
    f"SELECT json_group_array(json_object({', '.join(_FIELDS)}, 'payload', {payload})) "
    "FROM lq_job WHERE number IN (SELECT value FROM json_each(?))"
    for payload in ("payload", "''")
)
"""What ran is not run again by who adopts it, so its arguments stay where they are."""
_taken = msgspec.json.Decoder(list[ClaimedJob])


def claim(transaction: Transaction, node: str, wants: Sequence[Want], now: int, asked_at: int) -> Claims:
    """Claim what *wants* ask for; see ``JobStore.claim``. *now* was read at *asked_at* (monotonic, nanoseconds)."""
    has_more = _put_in_place(transaction, now)
    transaction.write_counts()
    waiting: list[str] = transaction.json(_QUEUES)
    claimed_at = transaction.wall_time(now, asked_at)
    jobs = tuple(_take(transaction, node, _choose(transaction, want, waiting, now), claimed_at) for want in wants)
    [(next_due,)] = transaction.rows(_NEXT_DUE)
    return Claims(jobs, now if has_more else next_due)


def adopt(transaction: Transaction, node: str, dead: Sequence[str], living: Sequence[str]) -> list[ClaimedJob]:
    """Take over the jobs of *dead* and unknown nodes; see ``JobStore.adopt``."""
    gone = json.dumps(list(dead))
    known = {"dead": gone, "living": json.dumps([*living, node])}
    numbers: list[int] = transaction.json(_ORPHANS, known)
    if dead:
        transaction.change("DELETE FROM lq_node WHERE id IN (SELECT value FROM json_each(?))", (gone,))
    if not numbers:
        return []
    transaction.change(_ADOPT, (node, transaction.stamp, numbers_of(numbers)))
    return sorted(_read(transaction, _ADOPTED, numbers), key=lambda job: job.number)


def _put_in_place(transaction: Transaction, now: int) -> bool:
    """Expire what is overdue, cancel what was to be cancelled, promote what is due; True if more is left."""
    moves: dict[int, tuple[str, str, str]] = {}
    found: list[tuple[int, str, str, str]] = transaction.json(_OUT_OF_PLACE, {"now": now, "most": MOVED_AT_ONCE})
    for number, queue, before, after in found:
        moves.setdefault(number, (queue, before, after))  # one that is due and overdue expires
    for status in (Status.EXPIRED, Status.CANCELLED, Status.PENDING):
        numbers = [number for number, (_, _, after) in moves.items() if after == status]
        if numbers:
            ended_at = None if status == Status.PENDING else now
            transaction.change(_MOVE, (status, ended_at, transaction.stamp, numbers_of(numbers)))
    for queue, before, after in moves.values():
        transaction.move(queue, before, after)
    transaction.changed.update(moves)
    return len(found) >= MOVED_AT_ONCE


def _choose(transaction: Transaction, want: Want, waiting: Sequence[str], now: int) -> list[int]:
    if want.limit < 1:
        return []
    return _heads(transaction, want, waiting, now) if want.only is None else _the_only(transaction, want, now)


def _take(transaction: Transaction, node: str, numbers: list[int], claimed_at: int) -> tuple[ClaimedJob, ...]:
    if not numbers:
        return ()
    transaction.change(_TAKE, (node, claimed_at, transaction.stamp, numbers_of(numbers)))
    transaction.changed.update(numbers)
    jobs = _read(transaction, _TAKEN, numbers)
    for job in jobs:
        transaction.move(job.queue, Status.PENDING, Status.RUNNING)
    return tuple(sorted(jobs, key=lambda job: (-job.priority, job.number)))


def _heads(transaction: Transaction, want: Want, waiting: Sequence[str], now: int) -> list[int]:
    """Return the numbers to claim: the best of the heads of all the queues together.

    One ``NOT IN`` over 500,000 rows of other queues takes 79 ms, merged heads 0.24 ms.
    """
    heads: list[tuple[int, int, int | None, int]] = []
    above = _LOWEST if want.above is None else want.above
    for queue in waiting:
        if _serves(want, queue):
            for backend in want.backends:
                heads += map(tuple, transaction.json(_HEAD, (queue, backend, above, want.limit)))
    best = sorted(heads, key=lambda head: head[:2])[: want.limit]
    numbers: list[int] = []
    room = BYTES_AT_ONCE
    for _, number, expires_at, size in best:
        if expires_at is not None and expires_at <= now:
            continue  # more may be overdue than one claim moves; the next expires them
        room -= size
        if room < 0 and numbers:
            break
        numbers.append(number)
    return numbers


def _the_only(transaction: Transaction, want: Want, now: int) -> list[int]:
    for queue, backend, status, expires_at, is_paused in transaction.rows(_ONLY, (want.only,)):
        is_overdue = expires_at is not None and expires_at <= now
        if backend in want.backends and _serves(want, queue) and not is_overdue and not is_paused:
            if status == Status.SCHEDULED:  # its time is ignored
                transaction.move(queue, Status.SCHEDULED, Status.PENDING)
            return [want.only] if want.only is not None else []
    return []


def _serves(want: Want, queue: str) -> bool:
    return queue not in want.excluded if want.queues is None else queue in want.queues


def _read(transaction: Transaction, sql: str, numbers: Sequence[int]) -> list[ClaimedJob]:
    try:
        [(text,)] = transaction.rows(sql, (numbers_of(numbers),))
        jobs = _decoded(text, numbers)
        large = [job.number for job in jobs if not job.payload] if sql == _TAKEN else []
        payloads = texts.payloads(transaction, large) if large else {}
    except sqlite3.DataError:  # with their arguments they are more than one text can be, which is 1 GB
        half = len(numbers) // 2
        if not half:
            raise
        return _read(transaction, sql, numbers[:half]) + _read(transaction, sql, numbers[half:])
    return [structs.replace(job, payload=payloads[job.number]) if job.number in payloads else job for job in jobs]


def _decoded(text: str, numbers: Sequence[int]) -> list[ClaimedJob]:
    try:
        return _taken.decode(text)
    except msgspec.DecodeError as error:
        msg = f"the row of one of the jobs {numbers_of(numbers)} is damaged ({error}); restore a backup, or delete it"
        raise StoreCorrupt(msg) from error
