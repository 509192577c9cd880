"""Look at each lane when its time has come: who is late, and who waits behind one that does not move.

What is judged is what the cells show, for that is when a job really started. What counts is the time in which its
worker was read: while the store refuses, workers are not, and wait in the middle of a word (``Pauses``).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from litestar_queues.cell import Phase, Reason, Shown
from litestar_queues.clock import Clock
from litestar_queues.master import strays
from litestar_queues.master.assignments import Assignment
from litestar_queues.master.deadlines import Deadlines
from litestar_queues.master.lanes import Lane

DAWDLE = 50 * 1_000_000
"""Nanoseconds without a move after which what waits in a lane is taken back: more than its budget."""
OVERSLEPT = 1_000_000_000
"""Nanoseconds that a look may come too late before this process itself is taken to have been stopped."""
LONGEST_SILENCE = 5 * 1_000_000_000
"""Nanoseconds at most until a worker that runs jobs, and does not come for others, is given one again."""
MEMORY_LOOK = 50 * 1_000_000
"""Nanoseconds between looks at the memory of a job that has a limit; one look costs 24 µs."""
TAKE_WITHIN = 5 * 1_000_000_000
"""Nanoseconds in which an idle worker must have begun a job it was sent; one that has not is killed,
and the job is not charged."""
LONGEST_EXCUSE = 60 * 1_000_000_000
"""Nanoseconds at most by which pauses move the deadline of one run: the store may be stuck because of that very run, which
holds a lock of the database and waits here to be read."""
MOST_PAUSES = 1_000
"""Pauses that are told apart."""


class Pauses:
    """When no worker was read, because too much waited for the store: that time counts against none of them.

    While it lasts no run is late and no worker idle too long: a job that hangs is stopped when the store takes writes
    again and the rest of its time is over, or after ``LONGEST_EXCUSE``. Cancelling and limits of memory go on.

    Pure: the caller brings the clock.
    """

    def __init__(self) -> None:
        self._began: int | None = None
        self._past: deque[tuple[int, int]] = deque()
        """Of each pause when it ended, and how long it was."""

    @property
    def is_on(self) -> bool:
        """True while no worker is read."""
        return self._began is not None

    def begin(self, now: int) -> None:
        """Take note that from now on no worker is read."""
        if self._began is None:
            self._began = now

    def end(self, now: int) -> None:
        """Take note that they are read again."""
        if self._began is None:
            return
        self._past.append((now, now - self._began))
        self._began = None
        if len(self._past) > MOST_PAUSES:  # a run that began between the oldest two is given the time of both
            (_, first), (ended, second) = self._past.popleft(), self._past.popleft()
            self._past.appendleft((ended, first + second))

    def since(self, moment: int, now: int) -> int:
        """Return for how long, from *moment* to *now*, they were not read."""
        total = 0 if self._began is None else now - max(self._began, moment)
        for ended, length in reversed(self._past):
            if ended <= moment:
                break
            total += min(length, ended - moment)
        return total


class Timekeeper:
    """Owns the one timer of a master's lanes."""

    def __init__(
        self,
        clock: Clock,
        stop: Callable[[Assignment, Reason, int], None],
        take_back: Callable[[Lane, bool], None],
    ) -> None:
        self._clock = clock
        self._stop = stop
        self._take_back = take_back
        """Takes back what waits in a lane; true leaves one job there, to see whether the worker comes for it."""
        self._loop = asyncio.get_running_loop()
        self._deadlines: Deadlines[Lane] = Deadlines()
        self._silent_until: dict[Lane, int] = {}
        self.pauses = Pauses()
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for = 0
        self._awake_since = 0
        """This process was stopped until then (Ctrl-Z, a frozen container): what its workers did meanwhile is not yet
        read, and says nothing against them."""

    def watch(self, lane: Lane, assignment: Assignment) -> None:
        """Look at *lane* in time for a job that has just been sent to it."""
        # It cannot be late before its timeout has passed since it was sent, whenever it will have started.
        timeout = assignment.job.timeout
        due = assignment.sent + DAWDLE
        self._bring_forward(lane, due if timeout is None else min(due, assignment.sent + timeout * 1_000))

    def forget(self, lane: Lane) -> None:
        """Look at *lane* no more."""
        self._deadlines.drop(lane)
        self._silent_until.pop(lane, None)

    def _bring_forward(self, lane: Lane, due: int) -> None:
        if self._deadlines.bring_forward(lane, due) and (self._timer is None or due < self._armed_for):
            self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._deadlines.next()
        if due is not None:
            self._armed_for = due
            self._timer = self._loop.call_later(max(due - self._clock.monotonic(), 0) / 1e9, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._clock.monotonic()
        if now - self._armed_for > OVERSLEPT:
            self._awake_since = now
        for lane in self._deadlines.take_late(now):
            due = self._judge(lane)
            if due is not None:
                self._deadlines.bring_forward(lane, due)
        self._arm()

    def _judge(self, lane: Lane) -> int | None:
        """Do what is due in *lane*, and return when to look again."""
        now = self._clock.monotonic()
        running, waiting = _sorted_by_cell(lane)
        dues: list[int] = []
        if not running and not waiting:
            lane.is_silent = False  # what it did not come for has been taken away: cancelled, or given to another
        elif lane.is_silent and running:
            has_begun = any(shown.started > lane.silent_since for _, shown in running)
            lane.is_silent = not has_begun and now < self._silent_until.get(lane, 0)
            dues.append(now + DAWDLE)
        blocking = self._blocking(running, now)
        for assignment, shown in running:
            if assignment.stop is None:
                dues += self._judge_running(assignment, shown, blocking, now)
        if waiting:
            moved = max(self._awake_since, lane.last_sign, waiting[0].sent, *(shown.started for _, shown in running))
            dues.append(self._judge_waiting(lane, running, moved, now))
        return min(dues, default=None)

    def _judge_running(
        self, assignment: Assignment, shown: Shown, blocking: tuple[Assignment, Reason, int] | None, now: int
    ) -> list[int]:
        """Stop a run that is over a limit, or return when to look again.

        One that is out of time because a neighbour is *blocking* the event loop is not to blame: the
        neighbour is stopped, and the worker's death gives this one back uncharged.
        """
        job = assignment.job
        dues: list[int] = []
        if job.max_rss is not None:
            if assignment.sample_memory() > job.max_rss:
                self._stop(assignment, Reason.MEMORY, 0)
                return []
            dues.append(now + MEMORY_LOOK)
        if job.timeout is not None:
            due = shown.started + job.timeout * 1_000
            if due <= now:
                due += min(self.pauses.since(shown.started, now), LONGEST_EXCUSE)
            if due > now:
                dues.append(max(due, now + DAWDLE) if self.pauses.is_on else due)
            elif blocking is None or blocking[0] is assignment:
                self._stop(assignment, Reason.TIMEOUT, 0)
            else:
                self._stop(*blocking)
                dues.append(now + DAWDLE)
        return dues

    def _judge_waiting(self, lane: Lane, running: list[tuple[Assignment, Shown]], moved: int, now: int) -> int:
        if self.pauses.is_on:  # it may have come, and not be heard
            return now + DAWDLE
        moved += self.pauses.since(moved, now)
        if now - moved < DAWDLE:
            return moved + DAWDLE
        if running:
            if len(running) < len(lane.worker.cells):
                # It has a free slot and does not come: a coroutine keeps its loop. Try again later, and later each time.
                times = lane.falls_silent(now)
                self._silent_until[lane] = now + min(DAWDLE << min(times, 10), LONGEST_SILENCE)
            for assignment, _ in running:
                lane.mark_slow(assignment)
            self._take_back(lane, False)
            return now + DAWDLE
        worker = lane.worker
        if now - moved >= TAKE_WITHIN or strays.state_of(worker.pid) == "T":
            worker.kill()
            return now + TAKE_WITHIN
        if not lane.is_silent:
            lane.falls_silent(now)
            self._take_back(lane, True)
        return now + DAWDLE

    def _blocking(self, running: list[tuple[Assignment, Shown]], now: int) -> tuple[Assignment, Reason, int] | None:
        """Return the run that has kept the event loop for longer than any step should, and for how long (microseconds)."""
        for assignment, shown in running:
            if len(running) > 1 and shown.step_began and now - shown.step_began > DAWDLE:
                kept = now - shown.step_began - self.pauses.since(shown.step_began, now)
                if kept > DAWDLE:
                    return assignment, Reason.TIMEOUT, kept // 1_000
        return None


def _sorted_by_cell(lane: Lane) -> tuple[list[tuple[Assignment, Shown]], list[Assignment]]:
    """Return the jobs of *lane* that run, with what their cells show, and those that have not begun."""
    cells = [cell.read() for cell in lane.worker.cells]
    shown = {(each.number, each.fence): each for each in cells if each.phase != Phase.IDLE}
    running: list[tuple[Assignment, Shown]] = []
    waiting: list[Assignment] = []
    for assignment in lane.assignments.values():
        cell = shown.get((assignment.job.number, assignment.job.fence))
        if cell is None:
            waiting.append(assignment)
        elif cell.phase == Phase.RUNNING:
            running.append((assignment, cell))
    return running, waiting
