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

from litestar_queues.store.sqlite.handover import Handover

PATIENCE = 2.0
"""Seconds to wait for a turn."""
_TURN, _WRITE = 0, 1
_LOOK_EVERY = 0.002
"""Seconds between two tries, where nobody who lets go wakes those who wait: docs/decisions/003."""
_SULK = 10.0
"""Seconds during which, after a turn did not come, nobody waits for one: else every commit would wait
for as long as a dead holder's descriptor lives on in a fork."""
_log = logging.getLogger("litestar_queues.store")


class Turnstile:
    """The two locks of one database; used by one thread."""

    def __init__(self, folder: Path) -> None:
        self._turn = _open(folder / "turn")
        self._write = _open(folder / "write")
        self._handover = Handover(folder / "handover")
        self._has_write = False
        self._sulks_until = 0.0

    def enter(self) -> bool:
        """Wait for a turn; return False, with a warning, when it did not come in time."""
        now = time.monotonic()
        until = now if now < self._sulks_until else now + PATIENCE
        if not self._take(_TURN, self._turn, until):
            return self._go_without("the turn to write is held", now)
        self._has_write = self._take(_WRITE, self._write, until)
        self._let_go(_TURN, self._turn)
        return self._has_write or self._go_without("the writer before has not let go", now)

    def leave(self) -> None:
        """Let the next one in."""
        if self._has_write:
            self._has_write = False
            self._let_go(_WRITE, self._write)

    def close(self) -> None:
        """Let go of the files."""
        turn, write = self._turn, self._write
        self._turn = self._write = -1
        self._handover.close()
        for descriptor in (turn, write):
            if descriptor >= 0:
                os.close(descriptor)

    def _take(self, place: int, descriptor: int, until: float) -> bool:
        """Take a lock; return False when it did not come free by *until*, or cannot be taken at all."""
        while True:
            seen = self._handover.seen(place)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= until:
                    return False
                self._handover.wait(place, seen, _LOOK_EVERY)
            except OSError:  # a filesystem without such locks: a courtesy that is not to be had
                return False
            else:
                return True

    def _let_go(self, place: int, descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        self._handover.wake(place)

    def _go_without(self, why: str, now: float) -> bool:
        if now >= self._sulks_until:
            self._sulks_until = now + PATIENCE + _SULK
            _log.warning("%s for more than %g s; going on without a turn for %g s", why, PATIENCE, _SULK)
        return False


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
