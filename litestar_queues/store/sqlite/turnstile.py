"""A fair turn before the write lock.

SQLite's busy handler starves: of two tight writers one committed 13,381 times and the other once.
Two locks on files beside the database make a turnstile: take ``turn``, take ``write``, let go of
``turn``, do the transaction, let go of ``write``. Whoever has just written finds ``turn`` in the
hands of whoever waited, so nobody passes twice.

It is a courtesy, not a lock: SQLite's own lock decides. Who cannot get a turn in time (a fork may
keep a dead holder's descriptor open) goes on without, and says so.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from pathlib import Path

PATIENCE = 2.0
"""Seconds to wait for a turn."""
_LOOK_EVERY = 0.0002
_log = logging.getLogger("litestar_queues.store")


class Turnstile:
    """The two locks of one database; used by one thread."""

    def __init__(self, folder: Path) -> None:
        self._turn = _open(folder / "turn")
        self._write = _open(folder / "write")
        self._has_write = False

    def enter(self) -> bool:
        """Wait for a turn; return False, with a warning, when it did not come in time."""
        until = time.monotonic() + PATIENCE
        if not _take(self._turn, until):
            _log.warning("no turn to write within %s s; going on without", PATIENCE)
            return False
        self._has_write = _take(self._write, until)
        fcntl.flock(self._turn, fcntl.LOCK_UN)
        if not self._has_write:
            _log.warning("the writer before has not let go within %s s; going on without", PATIENCE)
        return self._has_write

    def leave(self) -> None:
        """Let the next one in."""
        if self._has_write:
            self._has_write = False
            fcntl.flock(self._write, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the files."""
        os.close(self._turn)
        os.close(self._write)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _take(descriptor: int, until: float) -> bool:
    """Take a lock without blocking in the kernel, where no deadline could reach."""
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(_LOOK_EVERY)
        else:
            return True
