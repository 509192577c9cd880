"""Add jobs: idempotent by id, one live job a key."""

from __future__ import annotations

import json
from collections.abc import Sequence
from operator import attrgetter
from uuid import UUID

from litestar_queues.models import LIVE, Added, NewJob, Status
from litestar_queues.payload import size_of
from litestar_queues.store.sqlite import texts
from litestar_queues.store.sqlite.transaction import ManyRows, Row, Transaction

_COLUMNS = tuple(name for name in NewJob.__struct_fields__ if name not in ("id", "payload", "on_duplicate"))
_values = attrgetter(*_COLUMNS)
# Without RETURNING, which brings the rows one step each: 15 µs a row of CPU instead of 40.
_INSERT = ManyRows(
    f"INSERT INTO lq_job ({', '.join(_COLUMNS)}, id, payload, payload_bytes, status, sequence) VALUES @rows "
    "ON CONFLICT DO NOTHING",
    len(_COLUMNS) + 5,
)
_BY_ID = "SELECT id, number, status FROM lq_job WHERE id IN (SELECT value FROM json_each(?))"
_BY_KEY = (
    "SELECT id, number, status, queue FROM lq_job WHERE key_scope = ? AND key = ? "
    "AND status IN ('scheduled', 'pending', 'running')"
)
_TOMBSTONES = (
    "SELECT lq_key.key_scope, lq_key.key, lq_key.id, lq_key.number, "
    "coalesce(lq_job.status, lq_key.status) "
    "FROM json_each(?) AS wanted CROSS JOIN lq_key ON lq_key.key_scope = json_extract(wanted.value, '$[0]') "
    "AND lq_key.key = json_extract(wanted.value, '$[1]') LEFT JOIN lq_job ON lq_job.number = lq_key.number"
)
_BURY = "INSERT OR REPLACE INTO lq_key (key_scope, key, number, id) VALUES (?, ?, ?, ?)"
_REPLACE = (
    "UPDATE lq_job SET payload = ?, payload_bytes = ?, checksum = ?, priority = ?, run_at = ?, expires_at = ?, "
    "status = ?, sequence = ? WHERE number = ? AND status IN ('scheduled', 'pending')"
)
_EXPIRE = (
    "UPDATE lq_job SET status = 'expired', ended_at = ?, sequence = ? "
    "WHERE number = ? AND status IN ('scheduled', 'pending') AND expires_at <= ?"
)


def add(transaction: Transaction, jobs: Sequence[NewJob]) -> list[Added]:
    """Add *jobs*, each for itself; see ``JobStore.add``. None of them may ask for ``raise``."""
    kept = _tombstones(transaction, jobs)
    if not kept:
        return _insert(transaction, jobs)
    entries = [kept.get((job.key_scope, job.key)) for job in jobs]
    added = iter(_insert(transaction, [job for job, entry in zip(jobs, entries, strict=True) if entry is None]))
    return [entry or next(added) for entry in entries]


def add_or_refuse(transaction: Transaction, jobs: Sequence[NewJob]) -> list[Added]:
    """Add *jobs*, or none of them if one must be refused because its key is held."""
    return _refusals(transaction, jobs) or add(transaction, jobs)


def _insert(transaction: Transaction, jobs: Sequence[NewJob]) -> list[Added]:
    stamp = transaction.stamp
    statuses = [_first_status(job) for job in jobs]
    rows = [
        (*_values(job), str(job.id), texts.inline(job.payload), size_of(job.payload), status, stamp)
        for job, status in zip(jobs, statuses, strict=True)
    ]
    added: list[Added] = []
    for piece, sql, values in _INSERT.pieces(rows):
        here, before = jobs[piece], transaction.highest
        cursor = transaction.change(sql, values)
        if cursor.rowcount:
            transaction.highest = cursor.lastrowid or before
        if cursor.rowcount == len(here):
            first = transaction.highest - len(here) + 1  # one statement numbers its rows without a gap
            new = [Added(job.id, first + at, statuses[piece][at]) for at, job in enumerate(here)]
            _welcome(transaction, here, new)
            added += new
        else:
            added += _sort_out(transaction, here, before)
    return added


def _welcome(transaction: Transaction, jobs: Sequence[NewJob], added: Sequence[Added]) -> None:
    """Count new jobs; keep their large texts, and the keys that they have for ever."""
    large: list[tuple[int, str]] = []
    for job, entry in zip(jobs, added, strict=True):
        transaction.move(job.queue, None, entry.status)
        if len(job.payload) > texts.LARGE:
            large.append((entry.number, job.payload))
        if job.key_forever and job.key is not None:
            transaction.change(_BURY, (job.key_scope, job.key, entry.number, str(job.id)))
    texts.keep(transaction, "payload", large)


