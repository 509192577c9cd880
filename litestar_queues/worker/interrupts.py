"""How a request to stop reaches the code of a task.

The master writes which run is to stop into its cell and sends SIGUSR2. The handler runs in the
main thread between two bytecodes, and looks at each run that is here *now*: does its cell mean
this run, and is the run in the user's code (its gate is open)? Then a coroutine is cancelled, once
the master has been told at which line it waits, and ``JobInterrupted`` is raised in the thread of a
synchronous task. Code that stays in C never gets
here: that is what the kill is for.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import signal
import socket
import threading
from types import FrameType
from typing import Any

from litestar_queues import wire
from litestar_queues.cell import Cell, Reason
from litestar_queues.events.context import TaskExecutionContext
from litestar_queues.exceptions import JobInterrupted
from litestar_queues.worker import standing

_raise_in_thread = ctypes.pythonapi.PyThreadState_SetAsyncExc


class Gate:
    """Lets a request to stop reach one run, while that is in the user's code."""

    def __init__(self, cell: Cell, interrupts: Interrupts) -> None:
        self._cell = cell
        self._interrupts = interrupts
        self._context: TaskExecutionContext | None = None
        self._task: asyncio.Task[Any] | None = None
        self._thread = 0

    def open(self, context: TaskExecutionContext, task: asyncio.Task[Any] | None) -> None:
        """Let a request reach this run: its asyncio task, or else this thread.

        A request that came while the gate was shut is delivered now.
        """
        self._task = task
        self._thread = threading.get_ident()
        if self._thread != _MAIN:
            self._cell.run_in_thread(self._thread)
        self._context = context
        self._interrupts.gates[self._cell] = self
        self.deliver()

    def shut(self) -> None:
        """Let nothing through any more."""
        if self._context is not None and self._task is None and self._thread != _MAIN:
            _raise_in_thread(ctypes.c_ulong(self._thread), None)  # one that is on its way is taken back
        self._context = None
        self._task = None
        self._interrupts.gates.pop(self._cell, None)

    def deliver(self) -> None:
        """Interrupt the run if the master wants that."""
        context = self._context
        if context is None or context.is_cancelled:
            return
        reason = self._cell.asked_to_stop(context.number, context.fence)
        if reason == Reason.NONE:
            return
        context.mark_cancelled()
        if self._task is not None:
            # The loop may be in the middle of anything: hand it over as another thread would.
            self._task.get_loop().call_soon_threadsafe(self._task.cancel)
            self._interrupts.tell(context, self._task)
        elif self._thread == threading.get_ident():
            raise JobInterrupted(reason.name.lower())
        else:
            _raise_in_thread(ctypes.c_ulong(self._thread), ctypes.py_object(JobInterrupted))


class Interrupts:
    """The gates of the runs that are here, and the signal that has them looked at."""

    def __init__(self, reports: socket.socket) -> None:
        self.gates: dict[Cell, Gate] = {}
        self._reports = reports

    def install(self) -> None:
        """Take SIGUSR2; from the main thread."""
        signal.signal(signal.SIGUSR2, self._look)

    def gate(self, cell: Cell) -> Gate:
        """Return the gate of the run that *cell* shows."""
        return Gate(cell, self)

    def tell(self, context: TaskExecutionContext, task: asyncio.Task[Any]) -> None:
        """Tell the master where a coroutine waits. Now: it may not heed the cancellation, and be killed."""
        is_waiting = asyncio.current_task(task.get_loop()) is not task
        stack = standing.stack_of(task) if is_waiting else ""
        if stack:
            with contextlib.suppress(wire.ChannelClosed):  # the zygote ends this process soon
                wire.send(self._reports, wire.Stood(context.number, context.fence, stack))

    def _look(self, number: int, frame: FrameType | None) -> None:
        for gate in list(self.gates.values()):
            gate.deliver()


_MAIN = threading.main_thread().ident
