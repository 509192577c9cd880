"""Put back, after each job, what it may have changed of the process.

That is what no library sets for good, and what would harm the next job or make it deaf: handlers
and masks of signals, alarms, the current folder, the umask, the main thread's event loop,
``sys.stdout`` and ``sys.stderr``. 2 µs a job, most of it system calls.

Left as they are: what libraries set once and then count on, such as the environment, ``sys.path``,
the locale, the filters of warnings, the configuration of logging; and what is dear to look at, such
as the state of ``random``, or what descriptors 1 and 2 are. A process of its own for each job (``max_jobs=1``) has none of it.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # no stubs; those of ``signal`` make members of enumerations: 2 µs each
import asyncio
import os
import signal
import sys
from typing import Any

from litestar_queues.worker import guard
from litestar_queues.worker.birth import Worker

_WATCHED = tuple(
    map(
        int,
        (
            signal.SIGINT,
            signal.SIGHUP,
            signal.SIGTERM,
            signal.SIGUSR1,
            signal.SIGUSR2,
            signal.SIGCHLD,
            signal.SIGPIPE,
            signal.SIGALRM,
            signal.SIGPROF,
            signal.SIGVTALRM,
        ),
    )
)
_CPU_TIMERS = (int(signal.ITIMER_PROF), int(signal.ITIMER_VIRTUAL))
_BLOCK, _SET_MASK = int(signal.SIG_BLOCK), int(signal.SIG_SETMASK)
_IGNORE = int(signal.SIG_IGN)


class Baseline:
    """What the process was like before its first job."""

    def __init__(self, worker: Worker) -> None:
        self._stack = worker.stack
        self._streams = worker.streams
        self._folder = guard.hide(os.open(".", os.O_PATH | os.O_CLOEXEC))
        self._umask = os.umask(0)
        os.umask(self._umask)
        self._handlers = self._handlers_now()

    def restore(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make it so again, between jobs, in the main thread; *loop* is that of its jobs."""
        _signal.alarm(0)  # first: without its handler it would be the end of this process, as these would
        for timer in _CPU_TIMERS:
            _signal.setitimer(timer, 0)
        if _signal.pthread_sigmask(_BLOCK, ()):  # which tells those that are blocked
            _unblock()
        handlers = self._handlers_now()
        if handlers != self._handlers:
            self._restore_handlers(handlers, loop)
        os.fchdir(self._folder)
        os.umask(self._umask)
        asyncio.set_event_loop(loop)
        sys.stdout, sys.stderr = self._streams

    def close(self) -> None:
        """Let go of what it holds."""
        os.close(self._folder)

    def _handlers_now(self) -> list[Any]:
        return [_signal.getsignal(number) for number in _WATCHED]

    def _restore_handlers(self, handlers: list[Any], loop: asyncio.AbstractEventLoop) -> None:
        for number, now, before in zip(_WATCHED, handlers, self._handlers, strict=True):
            if now is before or before is None:  # None: C code's, which only C code can set
                continue
            loop.remove_signal_handler(number)
            if number == signal.SIGUSR1:
                guard.hide_stacks()
            _signal.signal(number, before)
            if number == signal.SIGUSR1:
                guard.show_stacks_in(self._stack)


def _unblock() -> None:
    """Let all signals come again, but not those that came meanwhile: they were the job's, and may be deadly."""
    for number in _signal.sigpending():
        handler = _signal.getsignal(number)
        _signal.signal(number, _IGNORE)  # the kernel forgets what is ignored
        if number not in _WATCHED and handler is not None:
            _signal.signal(number, handler)
    _signal.pthread_sigmask(_SET_MASK, ())
