"""Wake whoever waits for a lock, when it comes free: a hint between processes, by a futex in a shared file.

A lock on a file can be waited for in the kernel, but not with a deadline. So whoever finds it held sleeps
here, on a word of shared memory that its holder raises when it lets go, for no longer than it would have
slept between two tries. Nothing depends on it: a wake that is lost (a holder that is killed, an older
release, a machine without futexes) costs a short sleep.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import os
import platform
import sys
import time
from pathlib import Path

_SIZE = 4096
_WORD = ctypes.sizeof(ctypes.c_uint32)
_WAIT, _WAKE = 0, 1
_SYSCALLS = {"x86_64": 202, "aarch64": 98, "riscv64": 98}
"""Numbers of ``futex`` (asm/unistd.h), where a long has 64 bits."""
_NANOSECONDS = 1_000_000_000
_log = logging.getLogger("litestar_queues.store")


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class Handover:
    """One word for each of *places* locks, shared by all processes at one database."""

    def __init__(self, path: Path, places: int) -> None:
        self._shared: mmap.mmap | None = None
        self._words: ctypes.Array[ctypes.c_uint32] | None = None
        number = _SYSCALLS.get(platform.machine())
        if number is None or sys.maxsize < 1 << 62:
            return
        try:
            self._shared = _map(path)
        except (OSError, ValueError) as error:  # a full disk, a folder that is not ours to write
            _log.info("processes at %s will look for their turn from time to time (%s)", path.parent, error)
            return
        self._number = ctypes.c_long(number)
        self._futex = ctypes.CDLL(None).syscall
        self._words = (ctypes.c_uint32 * places).from_buffer(self._shared)
        self._address = ctypes.addressof(self._words)

    def seen(self, place: int) -> int:
        """Return what to wait by: read it before the last try."""
        return 0 if self._words is None else self._words[place]

    def wait(self, place: int, seen: int, seconds: float) -> None:
        """Sleep until the lock was let go of since *seen* was read, or for *seconds*, or without a reason."""
        if self._words is None:
            time.sleep(seconds)
            return
        limit = _Timespec(0, min(int(seconds * _NANOSECONDS), _NANOSECONDS - 1))
        self._futex(self._number, self._at(place), _WAIT, ctypes.c_uint32(seen), ctypes.byref(limit), None, 0)

    def wake(self, place: int) -> None:
        """Wake one of those who wait; called by who has just let go."""
        if self._words is not None:
            self._words[place] = self._words[place] + 1 & 0xFFFF_FFFF
            self._futex(self._number, self._at(place), _WAKE, 1, None, None, 0)

    def close(self) -> None:
        """Let go of the memory."""
        self._words = None
        shared, self._shared = self._shared, None
        if shared is not None:
            shared.close()

    def _at(self, place: int) -> ctypes.c_void_p:
        return ctypes.c_void_p(self._address + place * _WORD)


def _map(path: Path) -> mmap.mmap:
    """Map the file; it is written in full first, for memory that no disk block is behind kills who touches it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(descriptor).st_size < _SIZE:
            os.pwrite(descriptor, bytes(_SIZE), 0)
        return mmap.mmap(descriptor, _SIZE)
    finally:
        os.close(descriptor)
