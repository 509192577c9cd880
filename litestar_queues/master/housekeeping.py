"""Delete jobs that ended long enough ago, beside the work and never in its way.

One transaction after the other, each so short that a claim which comes meanwhile hardly notices
(``store.prune`` bounds it), with a rest after each that lets everybody else go first. Every master
does this for itself: two at it halve the work, and do no harm.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

from litestar_queues.clock import SECOND, Clock
from litestar_queues.exceptions import FINAL_REFUSALS, StoreError
from litestar_queues.master.notices import JobsPruned, StoreProblem, Subscriber
from litestar_queues.models import Status
from litestar_queues.nodes import Catalogue
from litestar_queues.store.base import Place, Pruned, Store

LOOK_EVERY = 30.0
"""Seconds between looks while nothing is over: so much longer than it is to be kept a job may stay."""
REST = 3.0
"""Rest after a transaction, as a multiple of what that took, without its commit and the wait for its turn: about a
third of the time for writing goes here at first. With the wait, 2,300 jobs a second went beside a full load that ended
3,800, and the database grew; a prune of 200 jobs takes about 4 ms."""
BEHIND_AFTER = 20.0
"""Seconds over which the rest of a sweep that does not come to its end falls to the shortest: from then on parts and the
rounds of others take turns, and the turnstile sees to it that nobody waits for two parts. A load that ended 4,700 jobs a
second, with arguments and events, outran a rest of once the transaction by 800 a second."""
SHORTEST_REST = 0.001
ANEW_EVERY = 3600.0
"""Seconds after which a walk begins at the very oldest again. A job can come to lie behind the place that was
reached: one whose end is told late, or by a clock that was set back."""


class Housekeeping:
    """Prunes for one master."""

    def __init__(self, store: Store, clock: Clock, kept: Mapping[Status, int | None], tell: Subscriber) -> None:
        self._store = store
        self._clock = clock
        self._kept = kept
        self._tell = tell
        self._place: Place | None = None
        self._began_anew = float("-inf")
        self._problem = ""

    def learn(self, catalogue: Catalogue) -> None:
        """Keep jobs from now on as *catalogue* says."""
        if catalogue.retention != self._kept:
            self._kept, self._place = catalogue.retention, None

    async def run(self) -> None:
        """Prune for ever."""
        while True:
            try:
                await self.sweep()
                self._problem = ""
            except FINAL_REFUSALS:
                raise  # it will not pass
            except StoreError as error:
                if str(error) != self._problem:  # the rounds meet it too: say here only what is new
                    self._problem = str(error)
                    self._tell(StoreProblem(self._problem, LOOK_EVERY))
            await asyncio.sleep(LOOK_EVERY)

    async def sweep(self) -> None:
        """Prune until nothing is left that is over."""
        loop = asyncio.get_running_loop()
        if loop.time() - self._began_anew >= ANEW_EVERY:
            self._place, self._began_anew = None, loop.time()
        jobs = results = 0
        try:
            async for done in parts(self._store, self._kept, self._clock, after=self._place):
                self._place = done.place
                jobs, results = jobs + sum(done.jobs.values()), results + done.results
        finally:
            if jobs or results:
                self._tell(JobsPruned(jobs, results))


async def parts(
    store: Store,
    kept: Mapping[Status, int | None],
    clock: Clock,
    *,
    after: Place | None = None,
    even_kept: bool = False,
) -> AsyncIterator[Pruned]:
    """Prune until nothing is left that is over, with a rest after each part; yield what each has done."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while True:
        done = await store.prune(kept, now=clock.now(), after=after, even_kept=even_kept)
        yield done
        if not done.has_more:
            return
        after = done.place
        await asyncio.sleep(rest_after(done, loop.time() - began))


def rest_after(done: Pruned, since: float) -> float:
    """Return for how many seconds others are let go first: by what it kept them from, not by its own wait for its turn.

    *since* is how long the sweep has lasted.
    """
    return max(done.took / SECOND * REST * (1 - since / BEHIND_AFTER), SHORTEST_REST)
