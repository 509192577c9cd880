"""``@task``: a function and its default options, under a name."""

from __future__ import annotations

import functools
import inspect
import logging
import math
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from datetime import timedelta
from typing import Any, Generic, Literal, ParamSpec, Protocol, Self, TypeVar, Unpack, overload
from uuid import UUID

from litestar_queues import options as opts
from litestar_queues.clock import to_microseconds
from litestar_queues.config import check_name
from litestar_queues.enqueuer import find_enqueuer
from litestar_queues.exceptions import NonRetryableError, QueueConfigurationError, TaskDefinitionError
from litestar_queues.lifecycle import RetryBackoff
from litestar_queues.models import OnDuplicate, QueuedTaskRecord, Status
from litestar_queues.payload import CallCodec, ResultCodec
from litestar_queues.registry import tasks

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
_log = logging.getLogger("litestar_queues.task")
_LONGEST_DELAY = 30 * 24 * 3600.0

_OPTIONS = opts.NAMES - opts.MOMENTS | {"retry_on", "no_retry_on", "description", "redact"}
_OF_TASK_ALONE = ("retry_on", "no_retry_on", "name", "description", "redact")

Exceptions = type[BaseException] | Iterable[type[BaseException]]
DelayFunction = Callable[[int, Exception], float]
"""``(failures so far, exception) -> seconds``."""


class Handle(Protocol[R_co]):
    """An enqueued job in the hands of its enqueuer; ``TaskResult`` is one."""

    @property
    def id(self) -> UUID:
        """The job's id."""
        ...

    @property
    def task_name(self) -> str:
        """The task's name."""
        ...

    @property
    def status(self) -> Status:
        """Where it stood."""
        ...

    @property
    def result(self) -> R_co | None:
        """The value, once completed."""
        ...

    @property
    def error(self) -> str | None:
        """The error in one line."""
        ...

    @property
    def record(self) -> QueuedTaskRecord:
        """The job as last read."""
        ...

    @property
    def deduplicated(self) -> bool:
        """True when a live job held the key."""
        ...

    async def refresh(self) -> QueuedTaskRecord:
        """Read it again."""
        ...

    async def wait(self, timeout: float | None = None, poll_interval: float | None = None) -> QueuedTaskRecord:
        """Wait until it has ended."""
        ...

    async def get(self, timeout: float | None = None) -> R_co:
        """Return the value, or raise how it ended."""
        ...


