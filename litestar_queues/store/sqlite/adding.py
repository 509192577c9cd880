"""Add jobs: idempotent by id, one live job a key."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from litestar_queues.models import LIVE, Added, NewJob, Status
from litestar_queues.store.sqlite.writer import Transaction

_COLUMNS = tuple(name for name in NewJob.__struct_fields__ if name != "on_duplicate")
_INSERT = (
    f"INSERT INTO lq_job ({', '.join(_COLUMNS)}, status, sequence) "
    f"VALUES ({', '.join('?' * (len(_COLUMNS) + 2))}) ON CONFLICT DO NOTHING RETURNING number"
)
_BY_ID = "SELECT number, status FROM lq_job WHERE id = ?"
_BY_KEY = (
    "SELECT number, id, status FROM lq_job WHERE key_scope = ? AND key = ? "
    "AND status IN ('scheduled', 'pending', 'running')"
)
_BY_TOMBSTONE = (
    "SELECT lq_job.number, lq_job.id, lq_job.status FROM lq_key JOIN lq_job USING (number) "
    "WHERE lq_key.key_scope = ? AND lq_key.key = ?"
)
_REPLACE = (
    "UPDATE lq_job SET payload = ?, checksum = ?, priority = ?, run_at = ?, status = ?, sequence = ? "
    "WHERE number = ? AND status IN ('scheduled', 'pending')"
)


def add(transaction: Transaction, jobs: Sequence[NewJob]) -> list[Added]:
    """Add *jobs*, all or none; see ``JobStore.add``."""
    is_strict = any(job.on_duplicate == "raise" for job in jobs)
    if is_strict and len(jobs) >= 1:
        refused = _refusals(transaction, jobs)
        if refused:
            return refused
    for queue in {job.queue for job in jobs}:
        transaction.execute("INSERT OR IGNORE INTO lq_queue (name) VALUES (?)", (queue,))
    return [_add_one(transaction, job) for job in jobs]


def _refusals(transaction: Transaction, jobs: Sequence[NewJob]) -> list[Added]:
    """Return an entry for every job if one of them must be refused, else nothing."""
    entries: list[Added] = []
    taken: set[tuple[str, str]] = set()
    is_refused = False
    for job in jobs:
        holder = _holder(transaction, job)
        claims_twice = job.key is not None and (job.key_scope, job.key) in taken
        if job.key is not None:
            taken.add((job.key_scope, job.key))
        refuses = job.on_duplicate == "raise" and (claims_twice or (holder is not None and holder.id != job.id))
        is_refused = is_refused or refuses
        number = holder.number if holder is not None else 0
        entries.append(Added(job.id, number, _first_status(job), deduplicated=False, refused=refuses))
    return entries if is_refused else []


def _add_one(transaction: Transaction, job: NewJob) -> Added:
    tombstone = _tombstone(transaction, job)
    if tombstone is not None:
        return tombstone
    status = _first_status(job)
    values = tuple(str(job.id) if name == "id" else getattr(job, name) for name in _COLUMNS)
    rows = transaction.execute(_INSERT, (*values, status, transaction.stamp))
    if not rows:
        return _existing(transaction, job)
    number = rows[0][0]
    if job.key is not None and job.key_forever:
        transaction.execute(
            "INSERT OR REPLACE INTO lq_key (key_scope, key, number) VALUES (?, ?, ?)", (job.key_scope, job.key, number)
        )
    transaction.move(job.queue, None, status)
    return Added(job.id, number, status)


def _existing(transaction: Transaction, job: NewJob) -> Added:
    """Return the job that is in the way: the same one, added before, or the holder of the key."""
    same = transaction.execute(_BY_ID, (str(job.id),))
    if same:
        return Added(job.id, same[0][0], Status(same[0][1]))
    holder = _holder(transaction, job)
    assert holder is not None, "only an id or a live key can be in the way of an insert"
    if job.on_duplicate == "replace":
        return _replace(transaction, job, holder)
    return holder


def _replace(transaction: Transaction, job: NewJob, holder: Added) -> Added:
    status = _first_status(job)
    values = (job.payload, job.checksum, job.priority, job.run_at, status, transaction.stamp, holder.number)
    if not transaction.change(_REPLACE, values):
        return holder  # it runs: as reuse
    [(queue,)] = transaction.execute("SELECT queue FROM lq_job WHERE number = ?", (holder.number,))
    transaction.move(queue, holder.status, status)
    transaction.changed.add(holder.number)
    return Added(holder.id, holder.number, status, deduplicated=True)


def _holder(transaction: Transaction, job: NewJob) -> Added | None:
    """Return the job that holds the key of *job*: a live one, or one that keeps it for ever."""
    if job.key is None:
        return None
    rows = transaction.execute(_BY_KEY, (job.key_scope, job.key))
    if rows:
        number, id, status = rows[0]
        return Added(UUID(id), number, Status(status), deduplicated=True)
    return _tombstone(transaction, job)


def _tombstone(transaction: Transaction, job: NewJob) -> Added | None:
    if job.key is None:
        return None
    rows = transaction.execute(_BY_TOMBSTONE, (job.key_scope, job.key))
    if not rows or rows[0][1] == str(job.id) or rows[0][2] in LIVE:
        return None  # a live holder is found by its index, and may be replaced
    number, id, status = rows[0]
    return Added(UUID(id), number, Status(status), deduplicated=True)


def _first_status(job: NewJob) -> Status:
    return Status.SCHEDULED if job.run_at > job.created_at else Status.PENDING
