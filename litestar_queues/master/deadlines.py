"""Know which worker is to be looked at next.

The master asks two things, many times a second: how long may I sleep, and whose time has come.
One moment a worker, not one a job: what a lane holds is judged together, by the cells, and a job
that is handed out costs one comparison. (A heap of jobs would hold 240,000 stale entries where
8,000 a second come with a timeout of 30 s.)

Pure: the caller brings the clock.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Deadlines(Generic[K]):
    """Moments by key; one moment a key."""

    def __init__(self) -> None:
        self._due: dict[K, int] = {}

    def bring_forward(self, key: K, due: int) -> bool:
        """Let *key* be due at *due*, if that is earlier than it is now; say whether it was."""
        before = self._due.get(key)
        if before is not None and before <= due:
            return False
        self._due[key] = due
        return True

    def drop(self, key: K) -> None:
        """Let *key* never be due."""
        self._due.pop(key, None)

    def next(self) -> int | None:
        """Return the earliest moment, or None."""
        return min(self._due.values(), default=None)

    def take_late(self, now: int) -> list[K]:
        """Take out and return the keys that are due at *now*."""
        late = [key for key, due in self._due.items() if due <= now]
        for key in late:
            del self._due[key]
        return late

    def __len__(self) -> int:
        return len(self._due)
