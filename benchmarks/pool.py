"""What the process pool does when jobs and processes die or misbehave: ``python benchmarks/pool.py [NAME …]``.

How fast it is while nothing goes wrong is ``lq bench``. Each measure here starts real masters on
databases of its own and prints figures; none of them is a test. The settings are the
defaults: ``synchronous=FULL``, every job with a timeout, results read back.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from common import bench, milliseconds, starts

from litestar_queues import QueueConfig, QueueService, TaskRequest
from support import hard, logbook, zoo
from support.masters import RunningMaster
from support.waiting import wait_until


async def killed_master(count: int) -> None:
    """kill -9 of the master in the middle of a drain: what is lost, and what runs again."""
    with tempfile.TemporaryDirectory(prefix="lq-bench-", dir=os.environ.get("LQ_BENCH_DIR")) as folder:
        url, path = f"sqlite:///{folder}/drain.db", Path(folder)
        os.environ[logbook.VARIABLE] = str(path / "logbook")
        async with QueueService(QueueConfig(queue_backend=url)) as service:
            jobs = [TaskRequest(zoo.recorded.using(timeout=60), (f"j{number}",)) for number in range(count)]
            await service.enqueue_many(jobs)
            arguments = ("--import", "support.zoo", "--log-level", "none", "-c", "2")
            with RunningMaster(path, *arguments, url=url) as first:
                while (await service.get_statistics()).completed < count // 2:
                    await asyncio.sleep(0.01)
                first.signal(signal.SIGKILL)
                first.process.wait()
            with RunningMaster(path, *arguments, url=url):
                while (await service.get_statistics()).completed < count:
                    await asyncio.sleep(0.1)
        began = Counter(words[3] for words in logbook.read(path / "logbook") if words[2] == "start")
        with contextlib.closing(sqlite3.connect(f"{folder}/drain.db")) as connection:
            [(attempts,)] = connection.execute("SELECT sum(attempts) FROM lq_job").fetchall()
    again = sum(began.values()) - len(began)
    print(
        f"kill -9 of the master while {count:,} jobs drain: {count - len(began)} lost, {again} ran again, "
        f"{sum(began.values()):,} starts, {attempts:,} attempts recorded"
    )


async def behind_a_hang(count: int) -> None:
    """32 short jobs at one worker, the first of which hangs in C without a timeout: when the others have run."""
    waits: list[float] = []
    with bench("--concurrency", "2") as (url, _master, path):
        async with QueueService(QueueConfig(queue_backend=url)) as service:
            for turn in range(5):
                short = [TaskRequest(zoo.sometimes_hangs, (str(path / "no"), number)) for number in range(200)]
                for result in await service.enqueue_many(short):
                    await result.wait(30)
                # The other worker is kept busy until all 32 wait at one.
                flag, hang = path / f"go-{turn}", path / f"hang-{turn}"
                held = await service.enqueue(zoo.until_told, f"held-{turn}", str(flag))
                wait_until(lambda turn=turn: starts(path, f"held-{turn}"), "the other worker is busy")
                hang.touch()
                at = time.monotonic()
                results = await service.enqueue_many(
                    [TaskRequest(zoo.sometimes_hangs, (str(hang), number)) for number in range(32)]
                )
                while (await service.get_statistics()).running < 33:
                    assert time.monotonic() < at + 5
                flag.touch()
                for result in results[1:]:
                    assert (await result.wait(30)).status == "completed"
                waits.append(time.monotonic() - at)
                assert (await held.wait(30)).status == "completed"
                await results[0].cancel()
                await results[0].wait(30)
    print(f"31 jobs that waited behind one that hangs in C: all done after {milliseconds(waits)}")


async def poison(count: int) -> None:
    """What jobs that kill their worker cost the others: good jobs a second with one in twenty, and without."""
    figures: dict[str, list[float]] = {"clean": [], "poison": []}
    for _ in range(3):
        for name, shares in figures.items():
            with bench("--import", "support.hard", "--concurrency", "2") as (url, _master, _):
                async with QueueService(QueueConfig(queue_backend=url)) as service:
                    good = [TaskRequest(hard.compute, (0.005,)) for _ in range(2_000)]
                    if name == "poison":  # 100 of them, which kill 300 workers
                        for at in range(0, 2_000, 20):
                            good[at] = TaskRequest(zoo.exit_zero)
                    at = time.monotonic()
                    for result in await service.enqueue_many(good):
                        await result.wait(120)
                    shares.append(sum(request.task is not zoo.exit_zero for request in good) / (time.monotonic() - at))
    clean, bad = (sorted(figures[name])[1] for name in ("clean", "poison"))
    print(f"good jobs of 5 ms of CPU a second: {clean:.0f} alone, {bad:.0f} with 5 % poison ({bad / clean:.0%})")


async def zygote(count: int) -> None:
    """kill -9 of the zygote under load, ten times."""
    with bench("--concurrency", "2") as (url, master, path):
        async with QueueService(QueueConfig(queue_backend=url)) as service:
            names = [f"z{number}" for number in range(4_000)]
            results = await service.enqueue_many([TaskRequest(zoo.recorded, (name,)) for name in names])
            for _ in range(10):
                [pid] = wait_until(lambda: len(master.workers()) == 2 and master.zygotes(), "there is a zygote")
                os.kill(pid, signal.SIGKILL)
                wait_until(lambda pid=pid: pid not in master.zygotes(), "it is gone")
            records = [await result.wait(60) for result in results]
        began = Counter(words[3] for words in logbook.read(path / "logbook") if words[2] == "start")
    ends = Counter(str(record.status) for record in records)
    again = sum(began.values()) - len(began)
    print(
        f"kill -9 of the zygote, ten times under load: {dict(ends)}, {len(names) - len(began)} lost, {again} ran again"
    )


async def cancel(count: int) -> None:
    """From cancel of a running synchronous job in Python code until it has ended."""
    waits: list[float] = []
    with bench("--import", "support.hard", "--concurrency", "1") as (url, _, path):
        async with QueueService(QueueConfig(queue_backend=url)) as service:
            for index in range(30):
                result = await service.enqueue(hard.spin, f"spin-{index}")
                wait_until(lambda index=index: starts(path, f"spin-{index}"), "it has started")
                at = time.monotonic()
                await result.cancel()
                await result.wait(30)
                waits.append(time.monotonic() - at)
    print(f"cancel of a synchronous job until it has ended: {milliseconds(waits)}")


async def floods(count: int) -> None:
    """A million lines printed, 100 MB printed and written without a newline: what it costs the master."""
    with bench("--import", "support.hard", "--concurrency", "2") as (url, master, _):
        async with QueueService(QueueConfig(queue_backend=url)) as service:
            before = _memory_of(master.pid)
            jobs = [(hard.flood, 1_000_000), (hard.long_line, 100), (hard.print_long_line, 100)]
            results = await service.enqueue_many([TaskRequest(task, (size,)) for task, size in jobs])
            peak = before
            while not all([(await result.refresh()).is_terminal for result in results]):
                peak = max(peak, _memory_of(master.pid))
                await asyncio.sleep(0.02)
            ends = [str(result.status) for result in results]
    print(f"floods: {ends}; the master grew by {(peak - before) / 2**20:.0f} MiB at most, from {before / 2**20:.0f}")


def _memory_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


MEASURES: dict[str, Callable[[int], object]] = {
    each.__name__: each for each in (killed_master, behind_a_hang, poison, zygote, cancel, floods)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MEASURES)} [all]")
    parser.add_argument("--jobs", type=int, default=100_000, help="how many jobs are drained [100000]")
    given = parser.parse_args()
    for name in given.names or MEASURES:
        asyncio.run(MEASURES[name](given.jobs))  # type: ignore[arg-type]  # each is a coroutine function


if __name__ == "__main__":
    main()
