"""The scenarios, the same for every peer, and the marks at which the harness reads its counters."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import processes
import work

if TYPE_CHECKING:
    from common import Peer

ADAPTER = str(Path(sys.argv[0]).resolve())
CALLERS = 100  # the concurrent callers of `enqueue`, and the sleeps at a time of `sleep`
ENQUEUERS = 8
LARGE = "x" * 100_000
TASK_OF = {"drain": "noop", "sleep": "nap", "cpu": "burn"}
MOST_SAMPLES = 200
CLEANING_S = 30  # at most, after which the adapter ends as it is


def mark(moment: str) -> None:
    """Let the harness read its counters now."""
    print(f"MARK {moment}", flush=True)
    sys.stdin.readline()


class Run:
    """One scenario of one peer, from an empty queue to an empty queue."""

    def __init__(self, peer: Peer, options: argparse.Namespace) -> None:
        self.peer = peer
        self.jobs: int = options.jobs
        self.limit_s: float = options.seconds
        self.scenario: str = options.scenario
        self.started: list[subprocess.Popen[bytes]] = []
        self.seconds = 0.0
        self.extra: dict[str, float] = {}

    @contextlib.contextmanager
    def measured(self) -> Any:
        mark("begin")
        began = time.monotonic()
        yield
        self.seconds = time.monotonic() - began
        mark("end")

    async def start_workers(self, *, held: bool = False) -> None:
        if not held:
            self.open_gate()
        slots = self.peer.slots(self.scenario)
        self.started = processes.start(self.peer.commands(slots), {work.SLOTS: str(slots)})
        await self.peer.started()
        await self.until(lambda: work.how_many("ready") >= self.peer.ready(slots))

    def open_gate(self) -> None:
        (work.space() / "gate").touch()

    async def until(self, done: Callable[[], bool], every_s: float = 0.01) -> None:
        while not done():
            if self.started and all(process.poll() is not None for process in self.started):
                raise RuntimeError("the workers have ended before the work was done; see their output above")
            await asyncio.sleep(every_s)

    async def until_done(self, jobs: int) -> None:
        """Wait until *jobs* have run, and the queue itself says that nothing is left."""
        await self.until(lambda: work.how_many("done") >= jobs)
        while not await self.peer.is_settled():
            await asyncio.sleep(0.02)

    async def until_stamped(self, token: int) -> int:
        await self.until(lambda: token in work.stamps(), every_s=0.001)
        return work.stamps()[token]

    async def enqueue(self) -> list[float]:
        with self.measured():
            return await self.peer.call(CALLERS, self.jobs, self.one_noop)

    async def one_noop(self) -> None:
        await self.peer.enqueue("noop")

    async def bulk(self) -> None:
        with self.measured():
            await self.peer.enqueue_many("noop", self.jobs)

    async def drain(self) -> None:
        await self.start_workers(held=True)
        await self.peer.enqueue_many(TASK_OF[self.scenario], self.jobs)
        with self.measured():
            self.open_gate()
            await self.until_done(self.jobs)

    sleep = cpu = drain

    async def pickup(self) -> list[float]:
        await self.start_workers()
        await self.warm_up()
        latencies: list[float] = []
        deadline = time.monotonic() + self.limit_s
        with self.measured():
            while len(latencies) < self.jobs and time.monotonic() < deadline:
                await asyncio.sleep(random.uniform(0.01, 0.03))
                began = time.monotonic_ns()
                await self.peer.enqueue("stamp", len(latencies))
                latencies.append((await self.until_stamped(len(latencies)) - began) / 1e6)
        self.jobs = len(latencies)
        return latencies

    async def warm_up(self) -> None:
        for token in range(-5, 0):
            await self.peer.enqueue("stamp", token)
            await self.until_stamped(token)

    @contextlib.asynccontextmanager
    async def draining(self) -> AsyncIterator[Callable[[], bool]]:
        """Have the workers drain the queue inside; yields whether they still do."""
        await self.start_workers(held=True)
        await self.peer.enqueue_many("noop", self.jobs)
        with self.measured():
            self.open_gate()
            await self.until(lambda: work.how_many("done") > 0, every_s=0.001)
            yield lambda: work.how_many("done") < self.jobs

    async def loaded_pickup(self) -> list[float]:
        began: dict[int, int] = {}
        async with self.draining() as is_draining:
            while is_draining() and len(began) < MOST_SAMPLES:
                began[len(began)] = time.monotonic_ns()
                await self.peer.enqueue("stamp", len(began) - 1, high=True)
                await asyncio.sleep(0.025)
            await self.until(lambda: work.stamps().keys() >= began.keys())
            await self.until_done(self.jobs)
        stamps = work.stamps()
        return [(stamps[token] - at) / 1e6 for token, at in began.items()]

    async def beside(self) -> list[float]:
        latencies: list[float] = []
        async with self.draining() as is_draining:
            while is_draining():
                latencies += await self.peer.call(1, 1, self.one_noop)
                await asyncio.sleep(0.002)
            await self.until_done(self.jobs + len(latencies))
        return latencies

    async def enqueuers(self) -> None:
        share = self.jobs // ENQUEUERS
        self.jobs = share * ENQUEUERS
        command = [sys.executable, ADAPTER, "enqueuer", "--jobs", str(share)]
        self.started = processes.start([command] * ENQUEUERS, {})
        await self.until(lambda: work.how_many("ready") == ENQUEUERS)
        with self.measured():
            self.open_gate()
            while work.how_many("done") < self.jobs:
                await asyncio.sleep(0.01)

    async def large(self) -> list[float]:
        async def there_and_back() -> None:
            assert await self.peer.result(await self.peer.enqueue("echo", LARGE)) == LARGE

        await self.start_workers()
        await self.warm_up()
        with self.measured():
            return await self.peer.call(10, self.jobs, there_and_back)

    async def memory(self) -> None:
        self.jobs = 0
        await self.peer.enqueue("stamp", 0)
        began = time.monotonic_ns()
        with self.measured():
            await self.start_workers()
            first = await self.until_stamped(0)
        await asyncio.sleep(2)
        pids = processes.members()
        self.extra = {
            "pss_mib": round(processes.pss_mib(pids), 1),
            "processes": len(pids),
            "startup_s": round((first - began) / 1e9, 3),
        }

    async def idle(self) -> None:
        self.jobs = 0
        await self.start_workers()
        await self.warm_up()
        await asyncio.sleep(2)
        with self.measured():
            await asyncio.sleep(self.limit_s)

    async def __call__(self) -> dict[str, Any]:
        peer = self.peer
        peer.take()
        await peer.open()
        try:
            await peer.create()
            latencies = await getattr(self, self.scenario)()
        finally:
            signal.alarm(CLEANING_S)
            processes.end(self.started)
            await peer.erase()
            await peer.close()
        report = {
            "scenario": self.scenario,
            "jobs": self.jobs,
            "seconds": round(self.seconds, 6),
            "latencies_ms": latencies and [round(latency, 4) for latency in latencies],
            "settings": f"{peer.settings}; {peer.workers} worker processes",
            "durability": peer.durability,
            "version": version(peer.distribution),
        }
        return {**report, "extra": self.extra} if self.extra else report


SCENARIOS = [
    "enqueue", "bulk", "drain", "sleep", "cpu", "pickup", "loaded_pickup", "beside", "enqueuers", "large", "memory", "idle",
]  # fmt: skip
