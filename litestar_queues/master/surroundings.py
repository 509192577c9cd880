"""What a master needs of the process that it is, whoever started it and however.

A service manager, a shell, a container and another program each leave something else behind: closed
descriptors, signals that are ignored or blocked, few descriptors.
"""

from __future__ import annotations

import os
import resource
import signal
import sys

from litestar_queues.exceptions import QueueConfigurationError

_A_WORKER = 10
"""Descriptors that a master holds for a worker: seven while it lives, three more while it is made."""
_BESIDE = 80
"""Descriptors for everything else: the store, two zygotes, looks into ``/proc``."""


def open_standard_descriptors() -> None:
    """Open ``/dev/null`` in place of each standard descriptor that is closed.

    The next file that is opened would take its number, and who prints would write into it.
    """
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 (stays open)


def reset_signals() -> None:
    """Let this process hear signals, and be told of the ends of its children."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def make_room_for(workers: int) -> None:
    """Raise the limit of descriptors as far as it goes; refuse more *workers* than it allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    needed = _BESIDE + _A_WORKER * workers
    if hard != resource.RLIM_INFINITY and needed > hard:
        msg = (
            f"{workers} worker processes need {needed} descriptors, and this process may open {hard}; "
            "raise the limit (ulimit -Hn, LimitNOFILE=), or start fewer"
        )
        raise QueueConfigurationError(msg)


def limits_of_descriptors() -> tuple[int, int]:
    """Return the limits as they are, soft and hard; for those who are not to inherit what is raised here."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)
