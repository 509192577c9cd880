"""What jobs say, on its way to the store: each line and event to the job that it belongs to."""

from __future__ import annotations

from collections.abc import Callable

from litestar_queues import wire
from litestar_queues.clock import Clock
from litestar_queues.events.stored import to_stored
from litestar_queues.master.assignments import Assignment
from litestar_queues.master.lanes import Lane
from litestar_queues.master.notices import JobSpoke, Subscriber, WorkerSpoke
from litestar_queues.master.process import WorkerProcess
from litestar_queues.master.rounds import Rounds

MOST_LINES = 1_000
LONGEST_LINE = 1_000
"""Of what one worker writes while it runs no job, lines and characters of a line that are passed on."""


class Recorder:
    """Finds out whose it is, and hands it to the rounds."""

    def __init__(self, rounds: Rounds, clock: Clock, tell: Subscriber, pause: Callable[[], None]) -> None:
        self._rounds = rounds
        self._clock = clock
        self._tell = tell
        self._pause = pause
        """Called when so much waits for the store that no worker should be read."""

    def spoke(self, lane: Lane | None, report: wire.Progress | wire.Log | wire.Event | wire.Stood) -> None:
        """Take what a job said, or its worker of where it stood."""
        if lane is None:
            return
        assignment = lane.assignments.get(report.number)
        if assignment is None or not assignment.is_for(report.number, report.fence):
            # A thread that an earlier job left running: its words belong to that job, while we know it.
            assignment = lane.last
        if assignment is None or not assignment.is_for(report.number, report.fence):
            return
        if isinstance(report, wire.Stood):
            assignment.stood(report.stack)
        else:
            self._say(assignment, report)

    def wrote(self, worker: WorkerProcess, lane: Lane | None, stream: str, line: str) -> None:
        """Take a line of raw output: the running job's, if one runs; else the worker's."""
        assignment = _only_one(lane)
        if assignment is None:
            self._hear(worker, line)
        else:
            self.wrote_by(assignment, stream, line)

    def wrote_by(self, assignment: Assignment, stream: str, line: str) -> None:
        """Take a line of raw output of this job's."""
        if assignment.has_room_for(line):
            job = assignment.job
            level = "info" if stream == "stdout" else "warning"
            self._say(assignment, wire.Log(job.number, job.fence, self._clock.now(), level, line, None, stream))

    def say_dropped(self, assignment: Assignment) -> None:
        """Say how much of what a job said has not been kept."""
        job = assignment.job
        text = f"{assignment.dropped} more were dropped: the job said more than is kept"
        self._say(assignment, wire.Log(job.number, job.fence, self._clock.now(), "warning", text, None))

    def _say(self, assignment: Assignment, report: wire.Progress | wire.Log | wire.Event) -> None:
        self._rounds.say(to_stored(report, assignment.attempt))
        if isinstance(report, wire.Log):
            job = assignment.job
            self._tell(JobSpoke(job.number, job.task, report.at, report.level, report.message, report.stream))
        if self._rounds.is_full:
            self._pause()

    def _hear(self, worker: WorkerProcess, line: str) -> None:
        """Pass on what a worker writes while it runs no job; not for ever, for a thread may be left that goes on."""
        worker.lines += 1
        if worker.lines <= MOST_LINES:
            self._tell(WorkerSpoke(worker.name, line[:LONGEST_LINE]))
        elif worker.lines == MOST_LINES + 1:
            self._tell(WorkerSpoke(worker.name, "writes more while it runs no job than is shown"))


def _only_one(lane: Lane | None) -> Assignment | None:
    """Return the job that runs at a worker with one slot, or the only one that does at another."""
    if lane is None:
        return None
    first = next(iter(lane.assignments.values()), None)
    if first is None or len(lane.worker.cells) == 1:
        return first if first is not None and first.shown() is not None else None
    running = [each for each in lane.assignments.values() if each.shown() is not None]
    return running[0] if len(running) == 1 else None
