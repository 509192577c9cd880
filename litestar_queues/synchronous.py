"""The synchronous twin of ``QueueService``, for scripts: the same methods, and they block.

One proxy for everything: it runs the service on an event loop in a thread of its own, waits for
what its coroutine methods return, and wraps the results so that theirs block too. The two
protocols say for type checkers what comes out; they have no code.
"""
# ruff: noqa: D102  (the methods of the protocols are documented where they are)

from __future__ import annotations

import asyncio
import inspect
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from types import TracebackType
from typing import Any, ParamSpec, Protocol, Self, TypeVar, overload
from uuid import UUID

import uvloop

from litestar_queues.events.stored import QueueEvent
from litestar_queues.exceptions import QueueError
from litestar_queues.models import Query, QueuedTaskRecord, QueueStatistics, Status, TaskRequest
from litestar_queues.results import TaskResult
from litestar_queues.tasks import Task

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)


class SyncTaskResult(Protocol[R_co]):
    """``TaskResult``, whose methods block."""

    @property
    def id(self) -> UUID: ...
    @property
    def number(self) -> int: ...
    @property
    def task_name(self) -> str: ...
    @property
    def status(self) -> Status: ...
    @property
    def record(self) -> QueuedTaskRecord: ...
    @property
    def deduplicated(self) -> bool: ...
    @property
    def error(self) -> str | None: ...
    @property
    def result(self) -> R_co | None: ...
    def refresh(self) -> QueuedTaskRecord: ...
    def wait(self, timeout: float | None = None, poll_interval: float | None = None) -> QueuedTaskRecord: ...
    def get(self, timeout: float | None = None) -> R_co: ...
    def cancel(self) -> bool: ...
    def events(self) -> list[QueueEvent]: ...


class SyncQueueService(Protocol):
    """``QueueService``, whose methods block; open in a ``with`` block, or from the start until ``close``.

    From any thread, but not from one whose event loop is running: there the service itself is to be
    awaited. Each method raises what the service's raises, and ``QueueError`` after ``close`` and in a
    forked child. Ctrl-C cancels the call that is waited for.
    """

    @overload
    def enqueue(self, task: Task[P, R], /, *args: P.args, **kwargs: P.kwargs) -> SyncTaskResult[R]: ...
    @overload
    def enqueue(self, task: Task[..., R], /, *args: Any, **options_and_kwargs: Any) -> SyncTaskResult[R]: ...
    @overload
    def enqueue(self, task: str, /, *args: Any, **options_and_kwargs: Any) -> SyncTaskResult[Any]: ...
    def enqueue_many(self, requests: Iterable[TaskRequest]) -> list[SyncTaskResult[Any]]: ...
    def get_task(self, id: UUID | str | int) -> QueuedTaskRecord | None: ...
    def get_result(self, id: UUID | str | int) -> SyncTaskResult[Any]: ...
    def list_tasks(self, query: Query | None = None) -> list[QueuedTaskRecord]: ...
    def get_statistics(self, queue: str | None = None) -> QueueStatistics: ...
    def cancel_task(self, id: UUID | str | int, include_running: bool = True) -> bool: ...
    def task_events(self, id: UUID | str | int) -> list[QueueEvent]: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class _LoopThread:
    """An event loop in a thread of its own, for whoever waits outside."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._loop = uvloop.new_event_loop()
        self._is_closed = False
        self._thread = threading.Thread(target=self._loop.run_forever, name="litestar-queues-sync", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run *coroutine* there and return what it returns; a KeyboardInterrupt here cancels it."""
        try:
            self._check()
        except BaseException:
            coroutine.close()
            raise
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # does nothing when it has ended
            raise

    def stop(self) -> None:
        """End the thread; may be called again."""
        if not self._is_closed and self._pid == os.getpid():
            self._is_closed = True
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    @property
    def is_usable(self) -> bool:
        """False once it has been stopped, and in a fork, where the thread is not."""
        return not self._is_closed and self._pid == os.getpid()

    def _check(self) -> None:
        if self._is_closed:
            msg = "this synchronous QueueService is closed; make another with QueueService.sync(config)"
            raise QueueError(msg)
        if self._pid != os.getpid():
            msg = "this synchronous QueueService belongs to the parent process; make another here"
            raise QueueError(msg)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        msg = "a synchronous QueueService would block the event loop that runs here; use `async with QueueService(…)`"
        raise QueueError(msg)


class Blocking:
    """An object whose coroutine methods block, and whose asynchronous iterators are ordinary ones."""

    def __init__(self, target: Any, thread: _LoopThread) -> None:
        self._target = target
        self._thread = thread

    def __repr__(self) -> str:
        return f"<blocking {self._target!r}>"

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if inspect.iscoroutinefunction(value):
            return self._blocking(value)
        if inspect.isasyncgenfunction(value):
            return lambda *args, **kwargs: self._iterate(value(*args, **kwargs))
        return value

    def _blocking(self, method: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            return self._wrapped(self._thread.run(method(*args, **kwargs)))

        call.__doc__, call.__name__ = method.__doc__, method.__name__
        return call

    def _iterate(self, items: AsyncIterator[Any]) -> Iterator[Any]:
        async def step() -> Any:
            return await anext(items, _END)

        while (item := self._thread.run(step())) is not _END:
            yield self._wrapped(item)

    def _wrapped(self, value: Any) -> Any:
        if isinstance(value, TaskResult):
            return Blocking(value, self._thread)
        if isinstance(value, list):
            return [self._wrapped(each) for each in value]
        return value


_END = object()


class BlockingService(Blocking):
    """The proxy of a service: owns the thread, opens the service at once, closes it."""

    def __init__(self, service: Any) -> None:
        super().__init__(service, _LoopThread())
        try:
            self._thread.run(service.open())
        except BaseException:
            self._thread.stop()
            raise
        # The store's own threads would keep the interpreter from ending, so the end of the main
        # thread must close it; atexit would be too late: it runs after they have been joined.
        threading.Thread(target=self._close_with_main, name="litestar-queues-exit", daemon=True).start()

    def close(self) -> None:
        """Close the service, and end the thread; may be called again."""
        if self._thread.is_usable:
            try:
                self._thread.run(self._target.close())
            finally:
                self._thread.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _close_with_main(self) -> None:
        threading.main_thread().join()
        self.close()
