"""Delete what ended long enough ago, a little at a time.

A walk along an index chooses what goes: those that ended first come first, and it stops where
deleting them would touch more than ``MOST`` rows and pages. That bound is what keeps a claim from
waiting long behind it, whatever the jobs are: 200 no-op jobs, or one that logged 10,000 lines.

Jobs that are kept longer than others of their status stay in the index that is walked. The caller
gets the place where a walk ended and gives it back, so that they are walked over once, not each time.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from litestar_queues.models import TERMINAL, Status
from litestar_queues.store.base import Place, Prunable, Pruned
from litestar_queues.store.sqlite import texts
from litestar_queues.store.sqlite.transaction import Row, Transaction, numbers_of

MOST = 200
"""Rows and pages of text in one transaction. On two busy cores a part of 200 no-op jobs takes 2.0 to 2.8 ms of CPU,
of 400 4.4, of 100 1.5 to 2.0; 200 pages of text take 2.0, 200 jobs of 2 KB each 4.6. Who claims meanwhile waits
for that, and 10 ms are allowed. One job with more than 200 events loses them part by part."""
_START = -(1 << 62)

# One statement and one row of JSON for a whole walk: see ``transaction``. Each step asks the index for
# the next one, so that the sum of what has been chosen can end it; a LIMIT would count jobs and not
# what they weigh.
_WALK = """
WITH RECURSIVE walk (number, at, queue, status, said, pages, keeps_key, is_spared, before) AS (
    SELECT :number, :at, NULL, NULL, -1, 0, 0, 0, 0
    UNION ALL
    SELECT job.number, {at}, job.queue, job.status, iif({spared}, 0, {said}), iif({spared}, 0, ({text}) / 4096),
        job.key_forever AND job.key IS NOT NULL, {spared}, before + 1 + walk.said + walk.pages
    FROM walk CROSS JOIN lq_job AS job ON job.number = ifnull(
        (SELECT number FROM lq_job WHERE {among} AND {at} = walk.at AND {at} <= :until AND number > walk.number
            ORDER BY number LIMIT 1),
        (SELECT number FROM lq_job WHERE {among} AND {at} > walk.at AND {at} <= :until ORDER BY {at}, number LIMIT 1))
    WHERE before + 1 + walk.said + walk.pages < :most
)
SELECT json_group_array(json_array(number, at, queue, status, said, pages, keeps_key, is_spared, before))
FROM walk WHERE queue IS NOT NULL
"""
_ENDED = "status IN ('completed', 'failed', 'cancelled', 'expired')"
_SAID = (
    "(SELECT count(*) FROM (SELECT 1 FROM lq_event WHERE job = job.number LIMIT :most)) + "
    "(SELECT count(*) FROM (SELECT 1 FROM lq_attempt WHERE job = job.number LIMIT :most))"
)
_RESULT = (
    "ifnull(length(job.result), 0) + ifnull((SELECT length(text) FROM lq_result WHERE lq_result.job = job.number), 0)"
)
_WEIGHT = f"max(job.payload_bytes, length(job.payload)) + {_RESULT} + ifnull(length(job.error), 0)"
_OTHER_STATUS = "job.status NOT IN (SELECT value FROM json_each(:statuses))"
_OF_STATUS = _WALK.format(
    at="ended_at", among=f"status = :status AND {_ENDED}", said=_SAID, text=_WEIGHT,
    spared=":spares_kept AND job.retention IS NOT NULL",
)  # fmt: skip
_KEPT = _WALK.format(
    at="ended_at + retention", among="retention IS NOT NULL AND ended_at IS NOT NULL", said=_SAID, text=_WEIGHT,
    spared=_OTHER_STATUS,
)  # fmt: skip
_RESULTS = _WALK.format(
    at="ended_at + result_retention",
    among="result_retention IS NOT NULL AND result IS NOT NULL AND ended_at IS NOT NULL",
    said="0", text=_RESULT, spared=_OTHER_STATUS,
)  # fmt: skip
_DROP_RESULTS = "UPDATE lq_job SET result = NULL, sequence = ? WHERE number IN (SELECT value FROM json_each(?))"
_DELETE = "DELETE FROM lq_job WHERE number IN (SELECT value FROM json_each(?))"
_KEEP_KEY = (
    "UPDATE lq_key SET status = lq_job.status FROM lq_job WHERE lq_job.number IN (SELECT value FROM json_each(?)) "
    "AND lq_key.key_scope = lq_job.key_scope AND lq_key.key = lq_job.key AND lq_key.number = lq_job.number"
)
_TRIM = (
    "DELETE FROM lq_event WHERE position IN (SELECT position FROM lq_event WHERE job = ? ORDER BY position LIMIT ?)",
    "DELETE FROM lq_attempt WHERE (job, fence) IN (SELECT job, fence FROM lq_attempt WHERE job = ? LIMIT ?)",
)

_OWN = "retention IS NOT NULL AND ended_at IS NOT NULL AND status = wanted.key"
PRUNABLE = f"""
SELECT wanted.key,
    (SELECT count(*) FROM lq_job WHERE status = wanted.key AND {_ENDED} AND ended_at <= wanted.value),
    (SELECT count(*) FROM lq_job WHERE {_OWN} AND ended_at <= wanted.value),
    (SELECT count(*) FROM lq_job WHERE {_OWN} AND ended_at <= wanted.value AND ended_at + retention > :now),
    (SELECT count(*) FROM lq_job WHERE {_OWN} AND ended_at + retention <= :now)
