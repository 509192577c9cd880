"""The zygote: imported the application once, and forks workers from that in 2 ms.

It runs nothing but this loop, on its one thread: fork on request, reap what died and say how, and
when the master is gone, end the whole tree. As a subreaper it gets the orphans of its workers, so
that nothing a job started can slip away from it.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import logging
import logging.handlers
import os
import resource
import select
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Iterator

from msgspec import Struct

from litestar_queues import wire
from litestar_queues.worker.leftovers import children_of, cookie_of

_PATIENCE = 1.0
"""Seconds that the processes below this one get to be gone."""


class Newborn(Struct, frozen=True):
    """What a process that has just been forked knows of itself."""

    order: wire.Fork
    descriptors: list[int]
    zygote: int
    """Pid of its parent."""


class Zygote:
    """Serves one master, until that closes the channel."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._pid = os.getpid()
        self._orders: dict[int, wire.Fork] = {}
        self._released: set[str] = set()
        """Cookies of workers that ended in good order: what lives on of them was allowed to."""

    def serve(self) -> Newborn | None:
        """Fork and reap until the master is gone, then return None; in a fork, return at once what it is."""
        woken, waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, _wake_up)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(woken, select.POLLIN)
        try:
            while True:
                ready = {descriptor for descriptor, _ in poll.poll()}
                if woken in ready:
                    os.read(woken, 4096)
                    self._reap()
                if self._control.fileno() in ready:
                    newborn = self._answer()
                    if newborn is not None:
                        os.close(woken)
                        os.close(waker)
                        return newborn
        except wire.ChannelClosed:
            self._end_all()
            return None

    def _answer(self) -> Newborn | None:
        order, descriptors = wire.receive_fork(self._control)
        try:
            pid = _fork()
        except OSError as error:
            wire.send(self._control, wire.ForkFailed(order.serial, str(error)))
            _close(descriptors)
            return None
        if pid == 0:
            signal.set_wakeup_fd(-1)
            self._control.close()
            return Newborn(order, descriptors, self._pid)
        self._orders[pid] = order
        pidfd = os.pidfd_open(pid)
        _close(descriptors)
        try:
            wire.send(self._control, wire.Forked(order.serial, pid), [pidfd])
        finally:
            os.close(pidfd)
        return None

    def _reap(self) -> None:
        for pid, status, usage in _dead_children():
            order = self._orders.pop(pid, None)
            if order is None:
                continue  # an orphan of a job
            if status == 0:
                self._released.add(order.cookie)
            cpu = round((usage.ru_utime + usage.ru_stime) * 1_000_000)
            wire.send(self._control, wire.Exited(order.serial, status, cpu, usage.ru_maxrss * 1024))

    def _end_all(self) -> None:
        """Kill the workers, and then what of theirs has become this process's child, until nothing is left.

        Not for ever: a pool that the import has made replaces its processes. It ends with this one.
        """
        spared: set[int] = set()
        give_up = time.monotonic() + _PATIENCE
        while (victims := children_of(self._pid) - spared) and time.monotonic() < give_up:
            for pid in victims:
                if pid not in self._orders and cookie_of(pid) in self._released:
                    spared.add(pid)
                    continue
                try:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                except PermissionError:  # another user's by setuid: not ours to end
                    spared.add(pid)
                except (ProcessLookupError, ChildProcessError):  # a thread of the import's has reaped it
                    continue


def make_ready_to_fork() -> tuple[str, ...]:
    """Stop what a fork would break, and keep the garbage collector from copying what is shared.

    Return the names of the threads that the import left: a fork does not have them.
    """
    for listener in _log_listeners():
        # Python 3.12 and later raise when it is stopped twice, which atexit would do.
        atexit.unregister(listener.stop)
        listener.stop()
    gc.collect()
    gc.freeze()
    return tuple(sorted(thread.name for thread in threading.enumerate() if thread is not threading.main_thread()))


def _log_listeners() -> Iterator[logging.handlers.QueueListener]:
    """Yield the running listeners of queue handlers; Litestar's default logging has one."""
    named = logging.Logger.manager.loggerDict.values()
    loggers = [logging.getLogger(), *(logger for logger in named if isinstance(logger, logging.Logger))]
    seen: set[int] = set()
    for logger in loggers:
        for handler in logger.handlers:
            listener = getattr(handler, "listener", None)
            if listener is not None and getattr(listener, "_thread", None) is not None and id(listener) not in seen:
                seen.add(id(listener))
                yield listener


def _fork() -> int:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # the import may have closed or replaced it
            stream.flush()  # what is buffered here would be written twice
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads: named to the master already
        return os.fork()


def _dead_children() -> Iterator[tuple[int, int, resource.struct_rusage]]:
    """Reap and yield each dead child: its pid, its status, what it has used."""
    while True:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, status, usage


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _wake_up(number: int, frame: object) -> None:
    """Do nothing: that there is a handler makes the signal reach the wakeup descriptor."""
