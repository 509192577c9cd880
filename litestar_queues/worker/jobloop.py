"""The event loop of a worker: it takes note of what each job gives to it, and of what each job sets on it."""

from __future__ import annotations

import asyncio
import logging
import threading
import warnings
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context, ContextVar
from types import AsyncGeneratorType
from typing import Any, ParamSpec, TypeVar

import uvloop

from litestar_queues.worker.belongings import Belongings

P = ParamSpec("P")
T = TypeVar("T")

_owner: ContextVar[Belongings | None] = ContextVar("litestar_queues_belongings", default=None)
_log = logging.getLogger("litestar_queues.worker")
_MAIN = threading.main_thread().ident
TaskFactory = Callable[..., asyncio.Task[Any]]
"""Makes a task as ``asyncio.Task`` does, with the same arguments."""


class JobLoop(uvloop.Loop):
    """The event loop of a worker, which knows what each job has given to it.

    0.4 µs for each task and timer. Whose it is, the context says; else it is of ``rest``. What a job sets on the
    loop (a factory of tasks, an executor, a handler of exceptions) is put back when it has ended.
    """

    def __init__(self, make_task: TaskFactory = asyncio.Task) -> None:
        super().__init__()
        self.rest = Belongings(self)
        self._make_task = make_task
        self._is_changed = True
        self.restore()

    def owner(self) -> Belongings:
        """Return what belongs to the job that runs here."""
        return _owner.get() or self.rest

    def create_task(  # type: ignore[override]  # Python 3.13 and 3.14 have more options
        self, coroutine: Any, *, context: Context | None = None, **options: Any
    ) -> asyncio.Task[Any]:
        """Return a task, and know it: by the context that it is to have, if that is given."""
        task: asyncio.Task[Any] = super().create_task(coroutine, context=context, **options)
        owner = self.owner() if context is None else context.get(_owner, None) or self.rest
        owner.add_task(task)
        return task

    def create_job(self, coroutine: Coroutine[Any, Any, T], context: Context) -> asyncio.Task[T]:
        """Return a task that is the job itself, and so nothing that it leaves; no factory that a job has set makes it."""
        return self._make_task(coroutine, loop=self, context=context)

    def call_later(  # type: ignore[override]  # the arguments are the callback's, whatever they are
        self, delay: float, callback: Any, *args: Any, context: Context | None = None
    ) -> Any:
        """Return a timer, and know it; ``call_at`` comes here too."""
        timer = super().call_later(delay, callback, *args, context=context)
        if hasattr(timer, "when"):  # else it is due now, and none
            self.owner().add_timer(timer, callback)
        return timer

    def call_soon_threadsafe(  # type: ignore[override]  # the arguments are the callback's, whatever they are
        self, callback: Any, *args: Any, context: Context | None = None
    ) -> Any:
        """Call it soon; from another thread, which may be an earlier job's, it can end no job."""
        if threading.get_ident() == _MAIN:
            return super().call_soon_threadsafe(callback, *args, context=context)
        return super().call_soon_threadsafe(_call_for_nobody, callback, *args, context=context)

    # What a job sets.

    def restore(self) -> None:
        """Put back what a job has set."""
        if not self._is_changed:
            return
        super().set_task_factory(None if self._make_task is asyncio.Task else self._factory)
        super().set_exception_handler(None)
        self.set_default_executor(_Executor(self))
        self._is_changed = False

    def set_task_factory(self, factory: Any) -> None:
        """Let it make the tasks of this job."""
        self._is_changed = True
        super().set_task_factory(factory)

    def set_exception_handler(self, handler: Any) -> None:
        """Let it hear of the errors of this job."""
        self._is_changed = True
        super().set_exception_handler(handler)

    def set_default_executor(self, executor: Any) -> None:
        """Let this job call in its threads."""
        self._is_changed = True
        self._executor = executor
        super().set_default_executor(executor)

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Wait for the calls of this job, *timeout* seconds at most; later ones have threads of their own.

        uvloop's own would refuse them for good, and the next job's as well.
        """
        executor = self._executor
        self.set_default_executor(_Executor(self))
        try:
            async with asyncio.timeout(timeout):
                await self.run_in_executor(None, executor.shutdown)
        except TimeoutError:
            warnings.warn(f"the executor did not end its threads within {timeout:g} s", RuntimeWarning, stacklevel=2)
            executor.shutdown(wait=False)

    def _factory(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        return self._make_task(coroutine, loop=loop, **options)

    def _asyncgen_firstiter_hook(self, generator: AsyncGeneratorType[Any, Any]) -> None:
        self.owner().add_generator(generator)
        super()._asyncgen_firstiter_hook(generator)  # type: ignore[misc]  # the stubs do not have it

    def _asyncgen_finalizer_hook(self, generator: AsyncGeneratorType[Any, Any]) -> None:
        self.owner().is_closing = True
        super()._asyncgen_finalizer_hook(generator)  # type: ignore[misc]  # likewise


class _Executor(ThreadPoolExecutor):
    """Where ``asyncio.to_thread`` calls."""

    def __init__(self, loop: JobLoop) -> None:
        super().__init__(thread_name_prefix="lq-call")
        self._job_loop = loop

    def submit(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future = super().submit(call, *args, **kwargs)
        self._job_loop.owner().add_call(future)
        return future


def belongings_in(context: Context, loop: JobLoop) -> Belongings:
    """Return what the job that runs in *context* will have on *loop*."""
    mine = Belongings(loop)
    context.run(_owner.set, mine)
    return mine


def _call_for_nobody(callback: Any, *args: Any) -> None:
    """Call what a thread has handed over: where it exits, that is no end of the job that happens to run."""
    try:
        callback(*args)
    except (SystemExit, KeyboardInterrupt) as error:
        _log.warning("what a thread handed to the event loop raised %r; nothing was ended by it", error)