FROM json_each(:moments) AS wanted
"""
"""By status: those that ended until then; of them those with a retention of their own, and for how many of these
it is not over; and for how many it is over, whenever they ended. The first is counted in its index alone."""
PRUNABLE_RESULTS = (
    "SELECT count(*) FROM lq_job WHERE result_retention IS NOT NULL AND result IS NOT NULL AND ended_at IS NOT NULL "
    "AND ended_at + result_retention <= ?"
)


class _Step(NamedTuple):
    """A job that a walk came by, as ``_WALK`` selects it."""

    number: int
    at: int
    queue: str
    status: Status
    said: int
    """Rows that hang on it, as far as they were counted."""
    pages: int
    """Of its text."""
    keeps_key: bool
    is_spared: bool
    """It stays; only that it was looked at is counted."""
    before: int
    """What the walk had come to before it."""

    @property
    def total(self) -> int:
        """What the walk has come to with it."""
        return self.before + 1 + self.said + self.pages


def prune(
    transaction: Transaction,
    kept: Mapping[Status, int | None],
    now: int,
    after: Place | None,
    *,
    even_kept: bool,
) -> Pruned:
    """Delete some of what is over; see ``Administration.prune``."""
    return _Pruning(transaction, after or {}).run(kept, now, even_kept=even_kept)


def until(kept: Mapping[Status, int | None], now: int) -> dict[Status, int]:
    """Return, by status, the moment up to which a job must have ended to go; before all time where it is kept."""
    return {status: _START if period is None else now - period for status, period in kept.items() if status in TERMINAL}


def prunable(rows: list[Row], results: int, *, even_kept: bool) -> Prunable:
    """Return what the rows of ``PRUNABLE`` mean."""
    if even_kept:
        return Prunable({Status(row[0]): row[1] for row in rows if row[1]}, {}, results)
    going = {Status(status): old - own + over for status, old, own, _, over in rows if old - own + over}
    return Prunable(going, {Status(status): spared for status, _, _, spared, _ in rows if spared}, results)


class _Pruning:
    """One call of ``prune``: walk after walk, until the weight of one transaction is reached."""

    def __init__(self, transaction: Transaction, after: Place) -> None:
        self._transaction = transaction
        self._places = dict(after)
        self._left = MOST
        self._jobs: Counter[Status] = Counter()
        self._results = 0

    def run(self, kept: Mapping[Status, int | None], now: int, *, even_kept: bool) -> Pruned:
        moments = until(kept, now)
        known = {
            "statuses": json.dumps(list(moments)), "spares_kept": not even_kept, "until": now, "at": _START, "number": 0,
        }  # fmt: skip
        has_more = self._drop_results(known)
        if not has_more and not even_kept:
            steps, has_more = self._walk(_KEPT, known)
            self._delete(steps)
        for status, moment in moments.items():
            if not has_more and moment > _START:
                at, number = self._places.get(status, (_START, 0))
                steps, has_more = self._walk(
                    _OF_STATUS, known | {"status": status, "until": moment, "at": at, "number": number}
                )
                self._delete(steps)
                if steps:
                    self._places[status] = steps[-1].at, steps[-1].number
        took = self._transaction.elapsed()
        return Pruned(dict(self._jobs), self._results, self._places, has_more, took)

    def _walk(self, sql: str, known: Mapping[str, Any]) -> tuple[list[_Step], bool]:
        """Return the jobs that there is room for, and whether there is more to do.

        One that no transaction has room for is trimmed, and is not among them.
        """
        steps = [_Step(*step) for step in self._transaction.json(sql, {**known, "most": self._left})]
        if not steps or steps[-1].total < self._left:
            self._left -= steps[-1].total if steps else 0
            return steps, False
        last, is_alone = steps[-1], self._left == MOST and all(step.is_spared for step in steps[:-1])
        if last.said >= MOST and is_alone:
            self._trim(last.number)
        if last.total > self._left and (last.said >= MOST or not is_alone):
            steps.pop()
        return steps, True

    def _trim(self, number: int) -> None:
        """Delete some of what hangs on a job, events first."""
        for sql in _TRIM:
            if self._transaction.change(sql, (number, MOST)).rowcount:
                return

    def _delete(self, steps: Sequence[_Step]) -> None:
        going = [step for step in steps if not step.is_spared]
        if not going:
            return
        numbers = numbers_of(step.number for step in going)
        if any(step.keeps_key for step in going):
            self._transaction.change(_KEEP_KEY, (numbers,))
        # Attempts, events and texts go with their job, by the foreign keys: no slower than by statements of their own.
        self._transaction.change(_DELETE, (numbers,))
        for step in going:
            self._transaction.move(step.queue, step.status, None)
            self._jobs[Status(step.status)] += 1
        self._transaction.changed.update(step.number for step in going)

    def _drop_results(self, known: Mapping[str, Any]) -> bool:
        steps, has_more = self._walk(_RESULTS, known)
        going = [step.number for step in steps if not step.is_spared]
        if going:
            texts.drop(self._transaction, "result", going)
            self._transaction.change(_DROP_RESULTS, (self._transaction.stamp, numbers_of(going)))
            self._transaction.changed.update(going)
            self._results = len(going)
        return has_more
