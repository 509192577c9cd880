"""The workers that serve some queues."""

from __future__ import annotations

from collections import deque

from litestar_queues.master.process import WorkerProcess
from litestar_queues.models import PoolEntry
from litestar_queues.store.base import Want


class Pool:
    """A fixed number of places for workers, and which of them are free."""

    def __init__(
        self, entry: PoolEntry, *, first_slot: int, excluded: tuple[str, ...], backends: tuple[str, ...]
    ) -> None:
        self.entry = entry
        self._first_slot = first_slot
        self._excluded = excluded
        self._backends = backends
        self._places: list[WorkerProcess | None] = [None] * entry.processes
        self._idle: deque[WorkerProcess] = deque()

    @property
    def workers(self) -> list[WorkerProcess]:
        """Those that are in place."""
        return [worker for worker in self._places if worker is not None]

    @property
    def has_place(self) -> bool:
        """True while a place has no worker."""
        return None in self._places

    def place(self, worker: WorkerProcess) -> tuple[int, str]:
        """Give *worker* a free place; return the number of its cell, and its name."""
        index = self._places.index(None)
        self._places[index] = worker
        return self._first_slot + index, f"{self.entry.name}/{index + 1}"

    def remove(self, worker: WorkerProcess) -> None:
        """Free the place of a worker that is gone."""
        self._places[self._places.index(worker)] = None
        if worker in self._idle:
            self._idle.remove(worker)

    def free(self, worker: WorkerProcess) -> None:
        """Let *worker* take the next job."""
        self._idle.append(worker)

    def take_idle(self) -> WorkerProcess | None:
        """Return a worker for a job, or None when none is free."""
        return self._idle.popleft() if self._idle else None

    @property
    def want(self) -> Want:
        """What to claim for the workers that are free."""
        return Want(len(self._idle), self.entry.queues, self._excluded, self._backends)
