"""Take a job, run it, report it, take the next: the worker's main loop.

The main thread does it all: it blocks in ``recv`` until a job comes, runs it (a coroutine on an
event loop that lives as long as the worker and runs only then), and sends the end before it
looks for the next job. Nothing runs beside it unless a task starts it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time

import uvloop

from litestar_queues import wire
from litestar_queues.cell import Cell
from litestar_queues.clock import Clock
from litestar_queues.exceptions import JobInterrupted
from litestar_queues.running import Execution
from litestar_queues.worker.interrupts import Interrupts
from litestar_queues.worker.speaking import JobStream, Speaker


class Server:
    """Serves the jobs that come down one channel."""

    def __init__(
        self,
        channel: socket.socket,
        cell: Cell,
        *,
        name: str,
        clock: Clock,
        speaker: Speaker,
        streams: tuple[JobStream, JobStream],
    ) -> None:
        self._channel = channel
        self._cell = cell
        self._name = name
        self._clock = clock
        self._speaker = speaker
        self._streams = streams
        self._interrupts = Interrupts(cell)
        self._loop = uvloop.new_event_loop()
        self._pid = os.getpid()

    def serve(self) -> None:
        """Run jobs until the master closes the channel."""
        asyncio.set_event_loop(self._loop)
        self._interrupts.install()
        try:
            while True:
                command, _ = wire.receive_command(self._channel)
                if isinstance(command, wire.Run):
                    self._serve_one(command)
        except wire.ChannelClosed:
            return
        finally:
            self._loop.close()

    def _serve_one(self, run: wire.Run) -> None:
        self._cell.begin(
            run.number,
            run.fence,
            started=self._clock.monotonic(),
            started_at=self._clock.now(),
            cpu=time.process_time_ns() // 1_000,
        )
        self._speaker.reset()
        execution = Execution(run, sink=self._speaker, worker=self._name, clock=self._clock, gate=self._interrupts)
        end = self._run(execution)
        if os.getpid() != self._pid:
            # A child that the task forked and that came back from it: there is one server, and it is not this.
            os._exit(1)
        for stream in self._streams:
            stream.finish(execution.context)
        end.dropped = self._speaker.dropped
        wire.send(self._channel, end)
        self._cell.end()

    def _run(self, execution: Execution) -> wire.Done | wire.Failed:
        try:
            return execution.run(self._loop)
        # An interruption may come between the end of the user's code and the shutting of the gate.
        except JobInterrupted as error:
            self._interrupts.shut()
            return execution.interrupted(error)


def await_start(channel: socket.socket) -> tuple[wire.Start, int]:
    """Wait for the master's ``Start``; return it with the descriptor of the cells.

    The node's lock comes with it and stays open: while it is held, this process may be running a
    job, and no other master takes that job over.
    """
    command, descriptors = wire.receive_command(channel)
    if not isinstance(command, wire.Start) or len(descriptors) != 2:
        msg = "the first command must be Start, with the cells and the lock"
        raise wire.FrameError(msg)
    cells, lock = descriptors
    os.set_inheritable(lock, False)
    return command, cells
