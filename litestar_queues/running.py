"""Run one job: find its task, decode, call, encode, and put every way it can end into a report.

Used by the worker, by the ``immediate`` backend and by tests; none of them looks at exceptions
itself. The user's code is called in ``_call`` and nowhere else.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import time
import traceback
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any, NamedTuple, Protocol, Self

from litestar_queues.clock import Clock, to_microseconds
from litestar_queues.events import secrets
from litestar_queues.events.context import Sink, TaskExecutionContext, bound, cut
from litestar_queues.exceptions import (
    JobCancelledError,
    JobInterrupted,
    PayloadError,
    Snooze,
    UnknownTaskError,
)
from litestar_queues.models import ErrorReport, Receipt
from litestar_queues.payload import checksum
from litestar_queues.redaction import Redactor
from litestar_queues.registry import tasks
from litestar_queues.tasks import Task
from litestar_queues.wire import MAX_NAME, Done, Failed, FrameError, FrameRefused, Run

MAX_TRACEBACK = 32_768
"""Characters of a traceback that are kept: its beginning and its end."""


FRESH = 200_000
"""Nanoseconds of CPU time for which the figure of resident memory is good: that is how long it takes to touch 0.5 MiB
of new memory page by page, and 2.3 MiB in huge pages."""


class Gate(Protocol):
    """Lets a request to stop reach the user's code, and nothing else."""

    def open(self, context: TaskExecutionContext, task: asyncio.Task[Any] | None) -> None:
        """From now on, a request to stop may interrupt: the asyncio task, or else this thread."""
        ...

    def shut(self) -> None:
        """From now on, nothing is interrupted."""
        ...


class OpenGate:
    """Interrupts nothing: for callers that cannot be asked to stop."""

    def open(self, context: TaskExecutionContext, task: asyncio.Task[Any] | None) -> None:
        """Do nothing."""

    def shut(self) -> None:
        """Do nothing."""


class Beginning(NamedTuple):
    """When a run began, by the clocks that tell what it took."""

    at: int
    """Wall time in microseconds."""
    monotonic: int
    """Nanoseconds."""
    cpu: int
    """CPU time of the process in nanoseconds."""

    @classmethod
    def now(cls, clock: Clock) -> Self:
        """Read the clocks."""
        return cls(clock.now(), clock.monotonic(), time.process_time_ns())


Runner = Callable[[Coroutine[Any, Any, Any]], Any]


