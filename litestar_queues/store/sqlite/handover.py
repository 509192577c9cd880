"""Wake whoever waits for a lock, when it comes free: a hint between processes, by a futex in a shared file.

A lock on a file can be waited for in the kernel, but not with a deadline. So whoever finds it held sleeps
here, on a word of shared memory that its holder raises when it lets go, for no longer than it would have
slept between two tries. Nothing depends on it: a wake that is lost (a holder that is killed, an older
release, a machine without futexes) costs a short sleep.

The file may be cut under us, or its disk be full, and who touches memory that no block is behind is killed
(SIGBUS). So the memory is left to the kernel, which raises the word as it wakes and only says when it
cannot; the word is read from the file.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import mmap
import os
import platform
import sys
import time
from pathlib import Path

_SIZE = 4096
_WORD = ctypes.sizeof(ctypes.c_uint32)
_WAIT, _WAKE_OP = 0, 5
_RAISE = 1 << 28 | 1 << 12
"""For ``_WAKE_OP``: add 1 to the word (FUTEX_OP_ADD, linux/futex.h), and wake nobody for what it was."""
_SYSCALLS = {"x86_64": 202, "aarch64": 98, "riscv64": 98}
"""Numbers of ``futex`` (asm/unistd.h), where a long has 64 bits."""
_IN_ORDER = frozenset({errno.EAGAIN, errno.ETIMEDOUT, errno.EINTR})
"""How a wait may end that nobody has ended."""
_NANOSECONDS = 1_000_000_000
_log = logging.getLogger("litestar_queues.store")


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class Handover:
    """One word for each of a few locks, shared by all processes at one database."""

    def __init__(self, path: Path) -> None:
        self._shared: mmap.mmap | None = None
        self._descriptor = -1
        number = _SYSCALLS.get(platform.machine()) if sys.platform == "linux" else None
        if number is None or sys.maxsize < 1 << 62:
            return
        try:
            self._futex = ctypes.CDLL(None, use_errno=True).syscall
            self._descriptor = _open(path)
            self._shared = mmap.mmap(self._descriptor, _SIZE)
        except (AttributeError, OSError, ValueError) as error:  # a full disk, a folder that is not ours to write
            _log.info("processes at %s will look for their turn from time to time (%s)", path.parent, error)
            self.close()
            return
        self._number = ctypes.c_long(number)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._shared))

    def seen(self, place: int) -> int:
        """Return what to wait by: read it before the last try."""
        if self._shared is None:
            return 0
        try:
            return int.from_bytes(os.pread(self._descriptor, _WORD, place * _WORD), sys.byteorder)
        except OSError:
            return 0

    def wait(self, place: int, seen: int, seconds: float) -> None:
        """Sleep until the lock was let go of since *seen* was read, or for *seconds*, or without a reason."""
        if self._shared is not None:
            limit = _Timespec(0, min(int(seconds * _NANOSECONDS), _NANOSECONDS - 1))
            word = ctypes.c_uint32(seen)
            if not self._futex(self._number, self._at(place), _WAIT, word, ctypes.byref(limit), None, 0):
                return
            if ctypes.get_errno() in _IN_ORDER:
                return
        time.sleep(seconds)

    def wake(self, place: int) -> None:
        """Wake one of those who wait; called by who has just let go."""
        if self._shared is not None:
            word = self._at(place)
            self._futex(self._number, word, _WAKE_OP, 1, None, word, _RAISE)

    def close(self) -> None:
        """Let go of the memory."""
        shared, self._shared = self._shared, None
        if shared is not None:
            shared.close()
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _at(self, place: int) -> ctypes.c_void_p:
        return ctypes.c_void_p(self._address + place * _WORD)


def _open(path: Path) -> int:
    """Open the file; it is written in full first, so that there is a block behind it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(descriptor).st_size < _SIZE:
            os.pwrite(descriptor, bytes(_SIZE), 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
