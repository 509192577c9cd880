"""Take a job, run it, report it, take the next: a worker that runs one job at a time.

The main thread does it all: it blocks in ``recv`` until a job comes, runs it (a coroutine on an
event loop that lives as long as the worker), and sends the end before it takes the next job. From
the first of several coroutines to the end of the last it stays on the loop, and does the rest
there, in callbacks; for a function it leaves the loop, because functions may run loops themselves.
Nothing runs beside a job unless a task starts it.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import inspect
import os
import socket
import termios
import time
from contextvars import copy_context
from functools import partial
from typing import Any

from msgspec import Struct

from litestar_queues import wire
from litestar_queues.cell import Cell
from litestar_queues.clock import Clock
from litestar_queues.events import secrets
from litestar_queues.events.context import TaskExecutionContext
from litestar_queues.exceptions import JobInterrupted
from litestar_queues.registry import tasks
from litestar_queues.running import Beginning, Execution
from litestar_queues.worker import leftovers
from litestar_queues.worker.belongings import PATIENCE, Ending, Left
from litestar_queues.worker.birth import Worker
from litestar_queues.worker.interrupts import Interrupts
from litestar_queues.worker.jobloop import JobLoop
from litestar_queues.worker.restoring import Baseline
from litestar_queues.worker.speaking import Speaker

_PATIENCE = 0.5
"""Seconds that the master gets to read what a job has written to descriptors 1 and 2."""
_LOOK_EVERY = 0.0005
_COMMAND = 200
"""Characters of a process's command line that are told."""
_waiting = array.array("i", [0])
"""What the kernel fills in; asked twice a job."""


class _Turn(Struct, eq=False):
    """A job that has been taken, and so has begun."""

    run: wire.Run
    speaker: Speaker
    execution: Execution
    end: wire.Done | wire.Failed | None = None
    """How it ended, once it has; not reported yet."""


class Server:
    """Serves the jobs of one worker's queue, one by one."""

    def __init__(self, worker: Worker, clock: Clock) -> None:
        self._worker = worker
        self._cell = worker.cells[0]
        self._clock = clock
        self._interrupts = Interrupts(worker.reports)
        self._gate = self._interrupts.gate(self._cell)
        self._loop = JobLoop()
        self._pid = os.getpid()
        self._turn: _Turn | None = None
        """The job that is here; None between two, when nothing of the one before is held."""
        self._is_staying = False
        """Coroutines are run one after another, without leaving the loop."""
        self._job: asyncio.Task[wire.Done | wire.Failed] | None = None
        """The one that runs."""
        self._error: BaseException | None = None
        """What the server itself has met with on the loop."""
        self.is_last = False
        """A job has left something that is allowed to live on, or would not end: this worker's last."""

    def serve(self) -> None:
        """Run jobs until the master closes the queue."""
        asyncio.set_event_loop(self._loop)
        self._interrupts.install()
        self._baseline = Baseline(self._worker)
        try:
            while not self.is_last:
                if self._turn is None:
                    self._turn = self._take()
                elif self._turn.end is not None:
                    self._finish(self._turn)
                elif _is_coroutine(self._turn.run):
                    self._stay_on_loop()
                else:
                    self._turn.end = self._run(self._turn.execution)
        except wire.ChannelClosed:
            return
        finally:
            self._loop.close()
            self._baseline.close()

    def _take(self) -> _Turn:
        """Wait for a job, and begin it."""
        run = wire.receive_run(self._worker.jobs)
        beginning = begin(self._cell, run, self._clock)
        speaker = Speaker(self._worker.reports, self._clock)
        name = self._worker.name
        return _Turn(
            run,
            speaker,
            Execution(run, sink=speaker, worker=name, clock=self._clock, gate=self._gate, beginning=beginning),
        )

    def _finish(self, turn: _Turn) -> None:
        """Report the end of a job, once all that it has left has ended too."""
        run, execution, end = turn.run, turn.execution, turn.end
        assert end is not None
        if os.getpid() != self._pid:
            # A child that the task forked and that came back from it: there is one server, and it is not this.
            os._exit(1)
        if not self._loop.is_closed() and not self._loop.rest.is_empty():
            self._end_rest(execution.context)
        if leftovers.has_children():
            self._clear_up(run, execution.context)
        for stream in self._worker.streams:
            stream.finish(execution.context)
        _until_read()
        end.dropped = turn.speaker.dropped
        end.is_last = self.is_last
        send_end(self._worker.reports, end, execution)
        self._cell.end()
        self._turn = None
        if self._loop.is_closed():  # by a synchronous task, as the idiom of old was
            self._loop = JobLoop()
        self._loop.restore()
        self._baseline.restore(self._loop)

    def _stay_on_loop(self) -> None:
        """Run a coroutine, and those that come after it: entering and leaving the loop costs 40 µs, 29 system calls."""
        self._is_staying = True
        self._start()
        while self._is_staying:
            try:
                self._loop.run_forever()  # again, where a job has stopped it
            except (SystemExit, KeyboardInterrupt) as error:  # of a task or a callback that a job has given to the loop
                self._give_up(error)
                if not self._is_staying:
                    self._use_up_stop()
        if self._error is not None:
            raise self._error

    def _start(self) -> None:
        turn = self._turn
        assert turn is not None
        # In a copy of the context: what a task sets there is not the next one's to see.
        self._job = self._loop.create_job(turn.execution.run_async(owns_task=True), copy_context())
        self._job.add_done_callback(partial(self._take_end, turn))

    def _take_end(self, turn: _Turn, job: asyncio.Task[wire.Done | wire.Failed]) -> None:
        if turn.end is not None:
            return  # it has been given up, and what became of it since is nobody's
        try:
            turn.end = job.result()
        # Cancelled before its first step, or with an error that cannot even be reported.
        except BaseException as error:
            turn.end = turn.execution.ended_by(error)
        self._job = None
        # From a callback that does not hold the job: the wait for the next one may be long.
        self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        """Go on after the end of a coroutine: on the loop if it has left nothing there, and the next is one too."""
        self._is_staying = False
        try:
            # A loop in debug mode would tell of the wait as of a slow callback.
            if self._turn is not None and self._loop.rest.is_empty() and not self._loop.get_debug():
                self._finish(self._turn)
                if not self.is_last:
                    self._turn = self._take()
                    self._is_staying = _is_coroutine(self._turn.run)
                    if self._is_staying:
                        self._start()
        # The loop would log it, and wait for ever.
        except BaseException as error:
            self._error, self._is_staying = error, False
        if not self._is_staying:
            self._loop.stop()

    def _use_up_stop(self) -> None:
        """Let the loop stop once: where the exception has overtaken a stop of ours, the next run of it would end at once."""
        has_stopped = False
        while not has_stopped:
            self._loop.stop()
            with contextlib.suppress(SystemExit, KeyboardInterrupt):
                self._loop.run_forever()
                has_stopped = True

    def _give_up(self, error: BaseException) -> None:
        """End the job that runs by what went through the loop; one that has not begun is not meant, but the one before."""
        if self._turn is not None and self._job is not None and _has_begun(self._job):
            self._gate.shut()
            self._turn.end = self._turn.execution.ended_by(error)
            self._loop.rest.add_task(self._job)
            self._job, self._is_staying = None, False

    def _run(self, execution: Execution) -> wire.Done | wire.Failed:
        try:
            # In a copy of the context: what a task sets there is not the next one's to see.
            return copy_context().run(execution.run, self._loop)
        # An interruption may come between the end of the user's code and the shutting of the gate.
        except JobInterrupted as error:
            self._gate.shut()
            return execution.ended_by(error)

    def _end_rest(self, context: TaskExecutionContext) -> None:
        ended: asyncio.Future[Left] = self._loop.create_future()
        Ending(self._loop, self._loop.rest, ended.set_result, patience=patience_for(context))
        while not ended.done() and not self._loop.is_closed():
            # What the job has left may raise SystemExit, which goes through the loop.
            with contextlib.suppress(BaseException):
                self._loop.run_until_complete(ended)
        if ended.done():
            self.is_last |= warn_of_rest(ended.result(), context)

    def _clear_up(self, run: wire.Run, context: TaskExecutionContext) -> None:
        if run.allow_background:
            # This worker takes no more jobs, so that nobody can take what lives on for a later job's.
            self.is_last |= leftovers.reap_dead()
        else:
            warn_of_ended(leftovers.end_all(), context)


