"""What a job has given to its worker's event loop, and the end of it.

A coroutine that has ended, or was cancelled at its timeout, can have left tasks, timers, suspended
asynchronous generators and calls in threads. On a loop that goes on they would run beside the next
job, or beside the next attempt of the same one. So the loop takes note of what each job gives to
it, and a job has ended when that has: its timers and tasks are cancelled, its generators closed,
and its calls in threads waited for, as ``asyncio.run`` does it.

What is not ended: transports and readers, so that a client which is kept for the next job works
(unless it needs a task of its own); tasks made without ``create_task``; callbacks that hand themselves to
``call_soon`` again and again (to know of each would cost every step of every task).
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import AsyncGeneratorType
from typing import Any, TypeVar

from msgspec import Struct

from litestar_queues.worker import standing

T = TypeVar("T")

PATIENCE = 1.0
"""Seconds that what a job has left gets to end. One that was asked to stop has none of its own: the
master kills its worker when the grace is over."""
_PRUNE = 256
"""Entries of one kind after which those that have ended are left out."""
_CLOSING = "async_generator_athrow"
"""The type of what ``aclose()`` returns: such a task is the clearing up itself."""


class Left(Struct):
    """What a job has left behind, in words."""

    cancelled: list[str]
    """Tasks and timers."""
    called: int
    """Calls in threads."""
    is_stuck: bool = False
    """Some of it would not end."""

    def __str__(self) -> str:
        """Say it in the job's log."""
        parts = []
        if self.cancelled:
            which = "; ".join(self.cancelled[:10]) + ("; …" if len(self.cancelled) > 10 else "")
            parts.append(f"{len(self.cancelled)} tasks or timers on the event loop, which were cancelled ({which})")
        if self.called:
            parts.append(f"{self.called} calls in threads, which were waited for")
        stuck = "; not all of it has ended, so this worker is replaced" if self.is_stuck else ""
        return f"the job left {' and '.join(parts) or 'generators'}{stuck}; await what it starts in the task"