class Execution:
    """One run of one claimed job, in this process."""

    def __init__(
        self,
        run: Run,
        *,
        sink: Sink,
        worker: str,
        clock: Clock,
        gate: Gate | None = None,
        measure_cpu: bool = True,
        beginning: Beginning | None = None,
    ) -> None:
        """Make ready to run it; *beginning* is now when not given."""
        self._run = run
        self._worker = worker
        self._clock = clock
        self._gate = gate or OpenGate()
        self._measure_cpu = measure_cpu
        self._redactor = Redactor.of(run.payload)
        if self._redactor is not None:
            secrets.keep(self._redactor)
        self._started_at, self._began, self._cpu = beginning or Beginning.now(clock)
        self.context = TaskExecutionContext(
            task_id=run.id,
            number=run.number,
            fence=run.fence,
            task_name=run.task,
            queue=run.queue,
            attempt=run.attempt,
            retry_count=run.failures,
            max_retries=run.max_retries,
            worker_id=worker,
            sink=sink,
            clock=clock,
            redactor=self._redactor,
        )

    def run(self, loop: asyncio.AbstractEventLoop | None) -> Done | Failed:
        """Run it to its end on this thread; a coroutine on *loop*, which must not be running (None: on a new one)."""

        def drive(coroutine: Coroutine[Any, Any, Any]) -> Any:
            if loop is None:
                return asyncio.run(coroutine)
            job = loop.create_task(coroutine, context=copy_context())
            self._gate.open(self.context, job)
            return loop.run_until_complete(job)

        try:
            with bound(self.context):
                task, args, kwargs = self._prepare()
                self._gate.open(self.context, None)
                value = _call(task, args, kwargs)
                if inspect.iscoroutine(value):
                    value = drive(value)
                self._gate.shut()
                return self._done(task, value)
        # The user's code may raise anything, SystemExit and KeyboardInterrupt included.
        except BaseException as error:
            self._gate.shut()
            return self._failed(error)

    def run_in_thread(self) -> Done | Failed:
        """Run it to its end on this thread, which is not the main one."""
        try:
            return self.run(None)
        # An interruption may come between the end of the user's code and the shutting of the gate.
        except JobInterrupted as error:
            self._gate.shut()
            return self._failed(error)

    async def run_async(self, *, owns_task: bool = False) -> Done | Failed:
        """Run it to its end inside a running event loop; a synchronous task blocks that loop.

        A cancellation of the caller is passed on, not taken for the job's; unless this is all that its
        asyncio task does (*owns_task*).
        """
        try:
            with bound(self.context):
                task, args, kwargs = self._prepare()
                self._gate.open(self.context, asyncio.current_task())
                value = _call(task, args, kwargs)
                if inspect.isawaitable(value):
                    value = await value
                self._gate.shut()
                return self._done(task, value)
        # The user's code may raise anything; a cancellation of this caller is not the job's.
        except BaseException as error:
            self._gate.shut()
            is_cancelled = isinstance(error, asyncio.CancelledError)
            if is_cancelled and not owns_task and _is_cancelled_from_outside(self.context):
                raise
            return self._failed(error)

    def receipt(self) -> Receipt:
        """Return what the run has cost so far."""
        now = time.process_time_ns() if self._measure_cpu else None
        cpu = None if now is None else (now - self._cpu) // 1_000
        took = (self._clock.monotonic() - self._began) // 1_000  # the wall clock may have stepped meanwhile
        return Receipt(self._started_at, self._started_at + took, self._worker, os.getpid(), cpu, resident_memory(now))

    def ended_by(self, error: BaseException) -> Failed:
        """Return the report for what came outside the user's code: an interruption, a cancellation before it began."""
        return self._failed(error)

    def too_large(self, error: FrameError) -> Failed:
        """Return the report for a run whose own report is above what a frame can hold, or is refused by the system."""
        if isinstance(error, FrameRefused):  # which another worker may be able to send
            return self._failed(RuntimeError(f"the job's report cannot be sent: {error}"))
        return self._failed(
            PayloadError(f"the job's report cannot be sent: {error}; return less, or enqueue less on success")
        )

    def _prepare(self) -> tuple[Task[..., Any], list[Any], dict[str, Any]]:
        run = self._run
        if checksum(run.payload) != run.checksum:
            msg = "the stored arguments are damaged: their checksum does not match"
            raise PayloadError(msg)
        task = tasks.get(run.task)
        args, kwargs = task.codec.decode(run.payload)
        if self._redactor is not None:
            self._redactor.learn(args, kwargs, list(task.codec.signature.parameters))
        if "_job_id" in task.injected:
            kwargs["_job_id"] = run.id
        if "_task_context" in task.injected:
            kwargs["_task_context"] = self.context
        return task, args, kwargs

    def _done(self, task: Task[..., Any], value: Any) -> Done:
        result = task.results.encode(value, self._run.max_result_bytes)
        successors = self.context.take_successors()
        return Done(self._run.number, self._run.fence, result, self.receipt(), successors=successors)

    def _failed(self, error: BaseException) -> Failed:
        retryable, delay = False, None
        # Whatever a run raises after it was asked to stop is how it stopped.
        kind = "interrupted" if self.context.is_cancelled else _kind(error)
        if kind == "raised" and not isinstance(error, PayloadError):
            with bound(self.context):  # what its own functions log is this job's
                retryable, delay = self._policy(error)
        if isinstance(error, Snooze):
            delay = max(to_microseconds(error.seconds), 0)
        receipt = None if kind == "unknown" else self.receipt()
        return Failed(self._run.number, self._run.fence, kind, report(error), receipt, retryable, delay)

    def _policy(self, error: BaseException) -> tuple[bool, int | None]:
        task = tasks.find(self._run.task)
        if task is None or not task.retryable(error):
            return False, None
        if not isinstance(error, Exception):  # SystemExit and its like: an end as any other, but no callable's to judge
            return True, None
        return True, task.delay(self._run.failures + 1, error)


