"""The tasks' own log of what really ran: one line at the start and one at the end of each run.

Appended with one write each to a file outside the database, so that what is judged does not depend
on what the queue says of itself.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

VARIABLE = "LQ_TEST_LOGBOOK"


def write(*words: object) -> None:
    """Append a line: monotonic nanoseconds, pid, words."""
    line = " ".join(map(str, (time.monotonic_ns(), os.getpid(), *words))) + "\n"
    descriptor = os.open(os.environ[VARIABLE], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def read(path: Path) -> list[list[str]]:
    """Return the lines, as words, in order of time."""
    if not path.exists():
        return []
    return sorted((line.split() for line in path.read_text().splitlines()), key=lambda words: int(words[0]))


def started(path: Path, name: str) -> list[list[str]]:
    """Return the lines that say that *name* has started."""
    return [words for words in read(path) if words[2:4] == ["start", name]]
