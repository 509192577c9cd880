"""Where a process stands: its stacks, written by ``faulthandler`` into a memory file the master holds.

Works inside C code, with signals ignored in Python, and from a fatal signal; 0.1 ms. A process
that is stopped (SIGSTOP) or in an uninterruptible call writes nothing.
"""

from __future__ import annotations

import asyncio
import os

MAX_STACK = 65_536
"""Bytes of a dump that are kept."""
_PATIENCE = 0.1
_LOOK_EVERY = 0.002
_OURS = tuple(f"/litestar_queues/{name}.py" for name in ("running", "worker/serving", "worker/slots"))
"""What calls a task, or waits on the loop that its coroutine is on."""


class StackFile:
    """A memory file shared with one worker: both ends have one offset, so rewinding here rewinds there."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("lq-stack", os.MFD_CLOEXEC)

    def clear(self) -> None:
        """Forget what was written."""
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        os.ftruncate(self.descriptor, 0)

    def read(self) -> str | None:
        """Return what was written, without our own frames; None when nothing was."""
        raw = os.pread(self.descriptor, MAX_STACK, 0) if self.descriptor >= 0 else b""
        return _users_part(raw.decode("utf-8", "backslashreplace")) if raw else None

    async def wait(self) -> str | None:
        """Return the dump once it is whole, or None after 0.1 s without one."""
        clock = asyncio.get_running_loop().time
        end = clock() + _PATIENCE
        size = 0
        while clock() < end:
            await asyncio.sleep(_LOOK_EVERY)
            if self.descriptor < 0:
                return None
            grown = os.fstat(self.descriptor).st_size
            if grown and grown == size:
                break
            size = grown
        return self.read()

    def close(self) -> None:
        """Let go of it."""
        os.close(self.descriptor)
        self.descriptor = -1


def place_in(stack: str | None, thread: int = 0) -> str | None:
    """Return the innermost line of a thread: ``File "x.py", line 3 in f``.

    Of *thread*, if that is in *stack*, else of the main one, which is dumped last.
    """
    if stack is None:
        return None
    blocks = stack.split("hread ")
    wanted = f"0x{thread:016x} "
    block = next((block for block in blocks if thread and block.startswith(wanted)), blocks[-1]).splitlines()
    frames = [line.strip() for line in block if line.startswith("  File ")]
    return frames[0] if frames else None


def _users_part(dump: str) -> str:
    """Cut each thread's stack where this package called the task."""
    kept: list[str] = []
    is_ours = False
    for line in dump.splitlines():
        if not line.startswith("  "):
            is_ours = False
        elif any(name in line for name in _OURS):
            is_ours = True
        if not is_ours:
            kept.append(line)
    return "\n".join(kept).strip()
