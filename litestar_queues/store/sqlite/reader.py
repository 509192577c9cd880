"""Reading beside the writer: ``aiosqlite``, each read one statement and one hop to its thread.

A connection belongs to the event loop that asked for it. ``aiosqlite`` answers on the caller's loop,
so one would do for all of them, but when a loop is closed with a read under way the connection's
thread dies of it, and reads of other loops behind it would wait for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import sys
import threading
from contextvars import Context
from typing import Any

import aiosqlite

from litestar_queues.exceptions import StoreCorrupt, StoreError
from litestar_queues.store.sqlite.connection import BUSY, explain, is_no_text, text_of
from litestar_queues.store.sqlite.location import Location
from litestar_queues.store.sqlite.migrations import STEPS, too_new
from litestar_queues.store.sqlite.transaction import Parameters, Row

_VERSION = "SELECT name, CAST(value AS INTEGER) FROM lq_meta WHERE name IN ('version', 'oldest')"
_OLDEST = 4
"""The oldest version that can be read as it is: before it, texts are only in their jobs' rows."""
_left_by_parent: list[object] = []
"""Connections of the parent process, kept so that nothing closes them: see ``sharing``."""


class Reader:
    """The reading connections of one store, opened when first needed."""

    def __init__(self, location: Location) -> None:
        self._location = location
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._openings: dict[asyncio.AbstractEventLoop, asyncio.Task[aiosqlite.Connection]] = {}
        self._is_closed = False

    async def rows(self, sql: str, parameters: Parameters = ()) -> list[Row]:
        """Return what *sql* selects."""
        connection = await self._connection()
        try:
            return await _fetch(connection, sql, parameters)
        except asyncio.CancelledError:
            # Not before the read has ended, which cannot be interrupted: whoever cancels may close the loop
            # next, and the thread would have nobody to answer to, and die of it with a traceback.
            with contextlib.suppress(ValueError):  # the store was closed meanwhile, which waits for it as well
                await _fetch(connection, "SELECT 1")
            raise
        except sqlite3.Error as error:
            if not is_no_text(error):
                raise explain(error, self._location) from error
            # The error's frames hold the cursor, and that what was read: later reads would see nothing newer.
            error.__traceback__ = None
            connection.text_factory = text_of
        return await self.rows(sql, parameters)

    async def open(self) -> None:
        """Refuse a file that is not there, is not a queue, or is a newer release's."""
        self._location.check()
        _ = await self._connection()

    async def close(self) -> None:
        """Close the connections and end their threads."""
        with self._lock:
            self._is_closed = True
            openings = list(self._openings.items())
            self._openings.clear()
        if self._pid != os.getpid():
            _left_by_parent.extend(openings)
            return
        here = asyncio.get_running_loop()
        for loop, opening in openings:
            if loop is here:
                await asyncio.wait([opening])
            await _close(opening)

    async def _connection(self) -> aiosqlite.Connection:
        if self._pid != os.getpid():
            _left_by_parent.extend(self._openings.items())
            msg = "this store was opened before a fork; open it anew in the child process"
            raise StoreError(msg)
        opening = self._openings.get(asyncio.get_running_loop())
        if opening is not None and opening.done() and not opening.cancelled() and opening.exception() is None:
            return opening.result()
        # Shared by all who wait for it, and not cancelled with one of them: aiosqlite would lose the
        # connection that its thread is opening.
        return await asyncio.shield(await self._opening())

    async def _opening(self) -> asyncio.Task[aiosqlite.Connection]:
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._is_closed:
                msg = f"the store at {self._location.path} is closed; open it with open_store(url)"
                raise StoreError(msg)
            opening = self._openings.get(loop)
            if opening is None or opening.done():  # and failed, or it would have been used
                opening = self._openings[loop] = loop.create_task(self._connect_somehow(), context=Context())
            dead = [self._openings.pop(loop) for loop in list(self._openings) if loop.is_closed()]
        for each in dead:
            await _close(each)
        return opening

    async def _connect_somehow(self) -> aiosqlite.Connection:
        try:
            return await self._connect("rw")
        except sqlite3.OperationalError:
            pass  # perhaps only reading is allowed
        try:
            return await self._connect("ro")
        except sqlite3.OperationalError as error:
            if self._location.has_wal():
                raise explain(error, self._location) from error
        try:
            # Nothing but the file is there, and this user may not put the WAL's shared memory beside
            # it. As long as nobody writes, the file alone is the whole truth.
            return await self._connect("ro&immutable=1")
        except sqlite3.OperationalError as error:
            raise explain(error, self._location) from error

    async def _connect(self, mode: str) -> aiosqlite.Connection:
        connection = aiosqlite.connect(
            self._location.uri(mode),
            uri=True,
            timeout=BUSY,
            isolation_level=None,
            cached_statements=256,
            check_same_thread=False,
            factory=_ReadingConnection,
        )
        # Its thread is not a daemon, and a program that forgets to close would never end. There is no
        # public way to say so; SQLAlchemy sets the same attribute.
        connection._thread.daemon = True
        try:
            _ = await connection
            await self._check_version(connection)
        except sqlite3.OperationalError:
            await _end(connection)
            raise
        except sqlite3.DatabaseError as error:
            await _end(connection)
            raise explain(error, self._location) from error
        except BaseException:
            await _end(connection)
            raise
        return connection

    async def _check_version(self, connection: aiosqlite.Connection) -> None:
        path = str(self._location.path)
        tables = await _fetch(connection, "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'lq_meta'")
        if not tables:
            msg = f"{path} holds no queue; start a worker there (lq worker), or name another file with --url"
            raise StoreCorrupt(msg)
        versions: dict[str, int] = dict(await _fetch(connection, _VERSION))
        if versions.get("oldest", 0) > STEPS[-1].version:
            raise too_new(path, versions.get("version", 0))
        if versions.get("version", 0) < _OLDEST:
            msg = f"{path} was made by an older release; start lq worker there once, which brings it up to date"
            raise StoreError(msg)


class _ReadingConnection(sqlite3.Connection):
    """A connection that cannot write."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if sys.version_info >= (3, 12):
            # Whoever only reads must not be the one who copies and unlinks the WAL; see ``connection``.
            self.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)
        self.execute("PRAGMA query_only = ON").close()
        self.execute("PRAGMA trusted_schema = OFF").close()


async def _fetch(connection: aiosqlite.Connection, sql: str, parameters: Parameters = ()) -> list[Row]:
    return [tuple(row) for row in await connection.execute_fetchall(sql, parameters)]


async def _close(opening: asyncio.Task[aiosqlite.Connection]) -> None:
    """Close a connection that has been opened, if it has."""
    if opening.done() and not opening.cancelled() and opening.exception() is None:
        await _end(opening.result())


async def _end(connection: aiosqlite.Connection) -> None:
    """Close a connection, whatever has become of the event loop that it belongs to."""
    if connection._thread.is_alive():
        # Not ``await connection.close()``: where the loop was closed with a read under way, the thread
        # is about to die of it, and would not answer.
        _ = connection.stop()
        await asyncio.to_thread(connection._thread.join)
    if connection._connection is not None:
        connection._connection.close()
        connection._connection = None
