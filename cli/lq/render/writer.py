"""Lines on their way to a descriptor, without waiting for whoever reads there."""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque

MOST_LINES = 5_000
"""Lines that may wait for a reader; what comes while so many do is counted and not shown."""


class LineWriter:
    """Writes lines on a thread of its own.

    A terminal on which somebody has typed Ctrl-S, or a pipe whose reader is stuck, holds up that
    thread and nobody else: a master that waited for its own words would enforce no deadline.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lines: deque[str] = deque()
        self._hidden = 0
        self._is_writing = False
        self._is_gone = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def write(self, line: str) -> None:
        """Have *line* written, or counted where too many wait already."""
        with self._changed:
            if self._is_gone:
                return
            if len(self._lines) >= MOST_LINES:
                self._hidden += 1
                return
            self._lines.append(line)
            self._changed.notify_all()
        if self._thread is None:
            # A daemon: one that waits for a reader must not keep the process.
            self._thread = threading.Thread(target=self._run, name="lq-lines", daemon=True)
            self._thread.start()

    def flush(self, patience: float) -> None:
        """Wait until all is written, for at most *patience* seconds."""
        until = time.monotonic() + patience
        with self._changed:
            while (self._lines or self._is_writing) and not self._is_gone:
                left = until - time.monotonic()
                if left <= 0:
                    return
                self._changed.wait(left)

    def _run(self) -> None:
        while True:
            text = self._take()
            try:
                self._write_all(text.encode("utf-8", "backslashreplace"))
            except OSError:  # the terminal or the pipe is gone: jobs matter more than words
                with self._changed:
                    self._is_gone = True
                    self._lines.clear()
                    self._changed.notify_all()
                return

    def _take(self) -> str:
        with self._changed:
            self._is_writing = False
            self._changed.notify_all()
            while not self._lines:
                self._changed.wait()
            self._is_writing = True
            lines = list(self._lines)
            self._lines.clear()
            if self._hidden:
                lines.append(f"… {self._hidden:,} lines are not shown: nobody read them in time")
                self._hidden = 0
        return "".join(f"{line}\n" for line in lines)

    def _write_all(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # somebody who shares the terminal has made it so
                select.select([], [self._descriptor], [])