def _has_begun(job: asyncio.Task[Any]) -> bool:
    """Say whether a task has done its first step."""
    coroutine = job.get_coro()
    return not inspect.iscoroutine(coroutine) or inspect.getcoroutinestate(coroutine) != inspect.CORO_CREATED


def _is_coroutine(run: wire.Run) -> bool:
    task = tasks.find(run.task)
    return task is not None and task.is_coroutine


def begin(cell: Cell, run: wire.Run, clock: Clock) -> Beginning:
    """Write down that *run* begins here, and return when: from now on the job counts as started."""
    at, monotonic, cpu = beginning = Beginning.now(clock)
    cell.begin(run.number, run.fence, started=monotonic, started_at=at, cpu=cpu // 1_000)
    return beginning


def send_end(reports: socket.socket, end: wire.Done | wire.Failed, execution: Execution) -> None:
    """Report the end of a run; that it cannot be reported, if it is too large.

    A worker that the system lets send no more (a job has used up its descriptors) is replaced.
    """
    try:
        wire.send(reports, end)
    except wire.FrameError as error:
        instead = execution.too_large(error)
        instead.dropped, instead.is_last = end.dropped, end.is_last or isinstance(error, wire.FrameRefused)
        wire.send(reports, instead)


def patience_for(context: TaskExecutionContext) -> float | None:
    """Return the seconds that what the job has left gets; None once it is the master who has patience with it."""
    return None if context.is_cancelled else PATIENCE


def warn_of_rest(left: Left, context: TaskExecutionContext) -> bool:
    """Say in the job's log what it has left, but for generators; return whether some of it would not end."""
    if left.cancelled or left.called or left.is_stuck:
        context.log_sync(str(left), "warning")
    return left.is_stuck


def warn_of_ended(processes: list[str], context: TaskExecutionContext) -> None:
    """Say in the job's log which of its processes were ended."""
    if processes:
        shown = [secrets.clean(each)[:_COMMAND] for each in processes[:10]]
        which = "; ".join(shown) + ("; …" if len(processes) > 10 else "")
        context.log_sync(
            f"the job left {len(processes)} processes running, which were killed ({which}); "
            "wait for them in the task, or declare it with allow_background=True",
            "warning",
        )


def _until_read() -> None:
    """Wait until the master has read what was written to descriptors 1 and 2, so that it knows whose it is."""
    give_up: float | None = None
    while _unread(1) or _unread(2):
        now = time.monotonic()
        give_up = give_up or now + _PATIENCE
        if now > give_up:
            return
        time.sleep(_LOOK_EVERY)


def _unread(descriptor: int) -> int:
    """Return how many bytes wait in a pipe; 0 for what is none (a task may have replaced it)."""
    try:
        fcntl.ioctl(descriptor, termios.FIONREAD, _waiting)
    except OSError:
        return 0
    return _waiting[0]
