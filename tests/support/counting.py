"""Count what Python code does: calls of its functions, and system calls by name."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SYSTEM_CALLS = frozenset(
    {
        "recvmsg_into", "recvmsg", "recv", "send", "sendmsg", "sendto", "ioctl", "waitid", "waitpid", "pread", "read",
        "write", "getpid", "process_time_ns", "thread_time_ns", "stat", "fstat", "open", "close", "poll", "fcntl",
        "alarm", "setitimer", "pthread_sigmask", "fchdir", "umask",
    }
)  # fmt: skip
"""Functions in C that ask the kernel each time; the two clocks of the wall and of the machine do not."""


class Counts:
    """What one thread has done."""

    def __init__(self) -> None:
        self.functions = 0
        self.system: Counter[str] = Counter()

    def take(self, frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            self.functions += 1
        elif event == "c_call" and (name := getattr(argument, "__name__", "")) in SYSTEM_CALLS:
            self.system[name] += 1


@contextmanager
def counting() -> Iterator[Counts]:
    """Count what this thread does in the block."""
    counts = Counts()
    before = sys.getprofile()
    sys.setprofile(counts.take)
    try:
        yield counts
    finally:
        sys.setprofile(before)
