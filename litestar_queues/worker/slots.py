"""Take jobs, run several at a time: a worker with slots.

Coroutines run on one event loop in the main thread, synchronous tasks in threads. A job is taken
from the queue when a slot is free and not before, so what waits can still be taken back.

The server itself has no asyncio task, only callbacks: a job that cancels all tasks it finds ends
jobs, and each end is reported.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context, copy_context
from functools import partial
from typing import Any, NamedTuple

from litestar_queues import wire
from litestar_queues.cell import Cell
from litestar_queues.clock import Clock
from litestar_queues.exceptions import Snooze
from litestar_queues.registry import tasks
from litestar_queues.running import Execution
from litestar_queues.worker import leftovers, stepping
from litestar_queues.worker.belongings import Belongings, Ending, Left
from litestar_queues.worker.birth import Worker
from litestar_queues.worker.interrupts import Interrupts
from litestar_queues.worker.jobloop import JobLoop, belongings_in
from litestar_queues.worker.restoring import Baseline
from litestar_queues.worker.serving import begin, patience_for, send_end, warn_of_ended, warn_of_rest
from litestar_queues.worker.speaking import Speaker

_NO_THREAD = 1.0
"""Seconds after which a job is tried again for which no thread could be started."""


class SlotServer:
    """Serves the jobs of one worker's queue, as many at a time as there are cells."""

    def __init__(self, worker: Worker, clock: Clock) -> None:
        self._worker = worker
        self._clock = clock
        self._free = list(reversed(worker.cells))
        self._interrupts = Interrupts(worker.reports)
        self._loop = JobLoop(stepping.make_task)
        self._threads = ThreadPoolExecutor(len(worker.cells), thread_name_prefix="lq-slot")
        self._running: set[asyncio.Future[wire.Done | wire.Failed]] = set()
        self._is_closed = False
        self._is_over = False
        self._is_listening = False
        self._error: BaseException | None = None
        """What the server itself has met with: the process ends with it."""
        self._may_leave = False
        """A job since the worker was last idle was allowed to leave processes behind."""
        self._is_stuck = False
        """What a job left on the loop would not end."""
        self.is_last = False
        """One of the two, and so this worker takes no more: nobody is to take what lives on for a later job's."""
        self._pid = os.getpid()

    def serve(self) -> None:
        """Run jobs until the master closes the queue and those that run have ended."""
        asyncio.set_event_loop(self._loop)
        self._interrupts.install()
        self._baseline = Baseline(self._worker)
        self._listen()
        while not self._is_over:
            # Again, where a job has stopped the loop, or a task that it has started raised SystemExit.
            with contextlib.suppress(SystemExit, KeyboardInterrupt):
                self._loop.run_forever()
        self._loop.close()
        self._baseline.close()
        if self._error is not None:
            raise self._error

    def _listen(self) -> None:
        """Take jobs while a slot is free."""
        wanted = bool(self._free) and not self._is_closed
        if wanted and not self._is_listening:
            self._loop.add_reader(self._worker.jobs, self._guarded, self._take)
        elif self._is_listening and not wanted:
            self._loop.remove_reader(self._worker.jobs)
        self._is_listening = wanted

    def _guarded(self, call: Callable[..., None], *args: Any) -> None:
        """Call it for the server itself: the loop would log its error, and go on with a job that nobody ends."""
        try:
            call(*args)
        except BaseException as error:
            self._error = error
            self._end_serving()

    def _take(self) -> None:
        try:
            while self._free:
                self._start(wire.receive_run(self._worker.jobs, wire.DONT_WAIT))
        except BlockingIOError:
            pass  # no more wait, or the master has taken them back
        except (wire.ChannelClosed, wire.FrameError) as error:
            # A frame that cannot be received (no descriptor is left for it) begins elsewhere when this process has
            # ended; what runs here is let end first.
            self._error = error if isinstance(error, wire.FrameError) else None
            self._is_closed = True
            if not self._running:
                self._end_serving()
        self._listen()

    def _start(self, run: wire.Run) -> None:
        # The cell first: what comes after it may fail, and the master must know whose fault it was.
        cell = self._free.pop()
        beginning = begin(cell, run, self._clock)
        speaker = Speaker(self._worker.reports, self._clock)
        gate = self._interrupts.gate(cell)
        name = self._worker.name
        execution = Execution(
            run,
            sink=speaker,
            worker=name,
            clock=self._clock,
            gate=gate,
            measure_cpu=False,
            beginning=beginning,
        )
        context = copy_context()
        belongings = belongings_in(context, self._loop)
        running: asyncio.Future[wire.Done | wire.Failed]
        if _runs_in_thread(run):
            running = asyncio.wrap_future(self._submit(context, execution), loop=self._loop)
        else:
            stepping.show_steps_in(context, cell)
            running = self._loop.create_job(execution.run_async(owns_task=True), context)
        self._running.add(running)
        turn = _Turn(run, cell, speaker, execution)
        running.add_done_callback(partial(self._guarded, self._end_rest, turn, belongings))

    def _submit(self, context: Context, execution: Execution) -> Future[wire.Done | wire.Failed]:
        """Have a thread run it; where none can be started, the job runs again later, at no cost."""
        future: Future[wire.Done | wire.Failed] = Future()
        try:
            self._threads.submit(_run_in_thread, future, context, execution)
        except (
            RuntimeError
        ) as error:  # by then it is queued: a thread that is busy would run it later, and twice in all
            future.cancel()
            future = Future()
            execution.context.log_sync(f"no thread could be started ({error}); the job runs again later", "warning")
            future.set_exception(Snooze(_NO_THREAD))
        return future

    def _end_rest(self, turn: _Turn, belongings: Belongings, running: asyncio.Future[wire.Done | wire.Failed]) -> None:
        """End what the job has left on the loop, if anything, and then it has ended."""
        if os.getpid() != self._pid:
            os._exit(1)  # a child that the task forked and that came back from it
        if belongings.is_empty():
            self._end(turn, running)
        else:
            patience = patience_for(turn.execution.context)
            then = partial(self._guarded, self._end, turn, running)
            Ending(self._loop, belongings, then, patience=patience)

    def _end(self, turn: _Turn, running: asyncio.Future[wire.Done | wire.Failed], left: Left | None = None) -> None:
        run, cell, speaker, execution = turn
        self._running.discard(running)
        if left is not None:
            self._is_stuck |= warn_of_rest(left, execution.context)
        try:
            end = running.result()
        # Cancelled before its first step, or with an error that cannot even be reported.
        except BaseException as error:
            end = execution.ended_by(error)
        self._may_leave |= run.allow_background
        if not self._running:
            self._clear_up(execution)
        for stream in self._worker.streams:
            stream.finish(execution.context)
        end.dropped = speaker.dropped
        end.is_last = self.is_last
        try:
            send_end(self._worker.reports, end, execution)
        except wire.ChannelClosed:  # the master is gone, and the zygote ends this process soon
            self._end_serving()
            return
        cell.end()
        self._free.append(cell)
        self._loop.restore()
        if not self._running:
            self._baseline.restore(self._loop)
        self._listen()
        if self._is_closed and not self._running:
            self._end_serving()

    def _end_serving(self) -> None:
        self._is_over = True
        self._loop.stop()

    def _clear_up(self, execution: Execution) -> None:
        """End what jobs left behind, once no other runs that it may belong to."""
        self.is_last |= self._is_stuck
        if leftovers.has_children():
            if self._may_leave:
                self.is_last |= leftovers.reap_dead()
            else:
                warn_of_ended(leftovers.end_all(), execution.context)
        self._is_closed |= self.is_last
        self._may_leave = False


class _Turn(NamedTuple):
    """A job, and what it occupies."""

    run: wire.Run
    cell: Cell
    speaker: Speaker
    execution: Execution


def _run_in_thread(future: Future[wire.Done | wire.Failed], context: Context, execution: Execution) -> None:
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(context.run(execution.run_in_thread))
        # With an error that cannot even be reported.
        except BaseException as error:
            future.set_exception(error)


def _runs_in_thread(run: wire.Run) -> bool:
    task = tasks.find(run.task)
    return task is not None and not task.is_coroutine
