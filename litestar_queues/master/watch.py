"""What a master does besides: show that it lives, sample memory, hear of cancel requests, adopt."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Protocol

from litestar_queues.cell import Reason
from litestar_queues.clock import Clock
from litestar_queues.exceptions import FINAL_REFUSALS, StoreError
from litestar_queues.lifecycle import Outcome
from litestar_queues.master import liveness
from litestar_queues.master.assignments import Assignment
from litestar_queues.master.notices import JobsAdopted, StoreProblem, Subscriber
from litestar_queues.models import ClaimedJob, Receipt
from litestar_queues.nodes import Catalogue, Node
from litestar_queues.store.base import Store

TICK = 1.0
"""Seconds between samples, and between looks for cancel requests when no bell rings."""
QUIET_BEAT = 5.0
"""How often the node's row is written while nothing in it changes."""
ADOPT_EVERY = 2.0
RING_PAUSE = 0.05
"""Seconds that rings are gathered before the store is asked for cancel requests: a tenth of a
second is promised until a task hears of one."""


class Watched(Protocol):
    """What the watch needs to know of its master."""

    def running(self) -> Collection[Assignment]:
        """Return the jobs at workers."""
        ...

    def snapshot(self) -> Node:
        """Return the node's row as of now."""
        ...

    def request_stop(self, assignment: Assignment, reason: Reason) -> None:
        """Begin to stop a run."""
        ...

    def settle_adopted(self, job: ClaimedJob, outcome: Outcome, receipt: Receipt | None) -> None:
        """Settle a job taken over from a dead master."""
        ...

    def sample(self) -> None:
        """Take note of what the runs use, and of what the kernel has killed."""
        ...

    def reap(self) -> None:
        """Reap orphans."""
        ...


class Watch:
    """Runs beside the rounds."""

    def __init__(
        self,
        store: Store,
        node: str,
        clock: Clock,
        master: Watched,
        tell: Subscriber,
    ) -> None:
        self._store = store
        self._node = node
        self._clock = clock
        self._master = master
        self._tell = tell
        self._rung = asyncio.Event()
        self._last_row: Node | None = None
        self._unpublished: Catalogue | None = None
        self._last_adoption = self._last_beat = float("-inf")
        """By the monotonic clock, in seconds: the other may step back an hour."""
        self._problem = ""

    def nudge(self) -> None:
        """Look for cancel requests soon."""
        self._rung.set()

    def publish_soon(self, catalogue: Catalogue) -> None:
        """Let the store know with the next tick what the application offers now."""
        self._unpublished = catalogue

    async def run(self) -> None:
        """Watch for ever."""
        while True:
            try:
                await self._tick()
                self._problem = ""
            except FINAL_REFUSALS:
                raise  # it will not pass
            except StoreError as error:  # the rounds meet it too, and say so; say here only what is new
                if str(error) != self._problem:
                    self._problem = str(error)
                    self._tell(StoreProblem(self._problem, TICK))
            await self._pause()

    async def adopt(self) -> None:
        """Take over the jobs of masters that are gone, and settle them."""
        self._last_adoption = self._seconds()
        nodes = await self._store.nodes()
        folder = self._store.folder
        dead, living = await asyncio.to_thread(liveness.dead_nodes, folder, nodes, self._node)
        # Before they are adopted: another master that finds the same node dead, and takes none of its jobs,
        # removes its files.
        starts = liveness.starts_of(folder, dead)
        callers = [node.id for node in nodes if node.kind == "caller" and node.id in dead]
        masters = [node for node in dead if node not in callers]
        jobs = await self._store.adopt(self._node, masters, living=[*living, self._node])
        for job in jobs:
            # Adopting raised the fence by one; the cells show the claim before.
            started_at = starts.get((job.number, job.fence - 1))
            self._master.settle_adopted(job, *liveness.outcome_at_master(started_at, now=self._clock.now()))
        ends = await self._store.adopt(self._node, callers, living=[*living, self._node]) if callers else []
        for job in ends:
            self._master.settle_adopted(job, *liveness.outcome_at_caller(job, now=self._clock.now()))
        for node in dead:
            liveness.forget(folder, node)
        if dead or jobs:
            self._tell(JobsAdopted(tuple(dead), len(jobs) + len(ends)))

    async def _tick(self) -> None:
        self._master.sample()
        self._master.reap()
        await self._beat()
        await self._publish()
        await self._look_for_cancels()
        if self._seconds() - self._last_adoption >= ADOPT_EVERY:
            await self.adopt()

    async def _pause(self) -> None:
        """Wait for the next tick; look for cancel requests whenever the bell rings meanwhile."""
        loop = asyncio.get_running_loop()
        end = loop.time() + TICK
        while True:
            try:
                async with asyncio.timeout_at(end):
                    await self._rung.wait()
            except TimeoutError:
                return
            await asyncio.sleep(RING_PAUSE)
            self._rung.clear()
            await self._look_for_cancels()

    async def _look_for_cancels(self) -> None:
        running = {assignment.job.number: assignment for assignment in self._master.running()}
        if not running:
            return
        for change in await self._store.changed(running, after=0):
            if change.cancel_requested:
                self._master.request_stop(running[change.number], Reason.CANCEL)

    async def _publish(self) -> None:
        catalogue = self._unpublished
        if catalogue is not None:
            await self._store.publish(self._node, catalogue.shown(), now=self._clock.now())
            if self._unpublished is catalogue:
                self._unpublished = None

    async def _beat(self) -> None:
        row = self._master.snapshot()
        last = self._last_row
        if last is not None and self._seconds() - self._last_beat < QUIET_BEAT and _same(row, last):
            return
        running = {assignment.job.number: assignment for assignment in self._master.running()}
        for number in await self._store.beat(row):
            if number in running:
                self._master.request_stop(running[number], Reason.CANCEL)
        self._last_row, self._last_beat = row, self._seconds()

    def _seconds(self) -> float:
        return self._clock.monotonic() / 1e9


def _same(row: Node, last: Node) -> bool:
    now_running = [(worker.name, worker.pid, worker.state, worker.job) for worker in row.workers]
    then_running = [(worker.name, worker.pid, worker.state, worker.job) for worker in last.workers]
    return (now_running, row.pools, row.draining) == (then_running, last.pools, last.draining)
