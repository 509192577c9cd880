"""Where a coroutine stands that waits: the lines of what it awaits, as ``faulthandler`` writes them.

The stack of its thread does not show that: while it waits, it is on none.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from types import FrameType
from typing import Any

from litestar_queues import running
from litestar_queues.worker.stepping import Stepped

MAX_FRAMES = 100
_KINDS = (("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom"), ("ag_frame", "ag_await"))
_ASYNCIO = os.path.dirname(asyncio.__file__)


def stack_of(task: asyncio.Task[Any]) -> str:
    """Return the lines at which *task* waits, the innermost first; empty when it has not begun, or has ended.

    Without our frames that lead to the user's, and without those of ``asyncio`` at the end of all waits.
    """
    frames = [frame for frame in _frames(task) if frame.f_code.co_filename != running.__file__]
    while frames and os.path.dirname(frames[-1].f_code.co_filename) == _ASYNCIO:
        frames.pop()
    return "\n".join(
        f'  File "{frame.f_code.co_filename}", line {frame.f_lineno} in {frame.f_code.co_name}'
        for frame in reversed(frames)
    )


def _frames(task: asyncio.Task[Any]) -> Iterator[FrameType]:
    """Yield the frames from the outermost in, also those of a task that *task* awaits."""
    awaitable: Any = task.get_coro()
    waits: Any = task
    for _ in range(MAX_FRAMES):
        frame, inner = _look_into(awaitable)
        if frame is not None:
            yield frame
        if inner is not None:
            awaitable = inner
            continue
        waits = _awaited_task(waits)
        if waits is None:
            return
        awaitable = waits.get_coro()


def _look_into(awaitable: Any) -> tuple[FrameType | None, Any]:
    awaitable = awaitable.wrapped if isinstance(awaitable, Stepped) else awaitable
    for frame, inner in _KINDS:
        # Of the type: a ``__getattr__`` of the user's may answer to any name, and raise anything.
        if hasattr(type(awaitable), frame):
            return getattr(awaitable, frame), getattr(awaitable, inner, None)
    return None, None


def _awaited_task(task: asyncio.Task[Any]) -> asyncio.Task[Any] | None:
    """Return the task that *task* awaits; of several that it gathers, the first that has not ended."""
    future: Any = getattr(task, "_fut_waiter", None)
    for each in (future, *getattr(future, "_children", ())):
        if isinstance(each, asyncio.Task) and not each.done():
            return each
    return None
