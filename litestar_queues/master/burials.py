"""Dead workers: end what their jobs left behind, and only then settle what they ran."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from litestar_queues.lifecycle import Outcome
from litestar_queues.master import strays
from litestar_queues.master.assignments import Assignment
from litestar_queues.master.notices import StraysKilled, Subscriber, WorkerSpoke
from litestar_queues.master.process import WorkerProcess
from litestar_queues.master.zygote import ZygoteProcess
from litestar_queues.models import Receipt

SWEEP_AGAIN = 0.5
"""Seconds until strays are looked for again, where that was not possible."""

Ends = list[tuple[Assignment, Outcome, Receipt]]


class Burials:
    """What has died and is not yet settled."""

    def __init__(self, tell: Subscriber, conclude: Callable[[Assignment, Outcome, Receipt | None], None]) -> None:
        self.unsettled: set[Assignment] = set()
        """Runs of dead workers of which something may still live; a drain waits for them."""
        self._tell = tell
        self._conclude = conclude

    def settle(self, worker: WorkerProcess, ends: Ends) -> Coroutine[Any, Any, None]:
        """Note that the runs of *worker* have ended, as *ends* say; what is returned settles them."""
        for assignment, _, _ in ends:
            assignment.mark_ended()
            self.unsettled.add(assignment)
        return self._settle(worker, ends)

    async def sweep(self, worker: WorkerProcess | ZygoteProcess) -> None:
        """End what the jobs of a dead worker left behind, or of a dead zygote the import."""
        pids: list[int] | None = None
        while pids is None:
            try:
                pids = await asyncio.to_thread(
                    strays.sweep, session=worker.pid, cookie=worker.cookie, below=_reaper_of(worker)
                )
            except OSError as error:  # no descriptor is left to look with
                self._tell(WorkerSpoke(worker.name, f"what it left behind cannot be looked for: {error}"))
                await asyncio.sleep(SWEEP_AGAIN)
        if pids:
            self._tell(StraysKilled(worker.name, tuple(pids)))

    async def _settle(self, worker: WorkerProcess, ends: Ends) -> None:
        if not worker.is_released:
            await self.sweep(worker)
        for assignment, outcome, receipt in ends:
            self.unsettled.discard(assignment)
            self._conclude(assignment, outcome, receipt)


def _reaper_of(dead: WorkerProcess | ZygoteProcess) -> int | None:
    """Return the process that has got the orphans of *dead*; None where that may be any of several."""
    if isinstance(dead, ZygoteProcess) or dead.zygote is None or dead.zygote.is_dead:
        return None
    return dead.zygote.pid