class Task(Generic[P, R]):
    """A registered function: call it directly, or enqueue it.

    ``task(…)`` calls the function here; ``await task.enqueue(…)`` stores a job that calls it in a
    worker. Both take the function's own arguments and are typed by them. For a coroutine function
    *R* is what awaiting it gives.
    """

    def __init__(
        self,
        function: Callable[P, Any],
        name: str,
        options: Mapping[str, Any],
        *,
        retry_on: tuple[type[BaseException], ...] | None = None,
        no_retry_on: tuple[type[BaseException], ...] = (),
        delay_function: DelayFunction | None = None,
        description: str = "",
        redact: Collection[str] = (),
    ) -> None:
        functools.update_wrapper(self, function)
        self.func = function
        self.name = name
        self.options = dict(options)
        self._choose(opts.check(self.options, f"task {name!r}"))
        self.description = description
        self.codec = CallCodec(name, function, redact)
        self.results = ResultCodec(name, function)
        self.is_coroutine = inspect.iscoroutinefunction(function)
        self._retry_on = retry_on
        self._no_retry_on = no_retry_on
        self._delay_function = delay_function

    @property
    def has_own_backoff(self) -> bool:
        """True when a function of the task's decides how long to wait for a retry."""
        return self._delay_function is not None

    def __repr__(self) -> str:
        return f"<Task {self.name}{self.codec.signature}>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Call the function here and now, without the queue."""
        return self.func(*args, **kwargs)

    async def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R]:
        """Store a job that calls this task with these arguments; return once it is durable.

        Options come from the task, and from ``using``. The service is the request's, the worker's, or
        the only one open in the process; ``QueueError`` names the choices when it is none of these.
        """
        handle: Handle[R] = await find_enqueuer().enqueue_call(self, args, dict(kwargs), {})
        return handle

    def using(self, **options: Unpack[opts.Changes]) -> Self:
        """Return a copy with other default options; None takes one back to its default.

        Takes the options of ``@task``, and ``scheduled_at`` and ``expires_at``. What needs the
        function's process (``retry_on``, ``no_retry_on``, a callable ``retry_backoff``) belongs to
        ``@task`` alone.
        """
        alone = next((name for name in _OF_TASK_ALONE if name in options), None)
        if alone is not None:
            msg = f"using() cannot change {alone}; it belongs to @task, which workers import"
            raise TypeError(msg)
        if "retry_backoff" in options and self._delay_function is not None:
            msg = (
                f"the retry_backoff of task {self.name!r} is a callable, which decides in the worker whatever a job says; "
                "change it at @task"
            )
            raise TypeError(msg)
        merged = opts.merge(self.options, options)
        checked = opts.check(merged, f"task {self.name!r}")
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        copy.options = merged
        copy._choose(checked)
        return copy

    def _choose(self, checked: opts.Options) -> None:
        self.checked = checked
        self.fields = opts.fields(checked, self.name)
        """What every job of it has in common."""

    @property
    def injected(self) -> frozenset[str]:
        """The parameters that the worker fills in."""
        return self.codec.injected

    def retryable(self, error: BaseException) -> bool:
        """Say whether a run that ended with *error* may be retried."""
        if isinstance(error, (NonRetryableError, *self._no_retry_on)):
            return False
        return self._retry_on is None or isinstance(error, self._retry_on)

    def delay(self, failures: int, error: Exception) -> int | None:
        """Return the microseconds until the retry if a callable backoff decides them, else None."""
        if self._delay_function is None:
            return None
        try:
            seconds = float(self._delay_function(failures, error))
        # The user's function, which may also exit; the job must not depend on it.
        except BaseException:
            _log.exception("the retry_backoff of task %r raised; the default is used", self.name)
            return None
        if not math.isfinite(seconds):
            _log.warning("the retry_backoff of task %r returned %r; the default is used", self.name, seconds)
            return None
        within = min(max(seconds, 0.0), _LONGEST_DELAY)
        if within != seconds:
            _log.warning("the retry_backoff of task %r returned %r; %r is used", self.name, seconds, within)
        return to_microseconds(within)


class SyncTask(Task[P, R]):
    """A task that is a plain function."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function here and now, without the queue."""
        value: R = self.func(*args, **kwargs)
        return value


class AsyncTask(Task[P, R]):
    """A task that is a coroutine function."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Call the function here and now, without the queue; await what it returns."""
        coroutine: Coroutine[Any, Any, R] = self.func(*args, **kwargs)
        return coroutine


