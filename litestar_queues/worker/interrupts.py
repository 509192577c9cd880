"""How a request to stop reaches the code of a task.

The master writes which run is to stop into the cell and sends SIGUSR2. The handler runs in the
main thread between two bytecodes, checks that the cell means the run that is here *now*, and that
the main thread is in the user's code; then it cancels the coroutine or raises ``JobInterrupted``.
Code that stays in C never gets here: that is what the kill is for.
"""

from __future__ import annotations

import asyncio
import signal
from types import FrameType
from typing import Any

from litestar_queues.cell import Cell, Reason
from litestar_queues.events.context import TaskExecutionContext
from litestar_queues.exceptions import JobInterrupted


class Interrupts:
    """The gate through which requests to stop reach the run that is here."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._context: TaskExecutionContext | None = None
        self._task: asyncio.Task[Any] | None = None

    def install(self) -> None:
        """Take SIGUSR2; from the main thread."""
        signal.signal(signal.SIGUSR2, self._deliver)

    def open(self, context: TaskExecutionContext, task: asyncio.Task[Any] | None) -> None:
        """Let a request reach this run: its asyncio task, or else the main thread.

        A request that came while the gate was shut is delivered now.
        """
        self._task = task
        self._context = context
        self._deliver(signal.SIGUSR2, None)

    def shut(self) -> None:
        """Let nothing through."""
        self._context = None
        self._task = None

    def _deliver(self, number: int, frame: FrameType | None) -> None:
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
        else:
            raise JobInterrupted(reason.name.lower())
