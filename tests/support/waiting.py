"""Wait for a condition, with a deadline that names what was awaited. No test sleeps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
DEADLINE = 30.0
_LOOK_EVERY = 0.005


def wait_until(condition: Callable[[], T], what: str | Callable[[], str], *, deadline: float = DEADLINE) -> T:
    """Return the condition's first true value; fail after *deadline* seconds, naming *what* (as it is then)."""
    until = time.monotonic() + deadline
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > until:
            raise AssertionError(f"waited {deadline:g} s in vain: {what if isinstance(what, str) else what()}")
        time.sleep(_LOOK_EVERY)


async def eventually(condition: Callable[[], Awaitable[T]], what: str, *, deadline: float = DEADLINE) -> T:
    """Return the first true value of an asynchronous condition."""
    until = time.monotonic() + deadline
    while True:
        value = await condition()
        if value:
            return value
        if time.monotonic() > until:
            raise AssertionError(f"waited {deadline:g} s in vain: {what}")
        await asyncio.sleep(_LOOK_EVERY)
