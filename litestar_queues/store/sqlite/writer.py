"""The process's one writer for a database: everything that waits goes into one commit.

At ``synchronous=FULL`` a commit costs about 0.25 ms whatever is in it, so callers hand their
transactions over as plain functions and await a future: one by one 4,000 rows a second, in groups
of a hundred and more above 50,000. A whole group runs on one thread between one ``BEGIN IMMEDIATE``
and one ``COMMIT``; a caller that is cancelled cancels nothing and can leave no lock behind.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import sys
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

from litestar_queues.exceptions import (
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreLocked,
)
from litestar_queues.models import Status
from litestar_queues.store.opening import Durability
from litestar_queues.store.sqlite.bells import Ringer
from litestar_queues.store.sqlite.location import Location
from litestar_queues.store.sqlite.migrations import migrate
from litestar_queues.store.sqlite.turnstile import Turnstile

T = TypeVar("T")

GROUP = 400
"""Rows in one group at most: other processes wait for their turn meanwhile (256 rows: 13 ms at p99)."""
BUSY = 10.0
"""Seconds to wait for a lock that another program holds."""
CHECKPOINT_AT = 4 * 1024 * 1024
"""Bytes of the WAL past which it is copied into the database."""
TRUNCATE_AT = 64 * 1024 * 1024
_LOOK_AT_WAL_EVERY = 32


class Transaction:
    """What the functions of one group share: the connection, the stamp, the counts, whom to ring."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._stamp: int | None = None
        self._counts: Counter[tuple[str, str]] = Counter()
        self.changed: set[int] = set()
        """Jobs whose watchers are rung after the commit."""
        self.gives_work = False
        """Masters are rung after the commit."""

    @property
    def stamp(self) -> int:
        """The number of this transaction in the store's one sequence.

        Taken when first needed, so that a claim which finds nothing writes nothing.
        """
        if self._stamp is None:
            rows = self.execute("UPDATE lq_sequence SET value = value + 1 WHERE only = 1 RETURNING value")
            self._stamp = int(rows[0][0])
        return self._stamp

    def execute(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Run one statement and fetch all of it: an open cursor would keep the commit from happening."""
        return self._connection.execute(sql, parameters).fetchall()

    def change(self, sql: str, parameters: tuple[Any, ...]) -> int:
        """Run one statement and return how many rows it changed."""
        return self._connection.execute(sql, parameters).rowcount

    def move(self, queue: str, before: str | None, after: str | None, count: int = 1) -> None:
        """Count jobs of *queue* from one status to another; None is outside."""
        if before is not None:
            self._counts[queue, before] -= count
        if after is not None:
            self._counts[queue, after] += count
        if after in (Status.PENDING, Status.SCHEDULED):
            self.gives_work = True

    def write_counts(self) -> None:
        """Write what was counted; a claim looks at it, and the commit needs it."""
        for (name, status), count in self._counts.items():
            if count:
                self.execute(
                    "INSERT INTO lq_tally (queue, status, count) VALUES (?, ?, ?) "
                    "ON CONFLICT (queue, status) DO UPDATE SET count = count + excluded.count",
                    (name, status, count),
                )
        self._counts.clear()


class _Operation:
    """A function that waits for its transaction, and who waits for it."""

    __slots__ = ("error", "function", "future", "listeners", "loop", "value", "weight")

    def __init__(self, function: Callable[[Transaction], Any], weight: int, listeners: frozenset[str]) -> None:
        self.function = function
        self.weight = weight
        self.listeners = listeners
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self.value: Any = None
        self.error: Exception | None = None


class Writer:
    """One thread, one connection; shared by all stores of the process that are at this place."""

    def __init__(self, location: Location, durability: Durability) -> None:
        self._location = location
        self._durability = durability
        self._waiting: queue.SimpleQueue[_Operation | None] = queue.SimpleQueue()
        self._opened = threading.Event()
        self._failure: Exception | None = None
        self._commits = 0
        self.users = 0
        self.pid = os.getpid()
        # A daemon: a program that forgets to close its store must still be able to end.
        self._thread = threading.Thread(target=self._run, name="litestar-queues-writer", daemon=True)
        self._thread.start()

    def wait_until_open(self) -> None:
        """Block until the database is open; raise why it cannot be."""
        self._opened.wait()
        if self._failure is not None:
            raise self._failure

    async def run(
        self, function: Callable[[Transaction], T], *, weight: int = 1, listeners: frozenset[str] = frozenset()
    ) -> T:
        """Run *function* in a transaction, with whatever else waits; return its value once that is committed.

        *weight* is about how many rows it writes; *listeners* are the caller's own bells, not rung.
        """
        if self.pid != os.getpid():
            msg = "this store was opened before a fork; open it anew in the child process"
            raise StoreError(msg)
        operation = _Operation(function, weight, listeners)
        self._waiting.put(operation)
        value: T = await operation.future
        return value

    def stop(self) -> None:
        """Write what waits, close the database and end the thread."""
        self._waiting.put(None)
        self._thread.join()

    # From here on, everything runs on the writer's thread.

    def _run(self) -> None:
        try:
            self._open()
        # Whatever it is, the opener must hear of it; it raises there.
        except Exception as error:
            self._failure = self._in_our_words(error)
            return
        finally:
            self._opened.set()
        try:
            self._serve()
        finally:
            self._close()

    def _open(self) -> None:
        self._turnstile = Turnstile(self._location.folder)
        self._ringer = Ringer(self._location.folder / "bells")
        self._turnstile.enter()  # journal_mode fails at once when another process is switching too
        try:
            self._connection = connect(self._location, self._durability)
            migrate(self._connection, str(self._location.path))
        finally:
            self._turnstile.leave()
        self._identity = self._look_at_file()

    def _serve(self) -> None:
        carried: _Operation | None = None
        pause: float | None = None
        while True:
            try:
                operation = carried or self._waiting.get(timeout=pause)
            except queue.Empty:
                pause = self._ringer.pay()
                continue
            if operation is None:
                return
            group, carried, is_last = self._gather(operation)
            self._commit(group)
            pause = self._ringer.pay()
            if is_last:
                return

    def _gather(self, first: _Operation) -> tuple[list[_Operation], _Operation | None, bool]:
        """Take what waits, up to a group's size; return also one too many, and whether to stop after."""
        group, weight = [first], first.weight
        while True:
            try:
                operation = self._waiting.get_nowait()
            except queue.Empty:
                return group, None, False
            if operation is None:
                return group, None, True
            if weight + operation.weight > GROUP:
                return group, operation, False
            group.append(operation)
            weight += operation.weight

    def _commit(self, group: list[_Operation]) -> None:
        self._turnstile.enter()
        try:
            self._write(group)
        finally:
            self._turnstile.leave()
        _resolve(group)

    def _write(self, group: list[_Operation]) -> None:
        try:
            transaction = self._transact(group)
        # Any of the functions may have failed: they are run again, each for itself.
        except Exception as error:
            self._rollback()
            if len(group) == 1:
                group[0].error = self._in_our_words(error)
                return
            for operation in group:
                self._write([operation])
            return
        self._commits += 1
        if self._commits % _LOOK_AT_WAL_EVERY == 0:
            self._checkpoint()
        skip = frozenset.intersection(*(operation.listeners for operation in group))
        if transaction.gives_work or transaction.changed:
            self._ringer.ring(masters=transaction.gives_work, changed=transaction.changed, skip=skip)

    def _transact(self, group: list[_Operation]) -> Transaction:
        if self._look_at_file() != self._identity:
            msg = (
                f"the database file {self._location.path} was deleted or replaced while it was in use; "
                "nothing more is accepted: restart this program"
            )
            raise StoreCorrupt(msg)
        # Take the write lock at once. A deferred transaction that reads first and writes later fails
        # with "database is locked" straight away, whatever the busy timeout says.
        self._connection.execute("BEGIN IMMEDIATE")
        transaction = Transaction(self._connection)
        for operation in group:
            operation.value = operation.function(transaction)
        transaction.write_counts()
        self._connection.execute("COMMIT")
        return transaction

    def _rollback(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def _look_at_file(self) -> tuple[int, int] | None:
        """Return which file is there (4 µs): an insert into a deleted one succeeds silently."""
        try:
            status = os.stat(self._location.path)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _checkpoint(self) -> None:
        """Copy the WAL into the database when it has grown; the turn is held, so no writer meets it."""
        try:
            size = os.stat(f"{self._location.path}-wal").st_size
        except OSError:
            return
        if size > CHECKPOINT_AT:
            mode = "TRUNCATE" if size > TRUNCATE_AT else "PASSIVE"
            self._connection.execute("PRAGMA busy_timeout = 0")
            try:
                self._connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
            finally:
                self._connection.execute(f"PRAGMA busy_timeout = {int(BUSY * 1000)}")

    def _close(self) -> None:
        self._turnstile.enter()
        self._connection.close()
        self._turnstile.leave()
        self._turnstile.close()
        self._ringer.close()

    def _in_our_words(self, error: Exception) -> Exception:
        return explain(error, self._location)


def connect(location: Location, durability: Durability) -> sqlite3.Connection:
    """Open the database for writing, by the rules of the design's section 5."""
    connection = sqlite3.connect(
        location.uri("rw"), uri=True, timeout=BUSY, isolation_level=None, cached_statements=256, check_same_thread=False
    )
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # counts only before the first table
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.execute(f"PRAGMA synchronous = {'FULL' if durability == 'power' else 'NORMAL'}")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute(f"PRAGMA journal_size_limit = {CHECKPOINT_AT}")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("PRAGMA cache_size = -16384")
    if sys.version_info >= (3, 12):
        # The last to close would otherwise copy and unlink the WAL, also when it only believes that
        # it is the last.
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)
    return connection


def explain(error: Exception, location: Location) -> Exception:
    """Return *error* as the ``StoreError`` that says what to do; what is not SQLite's stays as it is."""
    if not isinstance(error, sqlite3.Error):
        return error
    path = location.path
    code = getattr(error, "sqlite_errorcode", None)
    explained: StoreError
    match (code or 0) & 0xFF:
        case sqlite3.SQLITE_FULL:
            explained = StoreFull(f"the disk that holds {path} is full; free some space: nothing of this was stored")
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            explained = StoreLocked(
                f"another program has held the write lock of {path} for {BUSY:g} s; end its transaction and try again"
            )
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return location.unwritable()
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            explained = StoreCorrupt(
                f"{path} is damaged or not a database ({error}); restore a backup, or save what can be read "
                f"with: sqlite3 {path} .recover"
            )
        case sqlite3.SQLITE_IOERR:
            explained = StoreError(
                f"reading or writing {path} failed ({error}); whether this was stored is unknown: check the disk, "
                "then repeat it with the same ids or key"
            )
        case _:
            explained = StoreError(f"the database {path} refused: {error}")
    explained.__cause__ = error
    return explained


def _resolve(group: list[_Operation]) -> None:
    """Give the results to the loops that wait for them: one wake-up a loop. A closed loop is nobody's."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Operation]] = {}
    for operation in group:
        by_loop.setdefault(operation.loop, []).append(operation)
    for loop, operations in by_loop.items():
        try:
            loop.call_soon_threadsafe(_set_results, operations)
        except RuntimeError:
            continue


def _set_results(operations: list[_Operation]) -> None:
    for operation in operations:
        if operation.future.done():
            continue
        if operation.error is not None:
            operation.future.set_exception(operation.error)
        else:
            operation.future.set_result(operation.value)


_writers: dict[str, Writer] = {}
_lock = threading.Lock()
_left_by_parent: list[Writer] = []
"""Writers of the parent process, kept so that nothing closes their connections: a forked child that
closed one would take the parent's locks with it."""


def acquire(location: Location, durability: Durability) -> Writer:
    """Return the process's writer for a place, opened; blocks. Each ``acquire`` needs one ``release``."""
    key = str(location.path)
    with _lock:
        writer = _writers.get(key)
        if writer is None:
            writer = Writer(location, durability)
            writer.wait_until_open()
            _writers[key] = writer
        writer.users += 1
        return writer


def release(location: Location, writer: Writer) -> None:
    """Let go of a writer; the last one to do so ends its thread. Blocks."""
    if writer.pid != os.getpid():
        return
    with _lock:
        writer.users -= 1
        if writer.users == 0:
            _writers.pop(str(location.path), None)
            writer.stop()


def _forget_parents_writers() -> None:
    global _lock
    _lock = threading.Lock()
    _left_by_parent.extend(_writers.values())
    _writers.clear()


os.register_at_fork(after_in_child=_forget_parents_writers)
