"""Wait for jobs to end: one bell and one query for all who wait on one event loop.

A waiter names its job and sleeps. The bell says that something changed; one query for all the jobs
that are waited for says which. Without a bell the query is asked from time to time.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from litestar_queues.models import TERMINAL, QueuedTaskRecord

if TYPE_CHECKING:
    from litestar_queues.store.base import Store

SHORTEST_POLL = 0.05
LONGEST_POLL = 1.0
"""Seconds between looks while no bell rings."""


class Watcher:
    """All waits of one service, on whichever event loops they happen."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._loops: dict[asyncio.AbstractEventLoop, _LoopWatcher] = {}

    async def wait_until_ended(
        self, number: int, timeout: float | None, poll_interval: float | None, known: QueuedTaskRecord
    ) -> None:
        """Return once job *number* has ended or is gone; ``TimeoutError`` after *timeout* seconds."""
        if known.is_terminal:
            return
        loop = asyncio.get_running_loop()
        watcher = self._loops.get(loop)
        if watcher is None:
            self._loops = {each: it for each, it in self._loops.items() if not each.is_closed()}
            watcher = self._loops[loop] = _LoopWatcher(self._store)
        async with asyncio.timeout(timeout):
            await watcher.wait(number, poll_interval)


class _LoopWatcher:
    """The waits on one event loop. The first waiter watches for all; when it leaves, another does."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: dict[int, list[asyncio.Event]] = {}
        self._watching = asyncio.Lock()

    async def wait(self, number: int, poll_interval: float | None) -> None:
        ended = asyncio.Event()
        self._waiting.setdefault(number, []).append(ended)
        try:
            while not ended.is_set():
                await self._wait_or_watch(ended, poll_interval)
        finally:
            self._waiting[number].remove(ended)
            if not self._waiting[number]:
                del self._waiting[number]

    async def _wait_or_watch(self, ended: asyncio.Event, poll_interval: float | None) -> None:
        """Wait for the one who watches to tell, or become that one."""
        if not self._watching.locked():
            async with self._watching:
                await self._watch(ended, poll_interval)
            return
        told = asyncio.ensure_future(ended.wait())
        free = asyncio.ensure_future(self._until_nobody_watches())
        try:
            await asyncio.wait([told, free], return_when=asyncio.FIRST_COMPLETED)
        finally:
            told.cancel()
            free.cancel()

    async def _until_nobody_watches(self) -> None:
        async with self._watching:
            return

    async def _watch(self, ended: asyncio.Event, poll_interval: float | None) -> None:
        """Look whenever the bell rings, until *ended*; listen anew when others have joined."""
        poll = poll_interval or SHORTEST_POLL
        while not ended.is_set():
            numbers = frozenset(self._waiting)
            async with self._store.listen(numbers) as bell:
                while not ended.is_set() and numbers >= self._waiting.keys():
                    await self._look()
                    if ended.is_set():
                        return
                    if await bell.wait(poll):
                        poll = poll_interval or SHORTEST_POLL
                    elif poll_interval is None:
                        poll = min(poll * 2, LONGEST_POLL)

    async def _look(self) -> None:
        """Tell those whose job has ended, or is not there."""
        numbers = list(self._waiting)
        changes = {change.number: change for change in await self._store.changed(numbers, after=0)}
        for number in numbers:
            change = changes.get(number)
            if change is None or change.status in TERMINAL:
                for event in self._waiting.get(number, ()):
                    event.set()
