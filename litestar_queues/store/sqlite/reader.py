"""Reading beside the writer: one ``aiosqlite`` connection, each read one hop to its thread."""

from __future__ import annotations

import sqlite3
from typing import Any

import aiosqlite

from litestar_queues.exceptions import StoreError
from litestar_queues.store.sqlite.location import Location
from litestar_queues.store.sqlite.migrations import check_readable
from litestar_queues.store.sqlite.writer import BUSY, explain


class Reader:
    """A connection that only reads. Its calls may come from any event loop of the process."""

    def __init__(self, location: Location) -> None:
        self._location = location
        self._connection: aiosqlite.Connection | None = None

    async def open(self) -> None:
        """Connect; refuse a file that is not there, is no queue, or is a newer release's."""
        self._location.check()
        try:
            self._connection = await self._connect("rw")
        except sqlite3.OperationalError:  # a file that this user can only read
            self._connection = await self._connect("ro")

    async def rows(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Return what *sql* selects."""
        if self._connection is None:
            msg = f"the store at {self._location.path} is closed; open it again with open_store(url)"
            raise StoreError(msg)
        try:
            return list(await self._connection.execute_fetchall(sql, parameters))  # type: ignore[arg-type]  # tuples
        except sqlite3.Error as error:
            raise explain(error, self._location) from error

    async def close(self) -> None:
        """Close the connection and end its thread."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def _connect(self, mode: str) -> aiosqlite.Connection:
        connection = aiosqlite.connect(
            self._location.uri(mode), uri=True, timeout=BUSY, isolation_level=None, cached_statements=256
        )
        # Its thread is not a daemon, and a program that forgets to close would never end. There is no
        # public way to say so before 0.23; SQLAlchemy sets the same attribute.
        connection._thread.daemon = True
        try:
            opened = await connection
            await connection.execute_fetchall("PRAGMA query_only = ON")
            await connection._execute(check_readable, connection._conn, str(self._location.path))  # type: ignore[no-untyped-call]
        except sqlite3.DatabaseError as error:
            await connection.close()
            if mode == "rw" and isinstance(error, sqlite3.OperationalError):
                raise
            raise explain(error, self._location) from error
        except BaseException:
            await connection.close()
            raise
        return opened
