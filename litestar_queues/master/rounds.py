"""The exchange with the store: what jobs said and what became of them goes out, new claims come in.

All that waits goes into one round, and a round is one transaction: events first, then the
settlements they belong to, then the claims for the workers those freed. So a job's last log line
is never younger than its end, and a busy master pays one commit for many jobs.

A worker that is short of jobs begins a round at once, and so does a bell. While none is, what they
report waits up to ``PAUSE`` for company: beside two workers that compute for 5 ms a job, a round for
each end took a tenth of the machine.

While the store refuses (a full disk, another program's lock) nothing is dropped and nothing is
claimed; the round is tried again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from litestar_queues.clock import SECOND, Clock
from litestar_queues.exceptions import FINAL_REFUSALS, StoreError
from litestar_queues.lifecycle import Cancelled, Outcome, Settlement, settle
from litestar_queues.master.notices import JobSettled, LateReport, StoreProblem, StoreRecovered, Subscriber
from litestar_queues.master.pace import PAUSE
from litestar_queues.models import ClaimedJob, Receipt, StoredEvent
from litestar_queues.store.base import Bell, Claims, Store, Verdict, Want

SHORTEST_POLL = 0.05
LONGEST_POLL = 1.0
"""Seconds between looks at the store when no bell rings."""
FULL = 20_000
"""Events that may wait for the store; past it the workers' channels are not read, and they wait."""
_FIRST_RETRY = 0.1
_LONGEST_RETRY = 5.0


class Dispatcher(Protocol):
    """Who knows the free workers."""

    def collect(self) -> None:
        """Read what workers have reported that are not listened to all the time."""
        ...

    def wants(self) -> list[Want]:
        """Return what to claim now."""
        ...

    def assign(self, jobs: Sequence[Sequence[ClaimedJob]]) -> None:
        """Take the jobs that were claimed, in the order of the wants."""
        ...


class Ended:
    """A claim that has come to an outcome, on its way to the store."""

    def __init__(self, job: ClaimedJob, outcome: Outcome, receipt: Receipt | None, settlement: Settlement) -> None:
        self.job = job
        self.outcome = outcome
        self.receipt = receipt
        self.settlement = settlement


