"""The workers that serve some queues: places, what is in their lanes, and whether they can start at all."""

from __future__ import annotations

from collections import deque

from litestar_queues.master.assignments import Assignment
from litestar_queues.master.lanes import Lane
from litestar_queues.master.nursery import BROKEN_AFTER
from litestar_queues.master.pace import Pace
from litestar_queues.master.process import WorkerProcess
from litestar_queues.models import ClaimedJob
from litestar_queues.nodes import PoolEntry
from litestar_queues.store.base import Want

MOST_AT_ONCE = 1_024
"""Jobs that one claim may bring."""


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
        self.known: frozenset[str] = frozenset()
        """Tasks that the application has."""
        self.alone: deque[Assignment] = deque()
        """Claimed jobs that must run alone, and wait until a worker has nothing else."""
        self._reach = 1
        """How many jobs one claim may bring: halved to what could be placed, doubled when all could."""
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
        """What to claim for the room there is; where there is none, for what waits at workers to give way to."""
        room = sum(lane.room(self.pace.mean) for lane in self.lanes)
        free = sum(lane.free_slots for lane in self.lanes)
        limit, above = min(room, max(self._reach, free)), None
        if not room:
            waiting = [lowest for lane in self.lanes if (lowest := lane.lowest_waiting) is not None]
            limit, above = len(waiting), min(waiting, default=None)
        return Want(limit, self.entry.queues, self._excluded, self._backends, above=above)

    def learn_reach(self, claimed: int, given_back: int) -> None:
        """Claim less next time if some could not be placed, and more if all could.

        The room is guessed by the mean of all tasks, and the next jobs may be of others: without this,
        a queue full of slow jobs behind quick ones would be claimed and given back all the time.
        """
        if given_back:
            self._reach = max(claimed - given_back, 1)
        elif claimed >= self._reach:
            self._reach = min(self._reach * 2, MOST_AT_ONCE)

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

    def keep_alone(self, assignment: Assignment) -> None:
        """Let a job that must run alone wait for the first lane that is empty; one more lane gets no other jobs."""
        self.alone.append(assignment)
        lanes = [lane for lane in self.lanes if lane.is_open and not lane.is_reserved]
        if lanes:
            min(lanes, key=lambda lane: len(lane.assignments)).is_reserved = True

    def take_alone(self) -> Assignment | None:
        """Return the next job that must run alone, and open a lane that was kept for it."""
        if not self.alone:
            return None
        assignment = self.alone[0]
        self.forget_alone(assignment)
        return assignment

    def forget_alone(self, assignment: Assignment) -> None:
        """Let a job that must run alone wait no more, and no lane be kept that is not needed."""
        self.alone.remove(assignment)
        reserved = [lane for lane in self.lanes if lane.is_reserved]
        for lane in sorted(reserved, key=lambda lane: len(lane.assignments))[len(self.alone) :]:
            lane.is_reserved = False

    def put_in_place(self, worker: WorkerProcess, place: Place) -> Lane:
        """Open the lane of a worker that is ready."""
        self.failures = 0
        place.lane = Lane(worker, slots=self.entry.slots, max_jobs=self.entry.max_jobs)
        return place.lane