def report(error: BaseException) -> ErrorReport:
    """Return *error* as text that is safe to keep: no secret of this process, bounded, valid UTF-8, whatever it holds."""
    whole = secrets.clean(_formatted(error))
    try:
        message = str(error)
    # A user's __str__ may raise anything, and exit too.
    except BaseException as broken:
        message = f"<its text cannot be made: {type(broken).__name__}>"
    name = type(error).__qualname__.rpartition("<locals>.")[2]
    name, message = secrets.clean(name)[:MAX_NAME], secrets.clean(message)
    return ErrorReport(cut(name) or "", cut(message, 4_096) or "", cut(_middle_out(whole), MAX_TRACEBACK + 100))


def _formatted(error: BaseException) -> str:
    try:
        text = traceback.TracebackException(type(error), error, _user_frames(error), compact=True)
        return "".join(text.format())
    # An error may hold what no traceback can show: SyntaxError("odd", ("file", 1, 1, 5)) has a number for a line.
    except BaseException as broken:
        return f"<its traceback cannot be made: {type(broken).__name__}>"


class _Memory:
    """This process's entry in ``/proc``, kept open: one ``pread`` costs 1.5 µs, opening it 15 µs."""

    def __init__(self) -> None:
        self._page = os.sysconf("SC_PAGE_SIZE")
        self._descriptor: int | None = None
        self._pid = 0
        self._latest: int | None = None
        self._read_at = 0

    def resident(self, cpu: int | None) -> int | None:
        # A process that has been forked begins at 0 again, before what its parent has read.
        if self._latest is None or cpu is None or not 0 <= cpu - self._read_at < FRESH:
            self._latest, self._read_at = self._read(), cpu or 0
        return self._latest

    def _read(self) -> int | None:
        try:
            if self._descriptor is None or self._pid != os.getpid():  # a fork still has its parent's
                self._pid = os.getpid()
                self._descriptor = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
            return int(os.pread(self._descriptor, 64, 0).split()[1]) * self._page
        except (OSError, IndexError, ValueError):  # no /proc, or a task closed what was not its own
            self._descriptor = None
            return None


_memory = _Memory()


def resident_memory(cpu: int | None = None) -> int | None:
    """Return this process's resident memory in bytes; None where ``/proc`` does not tell.

    Where *cpu* is given, the CPU time of the process so far (nanoseconds), it may be as of ``FRESH`` of that before.
    """
    return _memory.resident(cpu)


def _is_cancelled_from_outside(context: TaskExecutionContext) -> bool:
    caller = asyncio.current_task()
    return caller is not None and bool(caller.cancelling()) and not context.is_cancelled


def _call(task: Task[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
    return task.func(*args, **kwargs)


def _kind(error: BaseException) -> str:
    match error:
        case UnknownTaskError():
            return "unknown"
        case JobInterrupted():
            return "interrupted"
        case JobCancelledError():
            return "cancelled"
        case Snooze():
            return "snoozed"
        case _:
            return "raised"


def _user_frames(error: BaseException) -> Any:
    """Return the traceback without the frames of this module that lead to the user's."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return trace or error.__traceback__


def _middle_out(text: str) -> str:
    if len(text) <= MAX_TRACEBACK:
        return text
    half = MAX_TRACEBACK // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"