class Rounds:
    """Collects what is to be written, and exchanges it for jobs."""

    def __init__(
        self,
        store: Store,
        node: str,
        clock: Clock,
        dispatcher: Dispatcher,
        tell: Subscriber,
        relieved: Callable[[], None],
    ) -> None:
        self._store = store
        self._node = node
        self._clock = clock
        self._dispatcher = dispatcher
        self._tell = tell
        self._relieved = relieved
        self._events: list[StoredEvent] = []
        self._ended: list[Ended] = []
        self._bell: Bell | None = None
        self._next_due: int | None = None
        self._poll = SHORTEST_POLL
        self._retry = 0.0
        self._has_work = False
        self._began = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        """Begins a round when the pause after the last one is over."""
        self._is_busy = False
        self._is_asking = True
        """The last round asked for jobs: while no worker is free, due jobs are no reason to wake."""

    @property
    def is_full(self) -> bool:
        """True when so much waits for the store that nothing more should be read."""
        return len(self._events) >= FULL

    @property
    def is_clear(self) -> bool:
        """True when nothing waits to be written."""
        return not (self._events or self._ended or self._is_busy)

    def say(self, event: StoredEvent) -> None:
        """Write *event* with the next round."""
        self._events.append(event)
        self.wake_soon()

    def end(self, job: ClaimedJob, outcome: Outcome, receipt: Receipt | None) -> Settlement:
        """Write what becomes of *job* with the next round; return it."""
        settlement = settle(job, outcome, receipt, now=self._clock.now())
        self._ended.append(Ended(job, outcome, receipt, settlement))
        self.wake_soon()
        return settlement

    def wake(self) -> None:
        """Begin a round now."""
        if not self._has_work:
            self._has_work = True
            self._poll = SHORTEST_POLL
            if self._bell is not None:
                self._bell.ring()

    def wake_soon(self) -> None:
        """Begin a round ``PAUSE`` after the last one began, or now."""
        if self._has_work or self._timer is not None:
            return
        loop = asyncio.get_running_loop()
        pause = self._began + PAUSE - loop.time()
        if pause > 0:
            self._timer = loop.call_later(pause, self.wake)
        else:
            self.wake()

    async def run(self, on_ring: Callable[[], None]) -> None:
        """Exchange for ever; *on_ring* is called when the store's bell rang."""
        async with self._store.listen() as bell:
            self._bell = bell
            while True:
                # Also while there is work: a cancel request that rings must not wait for the end of a drain.
                if await bell.wait(0 if self._has_work else self._patience()):
                    self._poll = SHORTEST_POLL
                    on_ring()
                self._has_work = True  # what is collected need not wake anybody
                self._dispatcher.collect()
                self._has_work = False
                await self._round()

    async def _round(self) -> None:
        self._began = asyncio.get_running_loop().time()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        events, self._events = self._events, []
        ended, self._ended = self._ended, []
        # While the store refuses what has ended, nothing is claimed: it would only have to be kept here too.
        wants = [] if self._retry and (events or ended) else self._dispatcher.wants()
        self._is_asking = any(want.limit and want.above is None for want in wants)
        self._is_busy = True
        try:
            problem = await self._exchange(events, ended, wants)
        finally:
            self._is_busy = False
        if problem is not None:
            await self._wait_out(problem)
        elif self._retry:
            self._retry = 0.0
            self._tell(StoreRecovered())
            self.wake()
        self._relieved()

    async def _exchange(self, events: list[StoredEvent], ended: list[Ended], wants: list[Want]) -> StoreError | None:
        recorded, verdicts, claims = await asyncio.gather(
            self._store.record(events) if events else _nothing(),
            self._store.settle([each.settlement for each in ended]) if ended else _nothing(),
            self._store.claim(self._node, wants, now=self._clock.now()) if wants else _nothing(),
            return_exceptions=True,
        )
        problem: StoreError | None = None
        if isinstance(recorded, BaseException):
            problem = _expected(recorded)
            self._events[:0] = events
        if isinstance(verdicts, BaseException):
            problem = _expected(verdicts)
            self._ended[:0] = ended
        elif verdicts is not None:
            self._conclude(ended, verdicts)
        if isinstance(claims, BaseException):
            problem = _expected(claims)
        elif claims is not None:
            self._claimed(claims)
        return problem

    def _conclude(self, ended: list[Ended], verdicts: Sequence[Verdict]) -> None:
        for each, verdict in zip(ended, verdicts, strict=True):
            match verdict:
                case Verdict.SETTLED:
                    name = str(each.outcome.__struct_config__.tag)
                    self._tell(JobSettled(each.job, name, each.settlement))
                case Verdict.STALE:
                    self._tell(LateReport(each.job.number, each.job.fence))
                case Verdict.CANCEL_REQUESTED:
                    self.end(each.job, Cancelled(each.settlement.error), each.receipt)

    def _claimed(self, claims: Claims) -> None:
        self._next_due = claims.next_due
        if any(claims.jobs):
            self._poll = SHORTEST_POLL
            before = len(self._ended)
            self._dispatcher.assign(claims.jobs)
            if len(self._ended) > before:  # refused or given back: the workers are as short of jobs as they were
                self.wake()

    async def _wait_out(self, problem: StoreError) -> None:
        self._retry = min(max(self._retry * 2, _FIRST_RETRY), _LONGEST_RETRY)
        self._tell(StoreProblem(str(problem), self._retry))
        await asyncio.sleep(self._retry)
        self._has_work = True

    def _patience(self) -> float:
        """Return how long to wait for a bell, and wait longer next time."""
        if not self._is_asking:
            return LONGEST_POLL
        patience = self._poll
        self._poll = min(self._poll * 2, LONGEST_POLL)
        if self._next_due is not None:
            patience = min(patience, max(self._next_due - self._clock.now(), 0) / SECOND)
        return patience


async def _nothing() -> None:
    return None


def _expected(error: BaseException) -> StoreError:
    """Return a refusal that may pass.

    Anything else ends the master: a defect, and a database that is damaged, deleted or replaced. What
    would be written to that is lost, and the next master finds out what it is.
    """
    if isinstance(error, StoreError) and not isinstance(error, FINAL_REFUSALS):
        return error
    raise error
