"""Wait for jobs to end: on each event loop, one bell and one query for all who wait there.

A waiter names its job and sleeps. The bell says that something changed; one query for all the jobs
that are waited for, past what was seen before, says which. With no bell the query is asked from
time to time, and then for the whole of it: a lost ring costs time, never an answer.

The watch of a loop is a task that lives while somebody waits there. The last waiter ends it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from contextvars import Context

from litestar_queues.exceptions import QueueError, StoreError
from litestar_queues.models import TERMINAL
from litestar_queues.store.base import Bell, Store

SHORTEST_POLL = 0.05
LONGEST_POLL = 1.0
"""Seconds between looks while no bell rings: the first, and what it doubles to."""


class Watcher:
    """All waits of one service, on whichever event loops they happen."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._watches: dict[asyncio.AbstractEventLoop, _Watch] = {}
        self._lock = threading.Lock()
        self._is_closed = False

    async def wait_until_ended(self, number: int, *, poll_interval: float | None = None) -> None:
        """Return once job *number* has ended or is gone; looks at least every *poll_interval* seconds.

        Raises the ``StoreError`` that keeps it from looking, and ``QueueError`` when the service is closed.
        """
        if poll_interval is not None and poll_interval <= 0:
            msg = f"poll_interval cannot be {poll_interval!r}; give seconds, more than 0"
            raise ValueError(msg)
        await self._watch_here().wait(number, poll_interval)

    def ring(self, numbers: Iterable[int]) -> None:
        """Look at these jobs now: the store does not wake a listener for its own commits."""
        changed = set(numbers)
        for loop, watch in list(self._watches.items()):
            if not changed.isdisjoint(watch.waited_for):
                _on(loop, watch.ring)

    async def close(self) -> None:
        """Send away whoever still waits."""
        with self._lock:
            self._is_closed = True
            watches, self._watches = self._watches, {}
        here = asyncio.get_running_loop()
        for loop, watch in watches.items():
            watch.is_over = True
            if loop is here:
                await watch.close()
            else:
                _on(loop, watch.send_away)

    def _watch_here(self) -> _Watch:
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._is_closed:
                raise _closed()
            if loop not in self._watches:
                # Loops end unannounced (a test client's, a thread's); nobody waits on a closed one.
                self._watches = {each: watch for each, watch in self._watches.items() if not each.is_closed()}
                self._watches[loop] = _Watch(self._store)
            return self._watches[loop]


class _Waiter:
    __slots__ = ("ended", "poll_interval")

    def __init__(self, poll_interval: float | None) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.poll_interval = poll_interval


class _Watch:
    """The waits on one event loop, and the task that watches for them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiters: dict[int, list[_Waiter]] = {}
        self._task: asyncio.Task[None] | None = None
        self._bell: Bell | None = None
        self._seen = 0
        self._asks_whole = True
        """The next look asks for everything, not only for what is past ``_seen``."""
        self.is_over = False
        """The service has been closed; a look that fails now fails because of that."""

    @property
    def waited_for(self) -> Iterable[int]:
        """The jobs that somebody waits for here."""
        return tuple(self._waiters)

    async def wait(self, number: int, poll_interval: float | None) -> None:
        """Return once job *number* has ended or is gone."""
        waiter = _Waiter(poll_interval)
        self._waiters.setdefault(number, []).append(waiter)
        self._asks_whole = True
        self.ring()
        if self._task is None or self._task.done():
            # In a context of its own: it is not the first waiter's, and does not end with that job.
            self._task = asyncio.get_running_loop().create_task(self._run(), context=Context())
        try:
            await waiter.ended
        finally:
            await self._leave(number, waiter)

    def ring(self) -> None:
        """Look now."""
        if self._bell is not None:
            self._bell.ring()

    def send_away(self, error: Exception | None = None) -> None:
        """Let every wait here raise *error*, or that the service is closed."""
        for waiter in self._all():
            if not waiter.ended.done():
                waiter.ended.set_exception(error or _closed())

    async def close(self) -> None:
        """Send everybody away and end the watch."""
        self.send_away()
        await self._stop()

    def _all(self) -> list[_Waiter]:
        return [waiter for waiters in self._waiters.values() for waiter in waiters]

    async def _leave(self, number: int, waiter: _Waiter) -> None:
        waiters = self._waiters[number]
        waiters.remove(waiter)
        if not waiters:
            del self._waiters[number]
        if not self._waiters:
            await self._stop()

    async def _stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _run(self) -> None:
        try:
            while True:
                await self._listen()
        # Whatever it is, those who wait must hear of it: it is raised there.
        except Exception as error:
            self.send_away(None if self.is_over else error)

    async def _listen(self) -> None:
        """Watch for those who wait now, until somebody waits for another job."""
        numbers = frozenset(self._waiters)
        async with AsyncExitStack() as stack:
            try:
                self._bell = await stack.enter_async_context(self._store.listen(numbers))
            except StoreError:  # the folder of the bells cannot be written: look from time to time
                self._bell = _SilentBell()
            pause = SHORTEST_POLL
            while numbers >= self._waiters.keys():
                await self._look()
                pause = min(pause, self._longest_pause())
                if await self._bell.wait(pause):
                    pause = SHORTEST_POLL
                else:
                    pause *= 2
                    self._asks_whole = True

    async def _look(self) -> None:
        """Wake those whose job has ended, or is not there."""
        numbers = tuple(self._waiters)
        after, self._asks_whole = 0 if self._asks_whole else self._seen, False
        changes = await self._store.changed(numbers, after=after)
        ended = {change.number for change in changes if change.status in TERMINAL}
        if after == 0:
            ended |= set(numbers) - {change.number for change in changes}
        self._seen = max((change.sequence for change in changes), default=self._seen)
        for waiter in [waiter for number in ended for waiter in self._waiters.get(number, ())]:
            if not waiter.ended.done():
                waiter.ended.set_result(None)

    def _longest_pause(self) -> float:
        return min((waiter.poll_interval or LONGEST_POLL for waiter in self._all()), default=LONGEST_POLL)


class _SilentBell:
    """Stands for a bell that cannot be hung: only this process rings it."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    async def wait(self, timeout: float) -> bool:
        try:
            async with asyncio.timeout(timeout):
                await self._rung.wait()
        except TimeoutError:
            return False
        self._rung.clear()
        return True

    def ring(self) -> None:
        self._rung.set()


def _on(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    """Call it on *loop*; a loop that has been closed is nobody's."""
    try:
        loop.call_soon_threadsafe(call)
    except RuntimeError:
        return


def _closed() -> QueueError:
    msg = "the QueueService was closed while a job was waited for; keep it open until wait() has returned"
    return QueueError(msg)