class TaskDecorator(Protocol):
    """What ``task(…)`` with a name or options returns."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...  # type: ignore[overload-overlap]  # a coroutine function is the narrower
    @overload
    def __call__(self, function: Callable[P, R], /) -> SyncTask[P, R]: ...


@overload
def task(function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...  # type: ignore[overload-overlap]  # likewise
@overload
def task(function: Callable[P, R], /) -> SyncTask[P, R]: ...
@overload
def task(
    name: str | None = None,
    /,
    *,
    queue: str | None = None,
    priority: int | None = None,
    retries: int | None = None,
    retry_backoff: float | RetryBackoff | DelayFunction | None = None,
    retry_on: Exceptions | None = None,
    no_retry_on: Exceptions | None = None,
    timeout: float | timedelta | None = None,
    kill_grace: float | timedelta | None = None,
    key: str | None = None,
    key_scope: Literal["task", "global"] | None = None,
    unique_until: Literal["terminal", "forever"] | None = None,
    on_duplicate: OnDuplicate | None = None,
    run_after: float | timedelta | None = None,
    expires_in: float | timedelta | None = None,
    execution_backend: str | None = None,
    execution_profile: str | None = None,
    max_rss: int | str | None = None,
    allow_background: bool | None = None,
    retention: float | timedelta | Literal["forever"] | None = None,
    result_retention: float | timedelta | Literal["forever"] | None = None,
    metadata: dict[str, Any] | None = None,
    description: str | None = None,
    redact: Collection[str] | None = None,
) -> TaskDecorator: ...
def task(name_or_function: Any = None, /, **options: Any) -> Any:
    """Register a function as a task: ``@task``, ``@task("name")`` or ``@task("name", queue=…, …)``.

    The name defaults to the function's. Durations are seconds or ``timedelta``.

    ``queue`` ("default"), ``priority`` (0; higher first), ``execution_backend``, ``execution_profile``
        where and in which order its jobs run.
    ``retries`` (0)
        how often a job that raised or timed out is run again; ``retry_backoff`` says when (seconds, a
        ``RetryBackoff``, or a callable ``(failures, exception) -> seconds``), ``retry_on`` and
        ``no_retry_on`` after which exceptions.
    ``timeout`` (none), ``kill_grace`` (2 s)
        run time after which a run is asked to stop, and the time from there until it is killed.
    ``key``, ``key_scope`` ("task"), ``unique_until`` ("terminal"), ``on_duplicate`` ("reuse")
        at most one live job a key.
    ``run_after``, ``expires_in``
        not before, and not after, that long from the enqueueing.
    ``max_rss`` (none)
        resident memory of its worker (bytes, or ``"512MiB"``) above which a run is killed; costs a retry.
    ``allow_background`` (False)
        processes that a job leaves behind may live on; else they are killed when it ends.
    ``retention`` (as ``QueueConfig.retention`` says), ``result_retention`` (as long as the job)
        how long its jobs are kept after they have ended, however they did, and how long their results;
        ``"forever"`` is possible.
    ``metadata``, ``description``
        for people.
    ``redact`` (none)
        names of parameters whose values are never shown: not on screens, and taken out of what the job
        says and how it fails; ``"return"`` for the result. ``Secret[…]`` as annotation does the same.

    Raises ``TypeError`` for an unknown option, and ``TaskDefinitionError`` for a function, a name or an
    option's value that cannot be, for a type that JSON cannot tell apart, and for a second function under
    a name that is taken.
    """
    opts.refuse_unknown(options, _OPTIONS, "@task")
    if name_or_function is None or isinstance(name_or_function, str):
        return lambda function: _make(function, name_or_function, options)
    return _make(name_or_function, None, options)


def _make(function: Callable[..., Any], name: str | None, given: Mapping[str, Any]) -> Task[..., Any]:
    if isinstance(function, staticmethod):
        function = function.__func__
    name = _check_function(function, name)
    rest = dict(given)
    try:
        retry_on = _exceptions("retry_on", rest.pop("retry_on", None))
        no_retry_on = _exceptions("no_retry_on", rest.pop("no_retry_on", None)) or ()
        description = rest.pop("description", None) or _summary(function)
        redact = rest.pop("redact", None) or ()
        delay_function = rest.pop("retry_backoff") if callable(rest.get("retry_backoff")) else None
        _check_delay_function(delay_function)
        kind = AsyncTask if inspect.iscoroutinefunction(function) else SyncTask
        made: Task[..., Any] = kind(
            function,
            name,
            opts.merge({}, rest),
            retry_on=retry_on,
            no_retry_on=no_retry_on,
            delay_function=delay_function,
            description=description,
            redact=redact,
        )
    except (ValueError, TypeError, QueueConfigurationError) as error:
        raise TaskDefinitionError(str(error)) from error
    tasks.register(made)
    return made


def _check_delay_function(function: Any) -> None:
    if isinstance(function, type) or inspect.iscoroutinefunction(function):
        msg = f"retry_backoff cannot be {function!r}; give seconds, a RetryBackoff(…), or a plain function that returns seconds"
        raise TypeError(msg)


def _check_function(function: Any, name: str | None) -> str:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        msg = (
            f"{function.__qualname__} is a generator, which returns nothing that could be a result; make it a function"
        )
        raise TaskDefinitionError(msg)
    if inspect.isclass(function) or not inspect.isroutine(function) or not callable(function):
        msg = f"{function!r} is not a function; decorate a function or a coroutine function"
        raise TaskDefinitionError(msg)
    chosen = name if name is not None else function.__name__
    try:
        return check_name("a task's name", chosen)
    except QueueConfigurationError as error:
        raise TaskDefinitionError(str(error)) from error


def _exceptions(what: str, given: Exceptions | None) -> tuple[type[BaseException], ...] | None:
    if given is None:
        return None
    kinds = (given,) if isinstance(given, type) else tuple(given)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            msg = f"{what} takes exception types, not {kind!r}"
            raise TypeError(msg)
    return kinds


def _summary(function: Callable[..., Any]) -> str:
    lines = (inspect.getdoc(function) or "").strip().splitlines()
    return lines[0] if lines else ""
