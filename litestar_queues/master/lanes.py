"""What is at one worker: jobs that it runs, and jobs that wait in its queue. Pure, but for the worker it names."""

from __future__ import annotations

from litestar_queues.clock import SECOND
from litestar_queues.master.assignments import Assignment
from litestar_queues.master.pace import BUDGET, MOST_BYTES, MOST_WAITING, PAUSE, SHORT
from litestar_queues.master.process import WorkerProcess

HIGHEST = 1 << 62


class Lane:
    """The jobs sent to one worker and not yet settled, in the order of sending."""

    def __init__(self, worker: WorkerProcess, *, slots: int, max_jobs: int | None) -> None:
        self.worker = worker
        self.assignments: dict[int, Assignment] = {}
        self.last: Assignment | None = None
        """The job that ended here last: what a thread of it still says is its own."""
        self.last_sign = 0
        """When the worker last ended a job, or was given one while it had none (monotonic nanoseconds)."""
        self.is_open = True
        """False once it gets no more jobs."""
        self.is_silent = False
        """The worker has room for a job, and has not come for it."""
        self.silent_since = 0
        self.silences = 0
        """How often in a row that was so."""
        self.lowest_priority = HIGHEST
        """No job here is less urgent."""
        self.is_reserved = False
        """It gets no more jobs until it is empty: one that must run alone waits."""
        self._slots = slots
        self._left = max_jobs
        self._work = 0.0
        """Microseconds of expected work, of the jobs whose duration is known."""
        self._slow = 0
        """Jobs whose duration is not known, or long."""
        self._is_alone = False
        self._bytes = 0
        """Characters of arguments."""

    @property
    def is_empty(self) -> bool:
        """True when nothing is here."""
        return not self.assignments

    @property
    def is_worn_out(self) -> bool:
        """True once the worker has been given as many jobs as it may run."""
        return self._left is not None and self._left <= 0

    @property
    def free_slots(self) -> int:
        """How many jobs may come and start at once."""
        return max(self._slots - len(self.assignments), 0) if self.has_room() else 0

    @property
    def delay(self) -> float:
        """How long a job put here now would wait, in microseconds; to compare lanes by."""
        if len(self.assignments) < self._slots:
            return 0.0
        return self._work / max(self._slots - self._slow, 1)

    def has_room(self, *, alone: bool = False) -> bool:
        """Say whether one more job may come: it would start at once, or after no more than the budget."""
        if not self.is_open or self.is_silent or self.is_worn_out or self._is_alone or self.is_reserved:
            return False
        count = len(self.assignments)
        if alone:
            return count == 0
        quick = self._slots - self._slow
        is_short = quick > 0 and self._work < BUDGET * quick and count < self._slots + MOST_WAITING
        return count < self._slots or (is_short and self._bytes < MOST_BYTES)

    def room(self, mean: float | None) -> int:
        """Return how many jobs may come if they take *mean* microseconds each."""
        if not self.has_room():
            return 0
        count = len(self.assignments)
        room = max(self._slots - count, 0)
        quick = self._slots - self._slow
        if mean is not None and mean < BUDGET and quick > 0 and self._bytes < MOST_BYTES:
            short = int((BUDGET * quick - self._work) / max(mean, 1.0))
            room = max(room, min(short, self._slots + MOST_WAITING - count))
        return room if self._left is None else min(room, self._left)

    @property
    def lowest_waiting(self) -> int | None:
        """The priority of the least urgent job that waits behind others, or None: it gives way to a more urgent one."""
        if not self.is_open or self.is_silent or len(self.assignments) <= self._slots:
            return None
        return min(each.job.priority for each in list(self.assignments.values())[self._slots :])

    @property
    def is_short(self) -> bool:
        """True when it is to get jobs at once, because it has nothing to do or soon will."""
        quick = self._slots - self._slow
        return self.has_room() and (len(self.assignments) < self._slots or self._work < SHORT * quick)

    @property
    def has_plenty(self) -> bool:
        """True when it will not be short before the next round, whatever its worker reports meanwhile."""
        quick = self._slots - self._slow
        return quick > 0 and self._work >= (SHORT + PAUSE * SECOND) * quick

    def add(self, assignment: Assignment, *, alone: bool = False) -> None:
        """Count a job in."""
        if self.is_empty:
            self.last_sign = assignment.sent
        self.assignments[assignment.job.number] = assignment
        self._is_alone |= alone
        self._bytes += len(assignment.job.payload)
        self.lowest_priority = min(self.lowest_priority, assignment.job.priority)
        if self._left is not None:
            self._left -= 1
        if assignment.expected is None:
            self._slow += 1
        else:
            self._work += assignment.expected

    def remove(self, number: int) -> Assignment | None:
        """Count a job out, because it has ended or been taken back; None when it is not here."""
        assignment = self.assignments.pop(number, None)
        if assignment is None:
            return None
        self._bytes -= len(assignment.job.payload)
        if assignment.expected is None:
            self._slow -= 1
        else:
            self._work -= assignment.expected
        if self.is_empty:
            self._work, self._is_alone = 0.0, False  # and no rounding adds up
            self.lowest_priority = HIGHEST
        return assignment

    def bring_back(self, numbers: list[int]) -> list[Assignment]:
        """Count out jobs that were taken back unstarted, and return them, in their order."""
        taken = [assignment for number in numbers if (assignment := self.remove(number)) is not None]
        if taken:
            self.lowest_priority = min((each.job.priority for each in self.assignments.values()), default=HIGHEST)
        if self._left is not None:
            self._left += len(taken)
        return taken

    def falls_silent(self, now: int) -> int:
        """Give the worker no more jobs for a while; return how many times that has happened since it last moved."""
        self.is_silent = True
        self.silent_since = now
        self.silences += 1
        return self.silences

    def moves(self, now: int) -> None:
        """Take note that the worker has ended a job."""
        self.last_sign = now
        self.is_silent = False
        self.silences = 0

    def mark_slow(self, assignment: Assignment) -> None:
        """Expect nothing of a job that takes longer than expected: nothing is to wait behind it."""
        if assignment.expected is not None:
            self._work -= assignment.expected
            self._slow += 1
            assignment.expected = None
