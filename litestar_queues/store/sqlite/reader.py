"""Reading beside the writer: ``aiosqlite``, each read one statement and one hop to its thread.

A connection belongs to the event loop that asked for it. ``aiosqlite`` answers on the caller's loop,
so one would do for all of them, but when a loop is closed with a read under way the connection's
thread dies of it, and reads of other loops behind it would wait for ever.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import threading
from typing import Any

import aiosqlite

from litestar_queues.exceptions import StoreCorrupt, StoreError
from litestar_queues.store.sqlite.connection import BUSY, explain
from litestar_queues.store.sqlite.location import Location
from litestar_queues.store.sqlite.migrations import STEPS, too_new
from litestar_queues.store.sqlite.transaction import Row

_VERSION = "SELECT name, CAST(value AS INTEGER) FROM lq_meta WHERE name IN ('version', 'oldest')"
_left_by_parent: list[aiosqlite.Connection] = []


class Reader:
    """The reading connections of one store, opened when first needed."""

    def __init__(self, location: Location) -> None:
        self._location = location
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._connections: dict[asyncio.AbstractEventLoop, aiosqlite.Connection] = {}
        self._is_closed = False

    async def rows(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[Row]:
        """Return what *sql* selects."""
        if self._pid != os.getpid():
            _left_by_parent.extend(self._connections.values())  # not even to close it
            msg = "this store was opened before a fork; open it anew in the child process"
            raise StoreError(msg)
        connection = await self._connection()
        try:
            return await _fetch(connection, sql, parameters)
        except sqlite3.Error as error:
            raise explain(error, self._location) from error

    async def open(self) -> None:
        """Refuse a file that is not there, is not a queue, or is a newer release's."""
        self._location.check()
        _ = await self._connection()

    async def close(self) -> None:
        """Close the connections and end their threads."""
        with self._lock:
            self._is_closed = True
            connections = list(self._connections.values())
            self._connections.clear()
        if self._pid != os.getpid():
            _left_by_parent.extend(connections)
            return
        for connection in connections:
            await _close(connection)

    async def _connection(self) -> aiosqlite.Connection:
        loop = asyncio.get_running_loop()
        connection = self._connections.get(loop)
        if connection is not None:
            return connection
        new = await self._connect_somehow()
        with self._lock:
            is_closed = self._is_closed
            kept = new if is_closed else self._connections.setdefault(loop, new)
            dead = [loop for loop in self._connections if loop.is_closed()]
            unused = [self._connections.pop(loop) for loop in dead]
        if is_closed or kept is not new:  # another task was quicker
            unused.append(new)
        for each in unused:
            await _close(each)
        if is_closed:
            msg = f"the store at {self._location.path} is closed; open it with open_store(url)"
            raise StoreError(msg)
        return kept

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
            await _close(connection)
            raise
        except sqlite3.DatabaseError as error:
            await _close(connection)
            raise explain(error, self._location) from error
        except BaseException:
            await _close(connection)
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


class _ReadingConnection(sqlite3.Connection):
    """A connection that cannot write."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if sys.version_info >= (3, 12):
            # Whoever only reads must not be the one who copies and unlinks the WAL; see ``connection``.
            self.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)
        self.execute("PRAGMA query_only = ON").close()
        self.execute("PRAGMA trusted_schema = OFF").close()


async def _fetch(connection: aiosqlite.Connection, sql: str, parameters: tuple[Any, ...] = ()) -> list[Row]:
    return [tuple(row) for row in await connection.execute_fetchall(sql, parameters)]


async def _close(connection: aiosqlite.Connection) -> None:
    """Close a connection, also one whose thread died with its event loop."""
    if connection._thread.is_alive():
        await connection.close()
    elif connection._connection is not None:
        connection._connection.close()
        connection._connection = None
