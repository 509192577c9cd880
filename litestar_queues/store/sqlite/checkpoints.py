"""When the write-ahead log is copied into the database, and when it is cut too."""

from __future__ import annotations

import logging
import os
import sqlite3

from litestar_queues.store.sqlite.connection import BUSY, CHECKPOINT_AT
from litestar_queues.store.sqlite.location import Location

TRUNCATE_AT = 64 * 1024 * 1024
"""Bytes of the log past which it is also cut: a long read has kept it from being used again."""
LOOK_EVERY = 32
"""Turns to write between two looks at its size."""
_COPY_LOG, _CUT_LOG = "PRAGMA wal_checkpoint(PASSIVE)", "PRAGMA wal_checkpoint(TRUNCATE)"
_log = logging.getLogger("litestar_queues.store")


class Checkpoints:
    """The log of one database; used by the thread that writes, which leaves checkpoints to nobody else."""

    def __init__(self, location: Location) -> None:
        self._path = str(location.path)
        self._file = f"{location.path}-wal"
        self._turns = 0

    def due(self) -> str | None:
        """Count a turn to write; return the statement that is to run after it, if one is."""
        self._turns += 1
        if self._turns % LOOK_EVERY:
            return None
        try:
            size = os.stat(self._file).st_size
        except OSError:
            return None
        if size <= CHECKPOINT_AT:
            return None
        return _CUT_LOG if size > TRUNCATE_AT else _COPY_LOG

    def run(self, connection: sqlite3.Connection, statement: str) -> None:
        """Run it, in a turn of its own, so that no writer meets it; who reads is not waited for."""
        try:
            connection.execute("PRAGMA busy_timeout = 0")
            try:
                connection.execute(statement).fetchall()
            finally:
                connection.execute(f"PRAGMA busy_timeout = {int(BUSY * 1000)}")
        except sqlite3.Error:
            _log.exception("copying the write-ahead log of %s into it failed", self._path)
