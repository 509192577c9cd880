"""Lines from a pipe that nobody but the master reads.

A worker that read its own output would deadlock when a job writes 64 KiB with the GIL held.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

MAX_LINE = 16_384
"""Bytes of one line; a longer one is passed on in pieces, so that 100 MB without a newline cost 16 KiB."""
_CHUNK = 65_536
_CHUNKS_A_TURN = 16


class LinePipe:
    """Reads a pipe on the running event loop, and passes each line on."""

    def __init__(self, descriptor: int, take: Callable[[str], None], before: Callable[[], None] | None = None) -> None:
        """Read *descriptor*; call *before* each time something is there, so that what was sent earlier comes first."""
        self._descriptor = descriptor
        self._take = take
        self._before = before
        self._partial = b""
        self._closes_at_end = False
        self._loop = asyncio.get_running_loop()
        os.set_blocking(descriptor, False)
        self._loop.add_reader(descriptor, self._read_in_order)

    def drain(self) -> None:
        """Read until nothing waits, but no more than a pipe can hold."""
        for _ in range(_CHUNKS_A_TURN):
            if not self._read():
                return

    def take_last_line(self) -> str | None:
        """Return the last line, where it has no end, and forget it; None where there is none."""
        rest, self._partial = self._partial, b""
        return _text(rest) if rest else None

    def close(self) -> None:
        """Stop reading."""
        if self._descriptor >= 0:
            rest = self.take_last_line()
            if rest is not None:
                self._take(rest)
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def discard(self) -> None:
        """Read on to the end, whenever that is, for nobody: who still writes is not to die of it."""
        self._partial = b""
        self._take = _take_nothing
        self._before = None
        self._closes_at_end = True
        self._read()

    def _read_in_order(self) -> None:
        if self._before is not None:
            self._before()
        self._read()

    def _read(self) -> bool:
        if self._descriptor < 0:
            return False
        try:
            chunk = os.read(self._descriptor, _CHUNK)
        except BlockingIOError:
            return False
        if not chunk:
            self._loop.remove_reader(self._descriptor)
            if self._closes_at_end:
                os.close(self._descriptor)
                self._descriptor = -1
            return False
        *lines, rest = (self._partial + chunk).split(b"\n")
        for line in lines:
            self._pass_on(line)
        while len(rest) > MAX_LINE:
            self._pass_on(rest[:MAX_LINE])
            rest = rest[MAX_LINE:]
        self._partial = rest
        return True

    def _pass_on(self, line: bytes) -> None:
        self._take(_text(line))


def _take_nothing(line: str) -> None:
    pass


def _text(line: bytes) -> str:
    return line[: 4 * MAX_LINE].decode("utf-8", "backslashreplace")
