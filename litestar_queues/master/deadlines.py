"""Know which running job runs out of time next.

The master asks two things, many times a second: how long may I sleep, and who is late. A heap
answers both without walking the jobs that run. A job that ends early stays in the heap and is
dropped when it surfaces; removing it from the middle would cost more than it saves.

Pure: the caller brings the clock.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterator
from itertools import count
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Deadlines(Generic[K]):
    """Moments by key; one moment a key."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, K]] = []
        self._due: dict[K, int] = {}
        self._order = count()

    def set(self, key: K, due: int) -> None:
        """Let *key* be due at *due*, instead of when it was."""
        self._due[key] = due
        heapq.heappush(self._heap, (due, next(self._order), key))

    def drop(self, key: K) -> None:
        """Let *key* never be due."""
        self._due.pop(key, None)

    def next(self) -> int | None:
        """Return the earliest moment, or None."""
        self._prune()
        return self._heap[0][0] if self._heap else None

    def late(self, now: int) -> Iterator[K]:
        """Take out and yield the keys that are due at *now*, earliest first."""
        while (due := self.next()) is not None and due <= now:
            _, _, key = heapq.heappop(self._heap)
            del self._due[key]
            yield key

    def __len__(self) -> int:
        return len(self._due)

    def _prune(self) -> None:
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
