"""Writers that crowd, and how soon the killed are gone: ``python benchmarks/run.py [NAME …] [--seconds S]``.

How fast it is while nothing goes wrong is ``lq bench``. Each measure here starts real masters on
databases of its own and prints figures; none of them is a test. The settings are the defaults:
``synchronous=FULL``, every job with a timeout.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from common import bench, milliseconds, starts

from litestar_queues import QueueConfig, QueueService
from support import zoo
from support.waiting import wait_until


def _enqueue_for(url: str, seconds: float, out: multiprocessing.Queue[list[float]]) -> None:
    async def run() -> list[float]:
        waits: list[float] = []
        async with QueueService(QueueConfig(queue_backend=url)) as service:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                at = time.perf_counter()
                await service.enqueue(zoo.good, 1)
                waits.append(time.perf_counter() - at)
        return waits

    try:
        out.put(asyncio.run(run()))
    except Exception as error:
        print(f"enqueue failed: {type(error).__name__}: {error}", flush=True)
        out.put([])


async def writers(seconds: float) -> None:
    """Sixteen processes that enqueue as fast as they can: no lock error."""
    with tempfile.TemporaryDirectory(prefix="lq-bench-") as folder:
        url = f"sqlite:///{folder}/writers.db"
        context = multiprocessing.get_context("spawn")
        out = context.Queue()
        processes = [context.Process(target=_enqueue_for, args=(url, seconds, out)) for _ in range(16)]
        for process in processes:
            process.start()
        lists = [await asyncio.to_thread(out.get) for _ in processes]
        for process in processes:
            process.join()
        with contextlib.closing(sqlite3.connect(f"{folder}/writers.db")) as connection:
            [(rows,)] = connection.execute("SELECT count(*) FROM lq_job").fetchall()
    waits = [wait for each in lists for wait in each]
    errors = sum(not each for each in lists)
    counts = sorted(len(each) for each in lists)
    print(f"16 writers for {seconds:g} s: {errors} with errors, {len(waits):,} accepted, {rows:,} stored, ", end="")
    print(f"{milliseconds(waits)}; least and most per writer {counts[0]} and {counts[-1]}")


async def kills(seconds: float) -> None:
    """How far past timeout + grace a run that cannot be asked lives."""
    cases = (
        zoo.hang_in_c,
        zoo.swallow_everything,
        zoo.stop_itself,
        zoo.fork_holder,
        zoo.setsid_child,
        zoo.endless_regex,
    )
    over: list[float] = []
    with bench("--concurrency", "2") as (url, _, _path):
        async with QueueService(QueueConfig(queue_backend=url)) as service:
            results = [await service.enqueue(case) for _ in range(4) for case in cases]
            for result in results:
                record = await result.wait(120)
                receipt = record.attempts[-1].receipt
                assert receipt is not None
                ended = record.completed_at.timestamp() if record.completed_at else 0.0
                over.append(ended - receipt.started_at / 1e6 - 0.8)
    print(f"end of a killed run past its timeout + grace: {milliseconds(over)}")


async def orphans(seconds: float) -> None:
    """From kill -9 of the master until its workers are gone, and until the next one has started its jobs."""
    gone: list[float] = []
    for _ in range(5):
        with bench("--concurrency", "2") as (url, master, path):
            async with QueueService(QueueConfig(queue_backend=url)) as service:
                await service.enqueue(zoo.until_told, "held", str(path / "never"))
                wait_until(lambda path=path: starts(path, "held"), "it has started")
                at = time.monotonic()
                master.signal(signal.SIGKILL)
                master.process.wait()
                wait_until(lambda master=master: not master.workers(), "workers are gone")
                gone.append(time.monotonic() - at)
    print(f"kill -9 of the master, until its workers are gone: {milliseconds(gone)}")


async def start(seconds: float) -> None:
    """How long `lq inspect` takes on a small store."""
    with bench("--concurrency", "1") as (url, _, _path):
        takes = []
        for _ in range(10):
            at = time.perf_counter()
            subprocess.run([sys.executable, "-m", "lq", "inspect", "--url", url], check=True, stdout=subprocess.DEVNULL)
            takes.append(time.perf_counter() - at)
    print(f"lq inspect: median {statistics.median(takes) * 1e3:.0f} ms")


MEASURES: dict[str, Callable[[float], object]] = {each.__name__: each for each in (writers, kills, orphans, start)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MEASURES)} [all]")
    parser.add_argument("--seconds", type=float, default=30.0, help="for the measures that go on for a time [30]")
    given = parser.parse_args()
    for name in given.names or MEASURES:
        asyncio.run(MEASURES[name](given.seconds))  # type: ignore[arg-type]  # each is a coroutine function


if __name__ == "__main__":
    main()
