"""Room on the disk that is given up when the disk is full, so that what has run can still be recorded.

A full disk refuses updates as it refuses new rows: without this, a job that has ended could not be
settled, and would run again after the next start. The file beside the database takes the room up;
emptied, it also tells the writers of all processes that the room is for settlements alone, until
there is space for it again.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

SIZE = 4 * 1024 * 1024
"""Bytes: thousands of settlements. A mebibyte was enough for 246 on their own."""
_TRY_EVERY = 1.0
"""Seconds between two tries to take up room that is free by all signs, and is not to be had: a quota."""


class Ballast:
    """The file of one database; used by one thread."""

    def __init__(self, folder: Path) -> None:
        self._path = str(folder / "ballast")
        self._next_try = 0.0

    def is_laid(self) -> bool:
        """Say whether the room is taken up."""
        try:
            return os.stat(self._path).st_size > 0
        except OSError:
            return False

    def lay(self) -> bool:
        """Take the room up, where twice as much is free; return whether it is taken up."""
        is_new = not os.path.exists(self._path)
        try:
            folder = os.statvfs(os.path.dirname(self._path))
            if folder.f_bavail * folder.f_frsize >= 2 * SIZE:
                self._allocate()
        except OSError:  # a quota, perhaps
            self._next_try = time.monotonic() + _TRY_EVERY
            if is_new:
                Path(self._path).unlink(missing_ok=True)
            else:
                os.truncate(self._path, 0)
        return self.is_laid()

    def _allocate(self) -> None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, SIZE)
        finally:
            os.close(descriptor)

    def is_spent(self) -> bool:
        """Say whether it was given up and there is no space for it yet (5 µs). One that was never laid is not (2 µs)."""
        try:
            if os.stat(self._path).st_size:
                return False
        except OSError:
            return False
        return time.monotonic() < self._next_try or not self.lay()

    def give_up(self) -> bool:
        """Give the room up; return whether there was any to give."""
        if not self.is_laid():
            return False
        os.truncate(self._path, 0)
        return True