def _sort_out(transaction: Transaction, jobs: Sequence[NewJob], before: int) -> list[Added]:
    """Say what became of *jobs*, where some were there already, or another holds their key.

    New ones have numbers above *before*.
    """
    stored = _by_id(transaction, jobs)
    new = {job.id: job for job in reversed(jobs) if job.id in stored and stored[job.id].number > before}
    _welcome(transaction, list(new.values()), [stored[id] for id in new])
    return [stored.get(job.id) or _give_way(transaction, job) for job in jobs]


def _give_way(transaction: Transaction, job: NewJob) -> Added:
    """Return the live job that holds the key of *job*, changed if *job* is to replace it."""
    holder = _holder(transaction, job)
    if holder is None:  # it was overdue
        return add(transaction, [job])[0]
    if job.on_duplicate != "replace":
        return holder
    status = _first_status(job)
    changes = (
        texts.inline(job.payload),
        size_of(job.payload),
        job.checksum,
        job.priority,
        job.run_at,
        job.expires_at,
        status,
    )
    values = (*changes, transaction.stamp, holder.number)
    if not transaction.change(_REPLACE, values).rowcount:
        return holder  # it runs: as reuse
    texts.drop(transaction, "payload", [holder.number])
    if len(job.payload) > texts.LARGE:
        texts.keep(transaction, "payload", [(holder.number, job.payload)])
    [(queue,)] = transaction.rows("SELECT queue FROM lq_job WHERE number = ?", (holder.number,))
    transaction.move(queue, holder.status, status)
    transaction.changed.add(holder.number)
    return Added(holder.id, holder.number, status, deduplicated=True)


def _refusals(transaction: Transaction, jobs: Sequence[NewJob]) -> list[Added]:
    """Return an entry for every job if one of them must be refused, else nothing.

    A job that is not refused itself has number 0 then: it was not added either.
    """
    stored = _by_id(transaction, jobs)
    live = {(job.key_scope, job.key): _holder(transaction, job) for job in jobs if job.key is not None}
    kept = _tombstones(transaction, jobs)  # after that: one that was overdue may keep its key for ever
    takers: dict[tuple[str, str], Added] = {}
    entries: list[Added] = []
    for job in jobs:
        entry = Added(job.id, 0, _first_status(job))
        if job.id in stored:
            entry = stored[job.id]  # it was added before: nothing to refuse
        elif job.key is not None:
            at = (job.key_scope, job.key)
            holder = kept.get(at) or live[at] or takers.get(at)
            takers.setdefault(at, entry)
            is_other = holder is not None and holder.id != job.id
            if holder is not None and is_other and job.on_duplicate == "raise":
                entry = Added(holder.id, holder.number, holder.status, refused=True)
        entries.append(entry)
    return entries if any(entry.refused for entry in entries) else []


def _by_id(transaction: Transaction, jobs: Sequence[NewJob]) -> dict[UUID, Added]:
    rows = transaction.rows(_BY_ID, (json.dumps([str(job.id) for job in jobs]),))
    return {entry.id: entry for entry in map(_entry, rows)}


def _holder(transaction: Transaction, job: NewJob) -> Added | None:
    """Return the live job that holds the key of *job*.

    One that is overdue will never start, and holds no key: it expires here, as it would in the next claim.
    """
    rows = transaction.rows(_BY_KEY, (job.key_scope, job.key))
    if not rows:
        return None
    holder, (queue,) = _entry(rows[0][:3], deduplicated=True), rows[0][3:]
    overdue = (job.created_at, transaction.stamp, holder.number, job.created_at)
    if not transaction.change(_EXPIRE, overdue).rowcount:
        return holder
    transaction.move(queue, holder.status, Status.EXPIRED)
    transaction.changed.add(holder.number)
    return None


def _tombstones(transaction: Transaction, jobs: Sequence[NewJob]) -> dict[tuple[str, str | None], Added]:
    """Return, by key, the entries of jobs that have ended and keep it.

    Live ones are found by their index, and may be replaced.
    """
    wanted = [(job.key_scope, job.key) for job in jobs if job.key is not None]
    if not wanted:
        return {}
    own = {job.id for job in jobs}
    kept: dict[tuple[str, str | None], Added] = {}
    for key_scope, key, id, number, status in transaction.rows(_TOMBSTONES, (json.dumps(wanted),)):
        if status is None or status not in LIVE:  # also where its job has been pruned
            is_same = UUID(id) in own
            kept[key_scope, key] = Added(UUID(id), number, Status(status or "completed"), deduplicated=not is_same)
    return kept


def _entry(row: Row, *, deduplicated: bool = False) -> Added:
    id, number, status = row
    return Added(UUID(id), number, Status(status), deduplicated)


def _first_status(job: NewJob) -> Status:
    return Status.SCHEDULED if job.run_at > job.created_at else Status.PENDING
