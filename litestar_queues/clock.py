"""The one source of time.

Wall time (microseconds since 1970, UTC) dates what is stored; monotonic time (nanoseconds)
measures deadlines, and on Linux means the same in every process of the host. Code takes a
``Clock`` and never reads the system's, so that a test can own both.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

SECOND = 1_000_000
"""Microseconds in a second."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Clock(Protocol):
    """Where the time comes from."""

    def now(self) -> int:
        """Return wall time in microseconds since 1970-01-01 UTC."""
        ...

    def monotonic(self) -> int:
        """Return nanoseconds on ``CLOCK_MONOTONIC``."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> int:
        """Return wall time in microseconds since 1970-01-01 UTC."""
        return time.time_ns() // 1_000

    def monotonic(self) -> int:
        """Return nanoseconds on ``CLOCK_MONOTONIC``."""
        return time.monotonic_ns()


def to_datetime(at: int) -> datetime:
    """Return *at* (microseconds) as an aware UTC datetime."""
    return _EPOCH + timedelta(microseconds=at)


def from_datetime(when: datetime) -> int:
    """Return the microseconds of an aware datetime; a naive one is refused."""
    if when.tzinfo is None:
        msg = f"{when!r} has no time zone; give an aware datetime, for instance datetime.now(UTC)"
        raise ValueError(msg)
    return (when - _EPOCH) // timedelta(microseconds=1)


def to_microseconds(duration: float | timedelta) -> int:
    """Return a duration (seconds, or a ``timedelta``) in whole microseconds."""
    if isinstance(duration, timedelta):
        return duration // timedelta(microseconds=1)
    return round(duration * SECOND)
