"""The synchronous twin of ``QueueService``, for scripts: the same methods, and they block.

One proxy for everything: it runs the service on an event loop in a thread of its own, waits for
what its coroutine methods return, and wraps the results so that theirs block too. The two
protocols say for type checkers what comes out; they have no code, and a test compares them with
the classes.
"""
# ruff: noqa: D102  (the methods of the protocols are documented where they are)

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from types import TracebackType
from typing import Any, ParamSpec, Protocol, Self, TypeVar, overload
from uuid import UUID

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
    awaited. Each method raises what the service's raises, and ``QueueError`` in a forked child, after
    ``close``, and where ``close`` ends the call. Ctrl-C cancels the call that is waited for.

    A program may end without ``close``: what was enqueued is stored.
    """

    @property
    def is_open(self) -> bool: ...
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
        self._lock = threading.Lock()
        self._is_closing = False
        self._calls: set[asyncio.Task[Any]] = set()
        """What callers wait for; of the loop's thread alone."""
        started: Future[asyncio.AbstractEventLoop] = Future()
        # A daemon, and nothing closes it at exit: whatever a call has returned is durable, and closing
        # takes executors, which the interpreter has shut down before it asks anybody to clear up.
        self._thread = threading.Thread(target=self._serve, args=(started,), name="litestar-queues-sync", daemon=True)
        self._thread.start()
        self._loop = started.result()

    @property
    def is_open(self) -> bool:
        """True until it is stopped; false in a fork, where the thread is not."""
        return not self._is_closing and self._pid == os.getpid()

    def run(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run there what *call* makes, and return its value; a KeyboardInterrupt here cancels it."""
        self._refuse_strangers()
        with self._lock:  # a call is refused, or comes before the end: who closes sees it
            if self._is_closing:
                raise _closed()
            future = self._submit(self._tracked(call))
        try:
            return _wait(future)
        except CancelledError:
            if self._is_closing:
                raise _closed() from None
            raise

    def stop(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Cancel the calls that are waited for, run what *last* makes, and end the thread; may be called again."""
        if self._pid != os.getpid():
            return
        self._refuse_strangers()
        with self._lock:
            is_first, self._is_closing = not self._is_closing, True
        try:
            if is_first:
                _wait(self._submit(self._cancel_calls()))
                _wait(self._submit(last()))
        finally:
            if is_first:
                self._loop.call_soon_threadsafe(self._ended.set)
            self._thread.join()

    def _serve(self, started: Future[asyncio.AbstractEventLoop]) -> None:
        try:
            asyncio.run(self._live(started))
        except OSError as error:  # no descriptors are left for a loop
            if started.done():
                raise
            started.set_exception(error)

    async def _live(self, started: Future[asyncio.AbstractEventLoop]) -> None:
        self._ended = asyncio.Event()
        started.set_result(asyncio.get_running_loop())
        _ = await self._ended.wait()

    async def _tracked(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        here = asyncio.current_task()
        assert here is not None, "a coroutine that runs has a task"
        self._calls.add(here)
        try:
            return await call()
        finally:
            self._calls.discard(here)

    async def _cancel_calls(self) -> None:
        """See the calls end before the store is closed under them: a job that runs here has to be settled."""
        calls = list(self._calls)
        for call in calls:
            call.cancel()
        _ = await asyncio.gather(*calls, return_exceptions=True)

    def _submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def _refuse_strangers(self) -> None:
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

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self._target)})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # the target's own, or one of ours before there is a target
            msg = f"{type(self).__name__!r} object has no attribute {name!r}"
            raise AttributeError(msg)
        value = getattr(self._target, name)
        return self._blocking(value) if inspect.ismethod(value) else value

    def _blocking(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            made = functools.partial(method, *args, **kwargs)
            return self._wrapped(self._thread.run(made) if inspect.iscoroutinefunction(method) else made())

        return call

    def _wrapped(self, value: Any) -> Any:
        if isinstance(value, TaskResult):
            return Blocking(value, self._thread)
        if isinstance(value, list):
            return [self._wrapped(each) for each in value]
        if isinstance(value, AsyncIterator):
            return self._iterate(value)
        return value

    def _iterate(self, items: AsyncIterator[Any]) -> Iterator[Any]:
        async def step() -> Any:
            return await anext(items, _END)

        try:
            while (item := self._thread.run(step)) is not _END:
                yield self._wrapped(item)
        finally:
            # Left early: end it now. One that outlives the thread was ended with the loop.
            if isinstance(items, AsyncGenerator) and self._thread.is_open:
                self._thread.run(items.aclose)


_END = object()


class BlockingService(Blocking):
    """The proxy of a service: owns the thread, opens the service at once, closes it."""

    def __init__(self, service: Any) -> None:
        super().__init__(service, _LoopThread())
        try:
            self._thread.run(service.open)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the calls that other threads wait for, close the service, and end the thread; may be called again."""
        self._thread.stop(self._target.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _wait(future: Future[T]) -> T:
    try:
        return future.result()
    except BaseException:
        future.cancel()  # does nothing when it has ended
        raise


def _closed() -> QueueError:
    msg = "this synchronous QueueService is closed; make another with QueueService.sync(config)"
    return QueueError(msg)
