"""A wall clock that a test can set, in every process of a master: ``python -m support.skew worker …`` is ``lq worker …``.

The offset is a file's content. The monotonic clock stays true: so do clocks that step, and a machine
that was suspended. Whatever imports this module (the zygote does, by ``--import``) has the clock.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from litestar_queues.clock import SECOND, SystemClock

VARIABLE = "LQ_TEST_SKEW"


class SkewedClock(SystemClock):
    """The machine's clocks, the wall clock off by as many seconds as a file says."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def now(self) -> int:
        """Return the wall time that the test wants."""
        return time.time_ns() // 1_000 + offset(self._file)


def offset(file: Path) -> int:
    """Return by how many microseconds the wall clock is off."""
    return int(float(file.read_text() or 0) * SECOND) if file.exists() else 0


def shift(file: Path, seconds: float) -> None:
    """Set the wall clock of all at once, by a rename."""
    new = file.with_suffix(".new")
    new.write_text(str(seconds))
    new.rename(file)


def _skewed_now(clock: SystemClock) -> int:
    return SkewedClock(Path(os.environ[VARIABLE])).now()


if VARIABLE in os.environ:
    SystemClock.now = _skewed_now  # type: ignore[method-assign]

if __name__ == "__main__":
    from lq.__main__ import main

    sys.argv[0] = "lq"
    main()
