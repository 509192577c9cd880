"""One group's transaction, as the functions that run in it see it: the stamp, the counts, whom to ring.

Statements here do much at once and bring little back, because ``sqlite3`` lets go of the GIL at
every step and takes it again afterwards, and where another thread of the process is busy that
waits up to the switch interval (5 ms). Beside a busy thread, claiming 64 jobs as 64 rows took
15 ms a job, as one row of JSON 0.2 ms; settling row by row 10 ms, in one statement 0.2 ms.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from litestar_queues.models import Status
from litestar_queues.store.sqlite.connection import is_no_text, text_of

Row = tuple[Any, ...]
Parameters = Sequence[Any] | Mapping[str, Any]

_STAMP = (
    "UPDATE lq_sequence SET value = value + 1 WHERE only = 1 "
    "RETURNING value, (SELECT seq FROM sqlite_sequence WHERE name = 'lq_job')"
)
_COUNT = (
    "INSERT INTO lq_tally (queue, status, count) "
    "SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]') "
    "FROM json_each(?) WHERE true ON CONFLICT (queue, status) DO UPDATE SET count = count + excluded.count"
)
_SIZES = (64, 32, 16, 8, 4, 2, 1)


class Transaction:
    """What the functions of one group share."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._began_at = time.monotonic_ns()
        self._stamp: int | None = None
        self._counts: Counter[tuple[str, str]] = Counter()
        self._highest = 0
        self.changed: set[int] = set()
        """Jobs whose watchers are rung after the commit."""
        self.gives_work = False
        """Masters are rung: there is something to claim."""
        self.asks_masters = False
        """Masters are rung after the commit: there is something to read."""

    @property
    def stamp(self) -> int:
        """The number of this transaction in the store's one sequence.

        Taken when first needed, so that a claim which finds nothing writes nothing.
        """
        if self._stamp is None:
            [(self._stamp, highest)] = self.rows(_STAMP)
            self._highest = highest or 0
        return self._stamp

    @property
    def has_written(self) -> bool:
        """True once there is something to commit."""
        return self._stamp is not None

    @property
    def highest(self) -> int:
        """The highest job number given so far; read with the stamp."""
        return self._highest

    @highest.setter
    def highest(self, number: int) -> None:
        self._highest = number

    def wall_time(self, now: int, asked_at: int) -> int:
        """Return when this transaction began, for a caller to whom it was *now* at *asked_at* (monotonic).

        Dated by *now* itself, the claims of two masters of which one had waited longer for its turn stood in
        the wrong order: by more than 0.1 s once in 205,808 jobs of a soak on a busy machine.
        """
        return now + (self._began_at - asked_at) // 1_000

    def elapsed(self) -> int:
        """Return how many microseconds ago it began."""
        return (time.monotonic_ns() - self._began_at) // 1_000

    def rows(self, sql: str, parameters: Parameters = ()) -> list[Row]:
        """Run one statement and fetch all of it: an open cursor would keep the commit from happening.

        One that writes may bring numbers back, but no text: where that is damaged it runs again.
        """
        try:
            return self._connection.execute(sql, parameters).fetchall()
        except sqlite3.OperationalError as error:
            if not is_no_text(error):
                raise
            self._connection.text_factory = text_of
            return self._connection.execute(sql, parameters).fetchall()

    def json(self, sql: str, parameters: Parameters = ()) -> Any:
        """Run a statement that selects one JSON text, and return what is in it."""
        [(text,)] = self.rows(sql, parameters)
        return msgspec.json.decode(text)

    def change(self, sql: str, parameters: Parameters) -> sqlite3.Cursor:
        """Run one statement that brings no rows back; the cursor knows how many it changed."""
        return self._connection.execute(sql, parameters)

    def move(self, queue: str, before: str | None, after: str | None, count: int = 1) -> None:
        """Count jobs of *queue* from one status to another; None is outside."""
        if before is not None:
            self._counts[queue, before] -= count
        if after is not None:
            self._counts[queue, after] += count
        if after in (Status.PENDING, Status.SCHEDULED):
            self.gives_work = True

    def write_counts(self) -> None:
        """Write what was counted: a claim looks at it, and the commit needs it."""
        counts = [(queue, status, count) for (queue, status), count in self._counts.items() if count]
        if counts:
            self.change(_COUNT, (json.dumps(counts),))
        self._counts.clear()


class ManyRows:
    """A statement on several rows of values at once, in a few sizes so that each is prepared once.

    With *padded*, rows of NULL fill up the last piece, which the statement must leave alone: seven rows are one
    statement of eight and not three. In a small round of a busy machine a statement costs 20 to 30 µs, such a row 1.
    """

    def __init__(self, sql: str, width: int, *, padded: bool = False) -> None:
        row = f"({', '.join('?' * width)})"
        self._statements = {size: sql.replace("@rows", ", ".join([row] * size)) for size in _SIZES}
        self._padding: Row | None = (None,) * width if padded else None

    def run(self, transaction: Transaction, rows: Sequence[Row]) -> None:
        """Run it on all of *rows*."""
        for _, sql, parameters in self.pieces(rows):
            transaction.change(sql, parameters)

    def pieces(self, rows: Sequence[Row]) -> Iterator[tuple[slice, str, list[Any]]]:
        """Cut *rows* into pieces of a prepared size; of each say where it lies, its statement and its values."""
        start = 0
        while start < len(rows):
            size = self._size(len(rows) - start)
            piece = slice(start, start + size)
            values = [value for row in rows[piece] for value in row]
            if self._padding is not None:
                values += self._padding * (start + size - len(rows))
            yield piece, self._statements[size], values
            start += size

    def _size(self, left: int) -> int:
        if self._padding is None:
            return next(size for size in _SIZES if size <= left)
        return min((size for size in _SIZES if size >= left), default=_SIZES[0])


def numbers_of(values: Iterable[int]) -> str:
    """Return job numbers as the JSON array that ``json_each`` takes apart."""
    return json.dumps(list(values))
