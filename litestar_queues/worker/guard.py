"""Make this process one that cannot outlive its master, and hide what it talks through."""

from __future__ import annotations

import ctypes
import faulthandler
import fcntl
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PRIVATE = 200
"""Descriptors from here up are ours: code that closes or scribbles over 3…99 does not meet them."""
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
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _PRIVATE)
    os.close(descriptor)
    return moved


def show_stacks_in(descriptor: int) -> None:
    """Write all stacks to *descriptor* on SIGUSR1 and on fatal signals, whatever the code is doing.

    ``faulthandler`` works in the C signal handler: 0.1 ms, also inside a regular expression.
    """
    faulthandler.enable(file=descriptor, all_threads=True)
    faulthandler.register(signal.SIGUSR1, file=descriptor, all_threads=True, chain=False)


def be_killed_first(score: int) -> None:
    """Offer this process to the out-of-memory killer with *score*, 0 to 1000."""
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(score))
    except OSError as error:  # a hardened container may forbid it; nothing depends on it
        print(f"litestar-queues: oom_score_adj cannot be set: {error}", file=sys.stderr)


def ignore_terminal_signals() -> None:
    """Leave Ctrl-C and hang-ups to the master, which decides what they mean."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
