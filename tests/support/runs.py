"""What the tasks of the tests write of their own runs, outside the database: ``@task`` from here.

Each run appends a line when it begins and one when it ends. While it lasts it holds a lock on its
job's byte of the file. The kernel lets go of that when the process is gone, and so are its forks: a
run that begins while the lock is held has found another live run of its job, and says so.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import inspect
import os
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import litestar_queues
from litestar_queues.events import get_current_task_context

VARIABLE = "LQ_TEST_RUNS"
RECORDED: set[str] = set()
"""The names of the tasks that write such lines."""


def task(*args: Any, **options: Any) -> Any:
    """Make a task, as ``litestar_queues.task`` does, that writes down its runs."""

    def decorate(function: Callable[..., Any]) -> Any:
        bare = len(args) == 1 and callable(args[0])
        made: Any = litestar_queues.task(**options) if bare else litestar_queues.task(*args, **options)
        made = made(_recorded(function))
        RECORDED.add(made.name)
        return made

    return decorate(args[0]) if len(args) == 1 and callable(args[0]) else decorate


_running: set[object] = set()


class Line(NamedTuple):
    """One line of the file."""

    at: int
    """Monotonic nanoseconds."""
    pid: int
    what: str
    """``start``, ``end``, or ``twice``: another run of this job is alive."""
    job: int
    fence: int
    how: str
    """For an end: ``returned``, or the name of what was raised."""


def read(path: Path) -> list[Line]:
    """Return the lines in order of time."""
    if not path.exists():
        return []
    words = [line.split() for line in path.read_text().splitlines()]
    lines = [Line(int(at), int(pid), what, int(job), int(fence), how) for at, pid, what, job, fence, how in words]
    return sorted(lines)


def _recorded(function: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def run_async(*args: Any, **kwargs: Any) -> Any:
            with _written_down():
                return await function(*args, **kwargs)

        return run_async

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with _written_down():
            return function(*args, **kwargs)

    return run


@contextlib.contextmanager
def _written_down() -> Iterator[None]:
    path, context = os.environ.get(VARIABLE), get_current_task_context()
    run = None if context is None else (os.getpid(), context.number, context.fence)
    if path is None or context is None or run in _running:  # the task has called itself, or another
        yield
        return
    _running.add(run)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    pid = os.getpid()

    def write(what: str, how: str = "-") -> None:
        line = f"{time.monotonic_ns()} {pid} {what} {context.number} {context.fence} {how}\n"
        os.write(descriptor, line.encode())

    try:
        # struct flock: type, whence, start, length, pid; a lock of the open file, not of the process.
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, context.number, 1, 0))
    except BlockingIOError:
        write("twice")
    write("start")
    how = "returned"
    try:
        yield
    except BaseException as error:
        how = type(error).__name__
        raise
    finally:
        _running.discard(run)
        if os.getpid() == pid:  # not in a child that the task has forked
            with contextlib.suppress(OSError):  # there are tasks that close every descriptor
                write("end", how)
                os.close(descriptor)
