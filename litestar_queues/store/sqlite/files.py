"""Notice that a file under us is not the one that was opened, or has been cut: commits into it would succeed, and be lost."""

from __future__ import annotations

import logging
import os
import sqlite3

from litestar_queues.exceptions import StoreCorrupt
from litestar_queues.store.sqlite.location import Location

_LOG_HEADER = 32
_FRAME_HEADER = 24
"""Bytes in a write-ahead log before the first frame, and before the page in each."""
_LOOKS = 5
_logger = logging.getLogger("litestar_queues.store")


class OpenFiles:
    """The database and its write-ahead log, as they were when they were opened; used by one thread."""

    def __init__(self, location: Location) -> None:
        self._path = str(location.path)
        self._log = f"{location.path}-wal"
        self._identity = _identity_of(self._path)
        self._log_identity: tuple[int, int] | None = None
        self._log_size = 0
        self._log_descriptor = -1
        self._is_log_whole = True

    def check(self, connection: sqlite3.Connection) -> None:
        """Raise ``StoreCorrupt`` where one of them is not what it was; two looks, 4 µs each."""
        if not self._is_log_whole:
            raise _not_synced(self._log)
        if _identity_of(self._path) != self._identity:
            raise _gone(self._path)
        if self._log_identity is None:
            return
        try:
            log = os.stat(self._log)
        except OSError:
            raise _gone(self._log) from None
        if (log.st_dev, log.st_ino) != self._log_identity:
            raise _gone(self._log)
        # It shrinks in good order too, when all of it has been copied into the database.
        if log.st_size < self._log_size or not log.st_size:
            self._check_length(connection)
        self._log_size = log.st_size

    def committed(self) -> None:
        """Take note of a commit: the log is there from the first one to the last close."""
        if self._log_identity is None:
            self._log_identity = _identity_of(self._log)

    def sync_log(self) -> None:
        """Sync the log by a descriptor of our own; SQLite locks nothing by that file, so it may be opened and closed."""
        try:
            if self._log_descriptor < 0:
                self._log_descriptor = os.open(self._log, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # too many open files: the next commit that is synced syncs this too
            _logger.exception("%s was not synced", self._log)
            return
        try:
            os.fdatasync(self._log_descriptor)
        except OSError:
            # The kernel tells it once and drops what it could not write. What is committed behind that would be
            # synced, acknowledged, and not found after a loss of power: the log is read up to the gap.
            self._is_log_whole = False
            _logger.exception("syncing %s failed", self._log)

    def close(self) -> None:
        """Let go of the log's descriptor; once closed, nothing more is synced."""
        descriptor, self._log_descriptor = self._log_descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _check_length(self, connection: sqlite3.Connection) -> None:
        [(page_size,)] = connection.execute("PRAGMA page_size").fetchall()
        # Several looks: another program may write, or empty the log, between what SQLite says and the file's size.
        for _ in range(_LOOKS):
            try:
                [(_, frames, _)] = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            except sqlite3.Error as error:
                raise _cut(self._log) from error
            if frames <= 0 or os.stat(self._log).st_size >= _LOG_HEADER + frames * (_FRAME_HEADER + page_size):
                return
        raise _cut(self._log)


def _identity_of(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _gone(path: str) -> StoreCorrupt:
    return StoreCorrupt(
        f"the database file {path} was replaced or deleted while it was in use; "
        "nothing more is accepted: restart this program"
    )


def _not_synced(path: str) -> StoreCorrupt:
    return StoreCorrupt(
        f"the disk refused to keep the write-ahead log {path}; nothing more is accepted: stop all programs that use the "
        "database, check the disk, and start them again"
    )


def _cut(path: str) -> StoreCorrupt:
    return StoreCorrupt(
        f"the write-ahead log {path} was truncated while it was in use; nothing more is accepted: stop all programs that "
        "use the database, look at it with PRAGMA integrity_check, and start them again"
    )
