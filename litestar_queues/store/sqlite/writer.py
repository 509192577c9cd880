"""The process's one writer for a database: everything that waits goes into one commit.

At ``synchronous=FULL`` a commit costs about 0.25 ms whatever is in it, so callers hand their
transactions over as plain functions and await a future: one by one 4,000 rows a second, in groups
of a hundred and more above 50,000. A whole group runs on one thread between one ``BEGIN IMMEDIATE``
and one ``COMMIT``; a caller that is cancelled cancels nothing and can leave no lock behind.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, TypeVar

from litestar_queues.exceptions import StoreError, StoreStopped
from litestar_queues.store.opening import Durability
from litestar_queues.store.sqlite.ballast import Ballast
from litestar_queues.store.sqlite.bells import Ringer
from litestar_queues.store.sqlite.checkpoints import Checkpoints
from litestar_queues.store.sqlite.connection import OutcomeUnknown, connect, explain, full, is_full, set_durability
from litestar_queues.store.sqlite.files import OpenFiles
from litestar_queues.store.sqlite.location import Location
from litestar_queues.store.sqlite.migrations import migrate
from litestar_queues.store.sqlite.operations import Operation, Synced, apply_together, resolve
from litestar_queues.store.sqlite.transaction import Transaction
from litestar_queues.store.sqlite.turnstile import Turnstile

T = TypeVar("T")
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
Verb = Callable[[Transaction, Sequence[ItemT]], list[ResultT]]
"""Does something to each item for itself, and returns a result for each."""

GROUP = 400
"""Rows in one group at most: other processes wait for their turn meanwhile (256 rows: 13 ms at p99)."""
_log = logging.getLogger("litestar_queues.store")


class Writer:
    """The thread that writes, shared by all stores of the process that are at one place."""

    def __init__(self, location: Location, durability: Durability) -> None:
        self.pid = os.getpid()
        self.users = 0
        """Stores that use it; kept by ``sharing``."""
        self._location = location
        self._durability = durability
        self._waiting: queue.SimpleQueue[Operation | None] = queue.SimpleQueue()
        self._stopping = threading.Lock()
        self._is_stopped = False
        self._opened = threading.Event()
        self._failure: BaseException | None = None
        self._in_hand: list[Operation] = []
        """Taken from what waits, and not told yet."""
        self._carried: Operation | None = None
        """Taken too, and too much for the group before it."""
        self._defect: BaseException | None = None
        self._owes_sync = False
        """What callers hear of at the end of this turn has not been synced, and is to be."""
        self._checkpoints = Checkpoints(location)
        # A daemon: a program that forgets to close its store must still be able to end.
        self._thread = threading.Thread(target=self._run, name="litestar-queues-writer", daemon=True)
        self._thread.start()

    def wait_until_open(self) -> None:
        """Block until the database is open; raise why it cannot be."""
        self._opened.wait()
        if self._failure is not None:
            raise self._failure

    def require(self, durability: Durability) -> None:
        """Write with at least this durability: of several stores at one place the most careful decides."""
        if durability == "power":
            self._durability = durability

    async def run(
        self,
        function: Callable[[Transaction], T],
        *,
        weight: int,
        listeners: frozenset[str],
        synced: Synced = "before",
    ) -> T:
        """Run *function* in a transaction, with whatever else waits; return its value once that is committed.

        *weight* is about how many rows it writes; *listeners* are the caller's own bells, not rung.
        """
        operation = Operation(function, None, weight, listeners)
        operation.synced = synced
        value: T = await self._put(operation)
        return value

    async def run_each(
        self,
        verb: Verb[ItemT, ResultT],
        items: Sequence[ItemT],
        *,
        weight: int,
        listeners: frozenset[str],
        vital: bool = False,
    ) -> list[ResultT]:
        """Run *verb* on *items*, together with those of other callers; return the results for these.

        What is *vital* may use the last of the disk.
        """
        operation = Operation(verb, items, weight, listeners)
        operation.is_vital = vital
        values: list[ResultT] = await self._put(operation)
        return values

    def stop(self) -> None:
        """Write what waits, close the database and end the thread."""
        with self._stopping:
            self._is_stopped = True
            self._waiting.put(None)
        self._thread.join()

    def let_go_in_child(self) -> None:
        """Close, in a forked child, what is not the database.

        A copy of the turnstile's descriptors would keep a dead parent's turn taken. The connection
        stays as it is, unused and open.
        """
        if self._opened.is_set() and self._failure is None:
            self._files.close()
            self._let_go_of_folder()

    def _put(self, operation: Operation) -> asyncio.Future[Any]:
        if self.pid != os.getpid():
            msg = "this store was opened before a fork; open it anew in the child process"
            raise StoreError(msg)
        with self._stopping:
            if self._defect is not None:
                raise self._stopped(self._defect)
            if self._is_stopped:
                msg = f"the store at {self._location.path} is closed; open it with open_store(url)"
                raise StoreError(msg)
            self._waiting.put(operation)
        return operation.future

    # From here on, everything runs on the writer's thread.

    def _run(self) -> None:
        try:
            self._open()
        # Whatever it is, the opener must hear of it; it raises there.
        except BaseException as error:
            self._failure = explain(error, self._location)
            return
        finally:
            self._opened.set()
        try:
            self._serve()
        # A defect. It must not end this thread unheard: all who wait for it would wait for ever.
        except BaseException as error:
            _log.exception("the writer of %s has ended", self._location.path)
            self._refuse_rest(error)
        finally:
            self._close()

    def _open(self) -> None:
        self._turnstile = Turnstile(self._location.folder)
        self._ringer = Ringer(self._location.folder / "bells")
        self._ballast = Ballast(self._location.folder)
        self._turnstile.enter()
        try:
            self._files = OpenFiles(self._location)
            self._connection = connect(self._location)
            try:
                self._set_durability(self._durability)
                migrate(self._connection, str(self._location.path))
                if not self._location.is_temporary and not self._ballast.is_laid():
                    self._ballast.lay()
            except BaseException:
                self._connection.close()
                raise
        except BaseException:
            self._turnstile.leave()
            self._let_go_of_folder()
            raise
        finally:
            self._turnstile.leave()

    def _serve(self) -> None:
        pause: float | None = None
        while True:
            try:
                operation = self._carried or self._waiting.get(timeout=pause)
            except queue.Empty:
                pause = self._ringer.pay()
                continue
            if operation is None:
                return
            self._in_hand, self._carried = [operation], None
            group, is_last = self._gather(operation)
            self._take_turn(group)
            pause = self._ringer.pay()
            if is_last:
                return

    def _refuse_rest(self, defect: BaseException) -> None:
        """Accept nothing more, and tell all who wait."""
        with self._stopping:
            self._defect = defect
        rest = self._in_hand if self._carried is None else [*self._in_hand, self._carried]
        while not self._waiting.empty():
            operation = self._waiting.get_nowait()
            if operation is not None:
                rest.append(operation)
        for operation in rest:
            operation.error = self._stopped(defect)
        resolve(rest)

    def _stopped(self, defect: BaseException) -> StoreStopped:
        error = StoreStopped(
            f"what writes to {self._location.path} has ended by a defect ({defect!r}), and what was under way may be stored "
            "or not; restart this program, and repeat it with the same ids or key"
        )
        error.__cause__ = defect
        return error

    def _gather(self, first: Operation) -> tuple[list[Operation], bool]:
        """Take what waits, up to a group's size, and keep one too many; return also whether to stop after."""
        group, weight = self._in_hand, first.weight
        while True:
            try:
                operation = self._waiting.get_nowait()
            except queue.Empty:
                return group, False
            if operation is None:
                return group, True
            if weight + operation.weight > GROUP:
                self._carried = operation
                return group, False
            group.append(operation)
            weight += operation.weight

    def _take_turn(self, group: list[Operation]) -> None:
        self._turnstile.enter()
        try:
            written = self._write(self._admit(group))
        finally:
            self._turnstile.leave()
        # Now that the next writer has its turn: the bells cost it 100 µs and more.
        resolve(group)
        self._in_hand = []
        for transaction, skip in written:
            self._ring_after(transaction, skip)
        if self._owes_sync:
            self._owes_sync = False
            self._files.sync_log()
        self._checkpoint_if_due()

    def _admit(self, group: list[Operation]) -> list[Operation]:
        """Return what may be written: while the ballast is spent, what is vital. Refuse the rest."""
        return self._only_vital(group) if self._ballast.is_spent() else group

    def _only_vital(self, group: list[Operation]) -> list[Operation]:
        for operation in group:
            if not operation.is_vital:
                operation.error = full(self._location)
        return [operation for operation in group if operation.is_vital]

    def _write(
        self, group: list[Operation], *, may_use_ballast: bool = True
    ) -> list[tuple[Transaction, frozenset[str]]]:
        """Write *group* in one transaction, or each for itself if one fails; return what was committed, and by whom."""
        if not group:
            return []
        skip = frozenset.intersection(*(operation.listeners for operation in group))
        try:
            self._begin(group)
            transaction = self._apply(group)
            if transaction.gives_work:
                # Whoever claims waits for this commit; its master wakes up meanwhile: see ``ring_masters``.
                self._ringer.ring_masters(skip=skip)
            self._commit()
            self._note_sync(group, transaction)
        # Whatever it is, those who wait must hear of it, and the thread must go on.
        except BaseException as error:
            self._rollback()
            if isinstance(error, _OneFailed) and len(group) > 1:
                # Each for itself, so that a bad one does not hurt the others.
                return [
                    written
                    for operation in group
                    for written in self._write([operation], may_use_ballast=may_use_ballast)
                ]
            cause = error.__cause__ if isinstance(error, _OneFailed) else error
            is_vital = any(operation.is_vital for operation in group)
            if is_vital and may_use_ballast and is_full(error.__cause__ or error) and self._ballast.give_up():
                # Once: SQLite may call full what the file system does not, and then the room would be there again.
                return self._write(self._only_vital(group), may_use_ballast=False)
            for operation in group:
                operation.error = explain(cause or error, self._location)
            return []
        return [(transaction, skip)]

    def _ring_after(self, transaction: Transaction, skip: frozenset[str]) -> None:
        """Ring those who only read, and so would not see what is not committed."""
        if transaction.asks_masters:
            self._ringer.ring_masters(skip=skip)
        if transaction.changed:
            self._ringer.ring_watchers(transaction.changed, skip=skip)

    def _begin(self, group: list[Operation]) -> None:
        self._files.check(self._connection)
        is_urgent = any(operation.synced == "before" for operation in group)
        durability = self._durability if is_urgent else "process"
        if durability != self._durability_set:
            self._set_durability(durability)
        # Take the write lock at once. A deferred transaction that reads first and writes later fails
        # with "database is locked" straight away, whatever the busy timeout says.
        self._connection.execute("BEGIN IMMEDIATE")

    def _apply(self, group: list[Operation]) -> Transaction:
        transaction = Transaction(self._connection)
        try:
            for _, neighbours in groupby(group, key=Operation.kind):
                apply_together(transaction, list(neighbours))
            transaction.write_counts()
        # Any of the functions may have failed: theirs to say.
        except BaseException as error:
            raise _OneFailed from error
        return transaction

    def _commit(self) -> None:
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise OutcomeUnknown from error
        self._files.committed()

    def _note_sync(self, group: list[Operation], transaction: Transaction) -> None:
        """Take note of whether the log is to be synced once the callers have heard: not with each commit of a turn."""
        if transaction.has_written:
            is_synced = self._durability_set == "power"
            is_owed = self._durability == "power" and any(operation.synced == "after" for operation in group)
            self._owes_sync = not is_synced and (is_owed or self._owes_sync)

    def _rollback(self) -> None:
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error:
            _log.exception("rolling back in %s failed", self._location.path)

    def _set_durability(self, durability: Durability) -> None:
        self._durability_set = durability
        set_durability(self._connection, durability)

    def _checkpoint_if_due(self) -> None:
        statement = self._checkpoints.due()
        if statement is not None:
            self._turnstile.enter()
            try:
                self._checkpoints.run(self._connection, statement)
            finally:
                self._turnstile.leave()

    def _close(self) -> None:
        try:
            self._ringer.ring_owed()
            self._turnstile.enter()
        finally:
            self._connection.close()
            self._turnstile.leave()
            self._files.close()
            self._let_go_of_folder()

    def _let_go_of_folder(self) -> None:
        self._turnstile.close()
        self._ringer.close()


class _OneFailed(Exception):
    """A function of the group raised; its error is the cause."""