class Belongings:
    """What one job has on the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._tasks: list[weakref.ref[asyncio.Task[Any]]] = []
        self._timers: list[tuple[asyncio.TimerHandle, Any]] = []
        self._calls: list[weakref.ref[Future[Any]]] = []
        self._generators: list[weakref.ref[AsyncGeneratorType[Any, Any]]] = []
        self._full = _PRUNE
        self.is_closing = False
        """A generator was dropped before its end: the loop is about to close it."""

    def add_task(self, task: asyncio.Task[Any]) -> None:
        """Take note of a task."""
        self._tasks.append(weakref.ref(task))
        if len(self._tasks) > self._full:
            self._prune()

    def add_timer(self, timer: asyncio.TimerHandle, callback: Any) -> None:
        """Take note of a timer."""
        self._timers.append((timer, callback))
        if len(self._timers) > self._full:
            self._prune()

    def add_call(self, call: Future[Any]) -> None:
        """Take note of a call in a thread."""
        self._calls.append(weakref.ref(call))
        if len(self._calls) > self._full:
            self._prune()

    def add_generator(self, generator: AsyncGeneratorType[Any, Any]) -> None:
        """Take note of an asynchronous generator, at its first step."""
        self._generators.append(weakref.ref(generator))
        if len(self._generators) > self._full:
            self._prune()

    def is_empty(self) -> bool:
        """Say whether all of it has ended; then it is forgotten."""
        if (
            self.is_closing
            or (self._tasks and any(True for _ in self.tasks()))
            or (self._timers and any(True for _ in self.timers()))
            or (self._calls and any(True for _ in self.calls()))
            or (self._generators and any(True for _ in self.generators()))
        ):
            return False
        if self._tasks or self._timers or self._calls or self._generators:
            self.forget()
        return True

    def forget(self) -> None:
        """Begin anew."""
        for kind in (self._tasks, self._timers, self._calls, self._generators):
            kind.clear()
        self._full, self.is_closing = _PRUNE, False

    def tasks(self) -> Iterator[asyncio.Task[Any]]:
        """Yield the tasks that have not ended."""
        return (task for task in _living(self._tasks) if not task.done())

    def calls(self) -> Iterator[Future[Any]]:
        """Yield the calls that threads are at, or will be."""
        return (call for call in _living(self._calls) if not call.done())

    def generators(self) -> Iterator[AsyncGeneratorType[Any, Any]]:
        """Yield the generators that are suspended, and that nobody is about to go on with."""
        return (each for each in _living(self._generators) if each.ag_frame is not None and not each.ag_running)

    def timers(self) -> Iterator[tuple[asyncio.TimerHandle, Any]]:
        """Yield the timers that will ring."""
        now = self._loop.time()
        return (
            (timer, callback)
            for timer, callback in self._timers
            if not timer.cancelled() and timer.when() > now and not _is_the_loops(callback)
        )

    def _prune(self) -> None:
        self._tasks = [weakref.ref(task) for task in self.tasks()]
        self._calls = [weakref.ref(call) for call in self.calls()]
        self._timers = list(self.timers())
        self._generators = [each for each in self._generators if (made := each()) is not None and made.ag_frame]
        longest = max(len(self._tasks), len(self._timers), len(self._calls), len(self._generators))
        self._full = max(_PRUNE, 2 * longest)


class Ending:
    """Ends what a job has left, and then calls *then*; by callbacks, for a server that has no task of its own."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        belongings: Belongings,
        then: Callable[[Left], None],
        *,
        patience: float | None,
    ) -> None:
        self._loop = loop
        self._belongings = belongings
        self._then = then
        self._waits_for: set[asyncio.Future[Any]] = set()
        self._left = Left([], 0)
        self._is_over = False
        self._giving_up = None if patience is None else loop.call_later(patience, self._give_up)
        self._left.called = sum(1 for _ in belongings.calls())
        for timer, callback in belongings.timers():
            if timer is not self._giving_up:
                self._left.cancelled.append(_name_of(callback))
                timer.cancel()
        self._asked: set[asyncio.Task[Any]] = set()
        for generator in belongings.generators():
            belongings.add_task(loop.create_task(generator.aclose()))
        # After what waits for its turn: it may be the closing of a generator.
        loop.call_soon(self._look)

    def _look(self) -> None:
        if self._is_over:
            return
        tasks = list(self._belongings.tasks())
        for task in tasks:
            if task not in self._asked and type(_coroutine_of(task)).__name__ != _CLOSING:
                self._asked.add(task)
                self._left.cancelled.append(_place_of(task))
                task.cancel()
        calls = [asyncio.wrap_future(call, loop=self._loop) for call in self._belongings.calls()]
        self._waits_for = {*tasks, *calls}
        for each in self._waits_for:
            each.add_done_callback(self._one_ended)
        if not self._waits_for:
            self._end()

    def _one_ended(self, future: asyncio.Future[Any]) -> None:
        self._waits_for.discard(future)
        if not future.cancelled():
            future.exception()  # it has been told to end: how it does is nobody's
        if not self._waits_for:
            self._look()

    def _give_up(self) -> None:
        if not self._is_over:
            self._left.is_stuck = True
            self._end()

    def _end(self) -> None:
        self._is_over = True
        if self._giving_up is not None:
            self._giving_up.cancel()
        self._belongings.forget()
        self._then(self._left)


def _living(references: list[weakref.ref[T]]) -> Iterator[T]:
    return (each for each in [reference() for reference in references] if each is not None)


def _coroutine_of(task: asyncio.Task[Any]) -> Any:
    made = task.get_coro()
    return getattr(made, "wrapped", made)


def _place_of(task: asyncio.Task[Any]) -> str:
    stack = standing.stack_of(task)
    place = stack.partition("\n")[0].strip()
    return f"{_name_of(_coroutine_of(task))}, at {place}" if place else _name_of(_coroutine_of(task))


def _is_the_loops(callback: Any) -> bool:
    """Say whether a timer ends with what it is for: a transport's, a sleep's.

    Those ring functions that are private to ``asyncio``; what anybody may hand to a timer (``asyncio.ensure_future``)
    is the job's.
    """
    module = _text_of(callback, "__module__") or type(callback).__module__
    package = module.partition(".")[0]
    return package == "uvloop" or (package == "asyncio" and (_text_of(callback, "__name__") or "_").startswith("_"))


def _name_of(callback: Any) -> str:
    return _text_of(callback, "__qualname__") or type(callback).__qualname__


def _text_of(thing: Any, name: str) -> str | None:
    """Return an attribute that should be a text; a proxy answers with something to each name."""
    try:
        value = getattr(thing, name, None)
    # The user's __getattr__ may raise anything.
    except Exception:
        return None
    return value if isinstance(value, str) else None
