"""Make this process one that cannot outlive its master, and hide what it talks through."""

from __future__ import annotations

import ctypes
import faulthandler
import fcntl
import os
import resource
import signal
import sys
import threading

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PRIVATE = 200
"""Descriptors from here up are ours: code that closes or scribbles over 3…99 does not meet them."""
_LEFT = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Of the last two a worker makes its own use; whoever sends them to the zygote means the master."""
ZYGOTE_OOM_SCORE = 300
WORKER_OOM_SCORE = 600
"""The out-of-memory killer is to take a worker before the zygote, and that before the master (0)."""


def die_with(parent: int) -> None:
    """End this process when the thread that started it ends; at once if that has happened already.

    Linux sends the signal at the death of the parent's *thread*; master and zygote start processes
    from their main ones.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        sys.exit(f"prctl(PR_SET_PDEATHSIG) failed with errno {ctypes.get_errno()}")
    if os.getppid() != parent:
        os._exit(0)


def outlive_parent() -> None:
    """Take back ``die_with``: from now on this process looks for the end of its parent itself."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, 0)


def adopt_orphans() -> None:
    """Let what descendants leave behind become this process's children, instead of ``init``'s."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def hide(descriptor: int) -> int:
    """Move *descriptor* to a high number, closed in programs that this process starts."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = _PRIVATE if limit == resource.RLIM_INFINITY else min(_PRIVATE, limit // 2)
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, lowest)
    os.close(descriptor)
    return moved


def show_stacks_in(descriptor: int) -> None:
    """Write all stacks to *descriptor* on SIGUSR1 and on fatal signals, whatever the code is doing.

    ``faulthandler`` works in the C signal handler: 0.1 ms, also inside a regular expression.
    """
    faulthandler.enable(file=descriptor, all_threads=True)
    faulthandler.register(signal.SIGUSR1, file=descriptor, all_threads=True, chain=False)


def hide_stacks() -> None:
    """Take back ``show_stacks_in`` for SIGUSR1, for whoever gives that signal another handler."""
    faulthandler.unregister(signal.SIGUSR1)


def be_killed_first(score: int) -> None:
    """Offer this process to the out-of-memory killer with *score*, 0 to 1000."""
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(score))
    except OSError as error:  # a hardened container may forbid it; nothing depends on it
        print(f"litestar-queues: oom_score_adj cannot be set: {error}", file=sys.stderr)


def leave_signals_to_master() -> None:
    """Leave Ctrl-C, hang-ups, and a SIGTERM for all processes of a service to the master: it decides what they mean.

    By a handler that does nothing. Programs that a job starts would inherit SIG_IGN, and be deaf to
    Ctrl-C themselves. What is ignored already (``nohup``) stays so.
    """
    for number in _LEFT:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _do_nothing)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def restore_signals_in_forks() -> None:
    """Let processes that a job forks be ended by the signals that are left to the master here.

    They are blocked over the fork: one that comes before the child has its own handlers waits for those.
    """
    masks = threading.local()

    def block() -> None:
        masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, _LEFT)

    def unblock() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.before)

    def restore() -> None:
        _restore_signals()
        unblock()

    os.register_at_fork(before=block, after_in_parent=unblock, after_in_child=restore)


def _restore_signals() -> None:
    for number in _LEFT:
        if signal.getsignal(number) is _do_nothing:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def _do_nothing(number: int, frame: object) -> None:
    pass
