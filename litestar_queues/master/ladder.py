"""Make a run stop, whatever it is doing: look where it stands, ask, and kill what does not listen.

1. SIGUSR1: ``faulthandler`` writes the stack to a memory file (0.1 ms; inside C code too).
2. The cell says which run is to stop, and SIGUSR2 delivers that: the coroutine is cancelled, or
   ``JobInterrupted`` raised. Code that can clear up does so, and the worker lives on.
3. After the job's ``kill_grace``: SIGKILL, to the worker and its session.

Timeouts, cancellation and the end of a drain are the same ladder; a job above its memory limit
gets no grace, because it would go on growing.
"""

from __future__ import annotations

import asyncio
import signal

from litestar_queues.cell import Reason
from litestar_queues.clock import SECOND
from litestar_queues.master import strays
from litestar_queues.master.assignments import Assignment, Stop
from litestar_queues.master.notices import JobStopping, Subscriber
from litestar_queues.master.process import WorkerProcess

_STOPPED = "the process was stopped (state T), so it could not show its stack"


def begin(assignment: Assignment, reason: Reason, tell: Subscriber, blocked: int = 0) -> Stop | None:
    """Decide that the run of *assignment* is to stop; from now on its end is known to be our doing.

    *blocked* is for how many microseconds it has kept the event loop from a neighbour that is out of time.
    Returns None for a run that has ended, or is being stopped already: the first reason stays.
    """
    if assignment.stop is not None or assignment.has_ended:
        return None
    job = assignment.job
    assignment.stop = Stop(reason, blocked=blocked)
    tell(JobStopping(job.number, job.task, assignment.worker.name, reason.name.lower()))
    return assignment.stop


async def enforce(assignment: Assignment, stop: Stop) -> None:
    """Make the run stop within its ``kill_grace``; return once it has ended or been killed."""
    worker, job = assignment.worker, assignment.job
    loop = asyncio.get_running_loop()
    grace = 0 if stop.reason == Reason.MEMORY else job.kill_grace
    kill_at = loop.time() + grace / SECOND
    shown = assignment.shown()
    stop.thread = 0 if shown is None else shown.thread
    stop.stack = await _look(worker)
    if assignment.has_ended:
        return
    cell = assignment.cell()
    if cell is not None:
        cell.ask_to_stop(job.number, job.fence, stop.reason)
        worker.signal(signal.SIGUSR2)
    try:
        async with asyncio.timeout_at(kill_at):
            await assignment.until_ended()
    except TimeoutError:
        if assignment.worker is worker:  # else it was not begun there, and has been taken back
            worker.kill()


async def _look(worker: WorkerProcess) -> str | None:
    async with worker.looking:
        if worker.is_dead:  # it may have died while others looked
            return None
        worker.stack.clear()
        if strays.state_of(worker.pid) == "T":
            return _STOPPED
        worker.signal(signal.SIGUSR1)
        stack = await worker.stack.wait()
        if not worker.is_dead:
            worker.stack.clear()  # what comes next is a fatal signal's
        return stack
