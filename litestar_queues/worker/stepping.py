"""Show, in its cell, when a job has the event loop.

Several coroutines share one loop; one that computes, or calls something that blocks, stops them
all, and the first of them to run out of time looks guilty. So each step of a job, its own
coroutine's and those of the asyncio tasks it starts, is written down when it begins and when it
ends: 0.5 µs a step. Callbacks given to the loop by hand are not seen.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Generator
from contextvars import Context, ContextVar
from typing import Any

from litestar_queues.cell import Cell

_cell: ContextVar[Cell | None] = ContextVar("litestar_queues_cell", default=None)


class Stepped(Coroutine[Any, Any, Any]):
    """A coroutine that shows its steps in a cell."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], cell: Cell) -> None:
        self._coroutine = coroutine
        self._cell = cell

    @property
    def wrapped(self) -> Coroutine[Any, Any, Any]:
        """The coroutine itself."""
        return self._coroutine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coroutine, name)  # its frame, for those who print stacks

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._coroutine.__await__()

    def send(self, value: Any) -> Any:
        """Take one step."""
        self._cell.begin_step(time.monotonic_ns())
        try:
            return self._coroutine.send(value)
        finally:
            self._cell.end_step()

    def throw(self, *error: Any) -> Any:
        """Take one step that begins with an exception."""
        self._cell.begin_step(time.monotonic_ns())
        try:
            return self._coroutine.throw(*error)
        finally:
            self._cell.end_step()

    def close(self) -> None:
        """End it unfinished."""
        self._coroutine.close()


def make_task(
    coroutine: Any, *, loop: asyncio.AbstractEventLoop, context: Context | None = None, **options: Any
) -> asyncio.Task[Any]:
    """Return a task for *coroutine* on a loop that several jobs share.

    The other *options* are the newer ones of ``asyncio.Task``: from Python 3.13 on, uvloop hands over ``eager_start``.
    """
    cell = context.get(_cell) if context is not None else _cell.get()
    if cell is not None and asyncio.iscoroutine(coroutine):
        coroutine = Stepped(coroutine, cell)
    return asyncio.Task(coroutine, loop=loop, context=context, **options)


def show_steps_in(context: Context, cell: Cell) -> None:
    """Make *context* that of the job which *cell* shows."""
    context.run(_cell.set, cell)
