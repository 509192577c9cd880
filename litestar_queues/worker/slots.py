"""Take jobs, run several at a time: a worker with slots.

Coroutines run on one event loop in the main thread, synchronous tasks in threads. A job is taken
from the queue when a slot is free and not before, so what waits can still be taken back.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import uvloop

from litestar_queues import wire
from litestar_queues.cell import Cell
from litestar_queues.clock import Clock
from litestar_queues.registry import tasks
from litestar_queues.running import Execution
from litestar_queues.worker import leftovers, stepping
from litestar_queues.worker.birth import Worker
from litestar_queues.worker.interrupts import Interrupts
from litestar_queues.worker.serving import begin, warn_of_ended
from litestar_queues.worker.speaking import Speaker


class SlotServer:
    """Serves the jobs of one worker's queue, as many at a time as there are cells."""

    def __init__(self, worker: Worker, clock: Clock) -> None:
        self._worker = worker
        self._clock = clock
        self._free = list(reversed(worker.cells))
        self._interrupts = Interrupts()
        self._loop = uvloop.new_event_loop()
        self._loop.set_task_factory(stepping.make_task)
        self._threads = ThreadPoolExecutor(len(worker.cells), thread_name_prefix="lq-slot")
        self._running: set[asyncio.Task[None]] = set()
        self._closed = self._loop.create_future()
        self._is_listening = False
        self._may_leave = False
        """A job since the worker was last idle was allowed to leave processes behind."""
        self._pid = os.getpid()

    def serve(self) -> None:
        """Run jobs until the master closes the queue and those that run have ended."""
        asyncio.set_event_loop(self._loop)
        self._interrupts.install()
        self._listen()
        self._loop.run_until_complete(self._until_closed())
        self._loop.close()

    async def _until_closed(self) -> None:
        await self._closed
        if self._running:
            await asyncio.wait(self._running)

    def _listen(self) -> None:
        """Take jobs while a slot is free."""
        wanted = bool(self._free) and not self._closed.done()
        if wanted and not self._is_listening:
            self._loop.add_reader(self._worker.jobs, self._take)
        elif self._is_listening and not wanted:
            self._loop.remove_reader(self._worker.jobs)
        self._is_listening = wanted

    def _take(self) -> None:
        try:
            while self._free:
                self._start(wire.receive_run(self._worker.jobs, wire.DONT_WAIT))
        except BlockingIOError:
            pass  # no more wait, or the master has taken them back
        except wire.ChannelClosed:
            self._closed.set_result(None)
        self._listen()

    def _start(self, run: wire.Run) -> None:
        # The cell first: what comes after it may fail, and the master must know whose fault it was.
        cell = self._free.pop()
        begin(cell, run, self._clock)
        job = self._loop.create_task(self._serve_one(run, cell), context=stepping.context_of(cell, copy_context()))
        self._running.add(job)
        job.add_done_callback(self._running.discard)

    async def _serve_one(self, run: wire.Run, cell: Cell) -> None:
        speaker = Speaker(self._worker.reports)
        gate = self._interrupts.gate(cell)
        name = self._worker.name
        execution = Execution(run, sink=speaker, worker=name, clock=self._clock, gate=gate, measure_cpu=False)
        if _runs_in_thread(run):
            end = await self._loop.run_in_executor(self._threads, execution.run_in_thread)
        else:
            end = await execution.run_async()
        if os.getpid() != self._pid:
            os._exit(1)  # a child that the task forked and that came back from it
        self._may_leave |= run.allow_background
        if len(self._running) == 1:
            self._clear_up(execution)
        for stream in self._worker.streams:
            stream.finish(execution.context)
        end.dropped = speaker.dropped
        wire.send(self._worker.reports, end)
        cell.end()
        self._free.append(cell)
        self._listen()

    def _clear_up(self, execution: Execution) -> None:
        """End what jobs left behind, once no other runs that it may belong to."""
        if leftovers.has_children():
            if self._may_leave:
                leftovers.reap_dead()
            else:
                warn_of_ended(leftovers.end_all(), execution.context)
        self._may_leave = False


def _runs_in_thread(run: wire.Run) -> bool:
    task = tasks.find(run.task)
    return task is not None and not task.is_coroutine
