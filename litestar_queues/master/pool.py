"""The workers that serve some queues: places, what is in their lanes, and whether they can start at all."""

from __future__ import annotations

from litestar_queues.master.assignments import Assignment
from litestar_queues.master.lanes import Lane
from litestar_queues.master.nursery import BROKEN_AFTER
from litestar_queues.master.pace import Pace
from litestar_queues.master.process import WorkerProcess
from litestar_queues.models import ClaimedJob
from litestar_queues.nodes import PoolEntry
from litestar_queues.store.base import Want


class Place:
    """Where one worker of a pool belongs: a name, cells, and who is there now."""

    def __init__(self, pool: Pool, name: str, first_cell: int) -> None:
        self.pool = pool
        self.name = name
        self.first_cell = first_cell
        self.worker: WorkerProcess | None = None
        """There, or on its way."""
        self.lane: Lane | None = None
        """None until the worker is ready."""


class Pool:
    """A fixed number of places."""

    def __init__(
        self, entry: PoolEntry, *, first_cell: int, excluded: tuple[str, ...], backends: tuple[str, ...]
    ) -> None:
        self.entry = entry
        self.pace = Pace()
        self.places = [
            Place(self, f"{entry.name}/{index + 1}", first_cell + index * entry.slots)
            for index in range(entry.processes)
        ]
        self.failures = 0
        """Workers in a row that died before they were ready."""
        self.last_failure = ""
        self.is_waiting = False
        """Workers could not start, and it is not yet time for the next try."""
        self._excluded = excluded
        self._backends = backends

    @property
    def lanes(self) -> list[Lane]:
        """Those of the workers that are ready."""
        return [place.lane for place in self.places if place.lane is not None]

    @property
    def problem(self) -> str | None:
        """Why the pool is broken, in one sentence; None while it is not."""
        if self.failures < BROKEN_AFTER:
            return None
        return f"{self.failures} workers in a row ended before they were ready; the last one {self.last_failure}"

    @property
    def want(self) -> Want:
        """What to claim for the room there is."""
        room = sum(lane.room(self.pace.mean) for lane in self.lanes)
        return Want(room, self.entry.queues, self._excluded, self._backends)

    def must_be_alone(self, job: ClaimedJob) -> bool:
        """Say whether *job* needs a worker of its own, to be told from its neighbours."""
        return self.entry.slots > 1 and (job.suspect or job.max_rss is not None)

    def choose(self, job: ClaimedJob) -> Lane | None:
        """Return where *job* would start first, or None where it would have to wait too long."""
        alone = self.must_be_alone(job)
        best: Lane | None = None
        for lane in self.lanes:
            if lane.has_room(alone=alone) and (best is None or lane.delay < best.delay):
                best = lane
        return best

    def reserve(self, assignment: Assignment) -> bool:
        """Keep the lane that is likely to be empty first for *assignment*; false when each is kept for another."""
        lanes = [lane for lane in self.lanes if lane.is_open and lane.reserved_for is None and not lane.is_worn_out]
        if not lanes:
            return False
        min(lanes, key=lambda lane: len(lane.assignments)).reserved_for = assignment
        return True

    def put_in_place(self, worker: WorkerProcess, place: Place) -> Lane:
        """Open the lane of a worker that is ready."""
        self.failures = 0
        place.lane = Lane(worker, slots=self.entry.slots, max_jobs=self.entry.max_jobs)
        return place.lane
