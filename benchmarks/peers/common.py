"""What the peers' adapters share: what an adapter has to say of its queue, and the command line.

An adapter says how its queue is set up, how a job is put into it and how its workers are started;
``scenarios`` does the rest, the same way for all. The README has the protocol.
"""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import contextlib
import importlib
import importlib.util
import itertools
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, ClassVar

import work
from scenarios import ADAPTER, CALLERS, SCENARIOS, Run

OURS = "lq-bench"  # the key that says that a Redis database may be emptied

REDIS_DURABILITY = (
    "what Redis keeps: with its persistence off (save '' and appendonly no, as found here) a restart of the server"
    " loses every job; a kill of a worker or of the enqueuing process does not touch what is in Redis"
)
POSTGRES_DURABILITY = (
    "every enqueue and every settled job is a commit of PostgreSQL with the server's synchronous_commit (on by"
    " default: it survives a kill and a power cut)"
)


class Skipped(Exception):
    """The scenario cannot be run here; the message says why."""


class OutOfTime(SystemExit):
    """The adapter's own limit has passed, or it was told to stop. Event loops let only this kind through."""


class Peer:
    """One queue. Subclasses give the facts, and the few calls that differ."""

    distribution: ClassVar[str]
    settings: ClassVar[str]
    durability: ClassVar[str]
    lacks: ClassVar[dict[str, str]] = {}
    """Scenarios that the queue cannot do, with the reason."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.workers: int = options.workers

    def take(self) -> None:
        """Make sure, before anything connects, that the run has its server's database for itself."""

    async def open(self) -> None:
        """Connect as an enqueuing process does."""

    async def close(self) -> None: ...

    async def create(self) -> None:
        """Make what the queue needs on its server; called once, connected."""

    async def erase(self) -> None:
        """Take away everything that the run has left on the server."""

    async def enqueue(self, task: str, *args: Any, high: bool = False) -> Any:
        raise NotImplementedError

    async def enqueue_many(self, task: str, count: int) -> None:
        """Put *count* jobs in the queue by the fastest way that the queue has: here, one by one from 100 callers."""
        await self.call(CALLERS, count, lambda: self.enqueue(task))

    async def result(self, handle: Any) -> Any:
        """Wait for the result of the job that ``enqueue`` gave *handle* for."""
        raise NotImplementedError

    async def is_settled(self) -> bool:
        """Say whether the queue itself holds no job that waits or runs."""
        raise NotImplementedError

    def commands(self, slots: int) -> list[list[str]]:
        """Give the commands that start the workers; *slots* is how many jobs one process is to run at a time."""
        return [[sys.executable, ADAPTER, "worker"]] * self.workers

    def work(self, slots: int) -> None:
        """Be one worker, when ``commands`` is the default; call ``work.hold()`` at the last moment before working."""
        raise NotImplementedError

    def ready(self, slots: int) -> int:
        """Say how many calls of ``work.hold()`` mean that all workers have booted."""
        return len(self.commands(slots))

    async def started(self) -> None:
        """Do what is left, once the commands run, to have each worker call ``work.hold()``."""

    def slots(self, scenario: str) -> int:
        """Choose how many jobs at a time one worker process runs: few of CPU work, so that no process hoards it."""
        return 2 if scenario == "cpu" else max(1, CALLERS // self.workers)

    async def call(self, callers: int, count: int, one: Callable[[], Awaitable[Any]]) -> list[float]:
        """Run *one* *count* times from *callers* concurrent callers; give the milliseconds of each."""
        turns, latencies = itertools.count(), []

        async def caller() -> None:
            while next(turns) < count:
                began = time.monotonic()
                await one()
                latencies.append((time.monotonic() - began) * 1e3)

        await asyncio.gather(*(caller() for _ in range(callers)))
        return latencies


class BlockingPeer(Peer):
    """A queue whose calls block. Its coroutines never wait, and its concurrent callers are threads."""

    async def enqueue_many(self, task: str, count: int) -> None:
        for _ in range(count):  # threads that take turns at the GIL are slower than one
            await self.enqueue(task)

    async def call(self, callers: int, count: int, one: Callable[[], Awaitable[Any]]) -> list[float]:
        turns, latencies, stopped = itertools.count(), [], threading.Event()

        def caller() -> None:
            while next(turns) < count and not stopped.is_set():
                began = time.monotonic()
                for _ in one().__await__():
                    raise TypeError("a call of a blocking peer has waited")
                latencies.append((time.monotonic() - began) * 1e3)

        with concurrent.futures.ThreadPoolExecutor(callers) as pool:
            try:
                for future in [pool.submit(caller) for _ in range(callers)]:
                    future.result()
            finally:
                stopped.set()
        return latencies


class OnRedis(Peer):
    """A queue in Redis. The numbered database is the run's alone: it must be empty, and is emptied at the end."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        if "LQ_BENCH_REDIS" not in os.environ:
            raise Skipped("no Redis: LQ_BENCH_REDIS is not set")
        self.url = os.environ["LQ_BENCH_REDIS"]

    def take(self) -> None:
        redis = importlib.import_module("redis").Redis.from_url(self.url)
        if redis.dbsize() and not redis.exists(OURS):
            raise Skipped(f"the Redis database {self.url} holds keys of others; name an empty one")
        redis.flushdb()
        redis.set(OURS, 1)
        redis.close()

    async def erase(self) -> None:
        redis = importlib.import_module("redis").Redis.from_url(self.url)
        if redis.exists(OURS):
            redis.flushdb()
        redis.close()


class OnPostgres(Peer):
    """A queue in PostgreSQL, in the database that the harness has made for the run."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        if "LQ_BENCH_PG" not in os.environ:
            raise Skipped("no PostgreSQL: LQ_BENCH_PG is not set")
        self.dsn = os.environ["LQ_BENCH_PG"]


def run_loop(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run *coroutine*, under uvloop where the peer's environment has it."""
    runner = importlib.import_module("uvloop" if importlib.util.find_spec("uvloop") else "asyncio")
    return runner.run(coroutine)


async def _enqueue_alone(peer: Peer, count: int) -> None:
    """Be one of the eight processes that enqueue: one job after the other, each awaited."""
    await peer.open()
    work.hold()
    for _ in range(count):
        await peer.enqueue("noop")
    work.add("done", b"." * count)
    await peer.close()


def _run_in_space(kind: type[Peer], options: argparse.Namespace) -> dict[str, Any]:
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else options.folder
    os.environ[work.SPACE] = tempfile.mkdtemp(prefix="lq-peer-", dir=memory)
    os.environ["LQ_PEER_FOLDER"] = tempfile.mkdtemp(prefix="lq-peer-", dir=options.folder)
    try:
        return run_loop(Run(kind(options), options)())
    except Skipped as reason:
        return {"scenario": options.scenario, "skipped": str(reason)}
    except OutOfTime:
        done = work.how_many("done")
        return {"scenario": options.scenario, "skipped": f"not done in time: {done} of {options.jobs} jobs"}
    finally:
        if sys.exc_info()[0] is not None:
            with contextlib.suppress(FileNotFoundError):
                sys.stderr.write((work.space() / "workers.log").read_text(errors="replace")[-4000:])
        shutil.rmtree(work.space())
        shutil.rmtree(os.environ["LQ_PEER_FOLDER"])


def _stop(*_: object) -> None:
    raise OutOfTime


def main(kind: type[Peer]) -> None:
    """Do what the command line says with the peer *kind*."""
    parser = argparse.ArgumentParser(description=kind.__doc__)
    parser.add_argument("scenario", nargs="?", choices=[*SCENARIOS, "worker", "enqueuer"], metavar="SCENARIO")
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", default=tempfile.gettempdir())
    parser.add_argument("--seconds", type=float, default=60.0, help="how long `idle` lasts, and `pickup` at most")
    parser.add_argument("--limit", type=int, default=300, help="seconds after which the run stops by itself")
    parser.add_argument("--list", action="store_true", help="print the scenarios that this peer can do")
    options = parser.parse_args()
    if options.list:
        print(json.dumps([scenario for scenario in SCENARIOS if scenario not in kind.lacks]))
    elif options.scenario == "worker":
        kind(options).work(work.slots())
    elif options.scenario == "enqueuer":
        run_loop(_enqueue_alone(kind(options), options.jobs))
    elif options.scenario in kind.lacks:
        print(json.dumps({"scenario": options.scenario, "skipped": kind.lacks[options.scenario]}))
    else:
        for number in (signal.SIGALRM, signal.SIGTERM):
            signal.signal(number, _stop)
        signal.alarm(options.limit)
        print(json.dumps(_run_in_space(kind, options)), flush=True)
