"""The cell: which job a worker runs, since when. Shared memory, because nothing else can be asked.

While a job holds the GIL in C, nothing in its process runs: no thread, no signal handler, no
flush. So the worker writes down what it is about to run before it runs it (one store of a few
bytes), and the master reads that whenever it needs to know: for deadlines, for blame, and to tell
a job that was started from one that was not. The cells of a master are one small file in the
store's folder, mapped by all: it outlives them, and tells the next master what was running when
this one was killed.

Each side writes its own fields: the worker the job, the master the request to stop it.

A job that waited at the worker may have run to its end, and the next one begun, before the master
could read a report of it; if the master dies then, the cell alone would tell the next one that the
first was never started. So a cell also keeps its most recent starts, in a ring, which the next
worker in that place goes on with: what the one before had started may not be settled yet.

Layout of a cell, little-endian::

    0 number   8 fence   16 started (monotonic ns)   24 started (wall µs)   32 cpu at start (µs)
    40 phase (u32)   44 reason (u32)   48 number to stop   56 fence to stop
    64 thread   72 step begun (monotonic ns)
    80 starts so far   88 … ring of (number, fence, started (wall µs))
"""

from __future__ import annotations

import mmap
import os
import struct
from enum import IntEnum
from typing import Self

from msgspec import Struct

RECENT = 512
"""Starts that a cell keeps: more than can be at a worker (``pace.MOST_WAITING``) and on the way to the store."""
_START = struct.Struct("<QQQ")
_LONG = struct.Struct("<Q")
_THREAD = 64
_STEP = 72
_COUNT = 80
_RING = 88
SIZE = _RING + RECENT * _START.size
_JOB = struct.Struct("<QQQQQ")
_STOP = struct.Struct("<QQ")
_WORD = struct.Struct("<I")
_PHASE = 40
_REASON = 44
_TARGET = 48


class Phase(IntEnum):
    """What the worker does with the job in its cell."""

    IDLE = 0
    RUNNING = 1
    ENDED = 2
    """The job's end has been reported."""


_PHASES = frozenset(Phase)


class Reason(IntEnum):
    """Why the master wants a run to stop."""

    NONE = 0
    TIMEOUT = 1
    CANCEL = 2
    DRAIN = 3
    MEMORY = 4


class Shown(Struct, frozen=True):
    """What a cell showed at one moment."""

    number: int
    fence: int
    started: int
    """Nanoseconds on the monotonic clock."""
    started_at: int
    """Wall time in microseconds."""
    cpu: int
    """CPU time of the process when the job started, in microseconds."""
    phase: Phase
    thread: int = 0
    """Identity of the thread that runs it, where that is not the main one."""
    step_began: int = 0
    """When the step began that keeps the event loop (monotonic nanoseconds); 0 while it waits."""

    def has_started(self, number: int, fence: int) -> bool:
        """True when this claim of the job was begun here, whether or not it has ended."""
        return self.phase != Phase.IDLE and (self.number, self.fence) == (number, fence)

    def is_running(self, number: int, fence: int) -> bool:
        """True while this claim of the job is running here."""
        return self.phase == Phase.RUNNING and (self.number, self.fence) == (number, fence)


class Cell:
    """One slot's cell."""

    def __init__(self, memory: mmap.mmap, slot: int) -> None:
        self._memory = memory
        self._at = slot * SIZE

    def begin(self, number: int, fence: int, *, started: int, started_at: int, cpu: int) -> None:
        """Write down, before it is run, that this job is run. The phase is last: it makes the rest true."""
        (count,) = _LONG.unpack_from(self._memory, self._at + _COUNT)
        _START.pack_into(self._memory, self._at + _RING + count % RECENT * _START.size, number, fence, started_at)
        _LONG.pack_into(self._memory, self._at + _COUNT, count + 1)
        _JOB.pack_into(self._memory, self._at, number, fence, started, started_at, cpu)
        _LONG.pack_into(self._memory, self._at + _THREAD, 0)
        _WORD.pack_into(self._memory, self._at + _PHASE, Phase.RUNNING)

    def run_in_thread(self, thread: int) -> None:
        """Write down which thread runs the job: its stack is the one to look at."""
        _LONG.pack_into(self._memory, self._at + _THREAD, thread)

    def begin_step(self, now: int) -> None:
        """Write down that the job has the event loop, since *now*."""
        _LONG.pack_into(self._memory, self._at + _STEP, now)

    def end_step(self) -> None:
        """Write down that the job waits, and others may run."""
        _LONG.pack_into(self._memory, self._at + _STEP, 0)

    def end(self) -> None:
        """Write down that the end of the job has been reported."""
        _WORD.pack_into(self._memory, self._at + _PHASE, Phase.ENDED)

    def read(self) -> Shown:
        """Return what the cell shows now."""
        return _shown(self._memory, self._at)

    def ask_to_stop(self, number: int, fence: int, reason: Reason) -> None:
        """Say that this run, and no other, is to stop."""
        _WORD.pack_into(self._memory, self._at + _REASON, Reason.NONE)
        _STOP.pack_into(self._memory, self._at + _TARGET, number, fence)
        _WORD.pack_into(self._memory, self._at + _REASON, reason)

    def asked_to_stop(self, number: int, fence: int) -> Reason:
        """Return why this run is to stop, or ``Reason.NONE``."""
        (reason,) = _WORD.unpack_from(self._memory, self._at + _REASON)
        target = _STOP.unpack_from(self._memory, self._at + _TARGET)
        return Reason(reason) if target == (number, fence) else Reason.NONE

    def clear(self) -> None:
        """Make it as new, for another process to use. The recent starts stay: their ends may not be stored yet."""
        self._memory[self._at : self._at + _COUNT] = bytes(_COUNT)


class CellFile:
    """The file of a master's cells."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, os.fstat(descriptor).st_size)

    @classmethod
    def create(cls, path: str, slots: int) -> Self:
        """Make a new file with *slots* empty cells.

        Its blocks are allocated now: writing to a hole of a mapped file on a full disk is a SIGBUS.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.posix_fallocate(descriptor, 0, slots * SIZE)
        return cls(descriptor)

    @classmethod
    def starts(cls, path: str) -> dict[tuple[int, int], int]:
        """Return what the workers of a master that is gone have begun of late: wall time by number and fence.

        Empty when the file is not there.
        """
        try:
            with open(path, "rb") as file:
                content = file.read()
        except FileNotFoundError:
            return {}
        found: dict[tuple[int, int], int] = {}
        for cell in range(0, len(content) - SIZE + 1, SIZE):
            for number, fence, started_at in _START.iter_unpack(content[cell + _RING : cell + SIZE]):
                if number:
                    found[number, fence] = started_at
        return found

    def cell(self, slot: int) -> Cell:
        """Return the cell of *slot*, counted from 0."""
        return Cell(self._memory, slot)

    def close(self) -> None:
        """Unmap and close; the file stays."""
        self._memory.close()
        os.close(self.descriptor)


def _shown(content: bytes | mmap.mmap, at: int) -> Shown:
    number, fence, started, started_at, cpu = _JOB.unpack_from(content, at)
    (phase,) = _WORD.unpack_from(content, at + _PHASE)
    (thread,) = _LONG.unpack_from(content, at + _THREAD)
    (step_began,) = _LONG.unpack_from(content, at + _STEP)
    known = Phase(phase) if phase in _PHASES else Phase.IDLE
    return Shown(number, fence, started, started_at, cpu, known, thread, step_began)
