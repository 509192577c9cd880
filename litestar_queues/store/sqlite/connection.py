"""The writer's connection to the database file, and SQLite's errors in our words."""

from __future__ import annotations

import sqlite3
import sys
import time
from functools import partial

from litestar_queues.exceptions import StoreCorrupt, StoreError, StoreFull, StoreLocked
from litestar_queues.store.opening import Durability
from litestar_queues.store.sqlite.location import Location

BUSY = 10.0
"""Seconds to wait for a lock that another program holds."""
CHECKPOINT_AT = 4 * 1024 * 1024
"""Bytes of the WAL past which it is copied into the database."""
text_of = partial(str, encoding="utf-8", errors="replace")
"""What is read as text where some is damaged: see ``is_no_text``."""
_OLDEST_SQLITE = (3, 37, 0)
"""The first with STRICT tables; RETURNING came with 3.35."""


class OutcomeUnknown(Exception):
    """COMMIT itself failed: what was in it may or may not be on disk."""


def connect(location: Location) -> sqlite3.Connection:
    """Open the database for writing, by the rules of the design's section 5."""
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        msg = f"SQLite {sqlite3.sqlite_version} is too old; use a Python that is linked with 3.37 or newer"
        raise StoreError(msg)
    connection = sqlite3.connect(
        location.uri("rw"), uri=True, timeout=BUSY, isolation_level=None, cached_statements=256, check_same_thread=False
    )
    try:
        _set_up(connection, location)
    except BaseException:
        connection.close()
        raise
    return connection


def set_durability(connection: sqlite3.Connection, durability: Durability) -> None:
    """Sync the WAL at each commit (``power``), or only at checkpoints (``process``)."""
    level = "FULL" if durability == "power" else "NORMAL"
    connection.execute(f"PRAGMA synchronous = {level}")


def _set_up(connection: sqlite3.Connection, location: Location) -> None:
    [(pages,)] = connection.execute("PRAGMA page_count").fetchall()
    if pages == 0:  # counts only before the first table, and later would still write to the file
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    _use_wal(connection, location)
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


def _use_wal(connection: sqlite3.Connection, location: Location) -> None:
    # SQLite asks no busy handler here and fails at once while another process does the same: when 8
    # processes opened 25 fresh files, 7 of 200 opens failed so.
    until = time.monotonic() + BUSY
    while True:
        try:
            [(mode,)] = connection.execute("PRAGMA journal_mode = WAL").fetchall()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                raise
            time.sleep(0.005)
            continue
        if mode != "wal":
            msg = f"{location.path} cannot use a write-ahead log (its journal mode stays {mode!r}); use a local disk"
            raise StoreError(msg)
        return


def is_no_text(error: sqlite3.Error) -> bool:
    """Say whether a statement brought what is no UTF-8, as one flipped bit can make it.

    An error of that would keep all other jobs from being claimed with the damaged one, whose checksum tells; so the
    statement is to be run again, with ``text_of``. Not with that from the start: the texts of a job that has and
    returns 100 KB took 130 µs to read, with SQLite's own way 11.
    """
    return isinstance(error, sqlite3.OperationalError) and str(error).startswith("Could not decode to UTF-8")


def is_full(error: BaseException | None) -> bool:
    """Say whether the disk is full."""
    return isinstance(error, sqlite3.Error) and _code(error) == sqlite3.SQLITE_FULL


def full(location: Location) -> StoreFull:
    """Return the error of a disk that is full."""
    return StoreFull(f"the disk that holds {location.path} is full; free some space: nothing of this was stored")


def explain(error: BaseException, location: Location) -> BaseException:
    """Return *error* as the ``StoreError`` that says what to do; what is not SQLite's stays as it is.

    A new one each time: it may be raised in several tasks, and each adds its traceback.
    """
    cause = error.__cause__ if isinstance(error, OutcomeUnknown) else error
    if not isinstance(cause, sqlite3.Error):
        return error
    explained = _explain(cause, location, is_unknown=isinstance(error, OutcomeUnknown))
    explained.__cause__ = cause
    return explained


def _explain(error: sqlite3.Error, location: Location, *, is_unknown: bool) -> StoreError:
    path = location.path
    match _code(error):
        case sqlite3.SQLITE_FULL:
            return full(location)
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return StoreLocked(
                f"another program has held the write lock of {path} for {BUSY:g} s; end its transaction and try again"
            )
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return location.unwritable()
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return StoreCorrupt(
                f"{path} is damaged or not a database ({error}); restore a backup, or save what can be read "
                f"with: sqlite3 {path} .recover"
            )
        case _ if is_unknown:
            return StoreError(
                f"committing to {path} failed ({error}); whether this was stored is unknown: check the disk, "
                "then repeat it with the same ids or key"
            )
        case sqlite3.SQLITE_IOERR:
            return StoreError(f"reading or writing {path} failed ({error}); check the disk: nothing of this was stored")
        case _:
            return StoreError(f"the database {path} refused: {error}")


def _code(error: sqlite3.Error) -> int:
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
