"""How soon: pickup, enqueue beside a drain, replacement; and what it takes to stand by."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from pathlib import Path

from litestar_queues import TaskResult
from lq.bench.adapter import Part, Told, Work
from lq.bench.ours import tasks
from lq.bench.ours.stage import Stage, stage
from lq.bench.ours.telling import tell
from lq.bench.processes import memory_of, tree_of, wait_until_idle

_PAUSES = (0.01, 0.03)
"""Seconds between two jobs of an idle system, from and to: no rhythm of ours meets one of the machine's."""
_EVERY = 0.025
"""Seconds between urgent jobs in a loaded one."""
_BESIDE_PAUSE = 0.002
_URGENT = 100
_MOST = 200
"""Urgent jobs in one drain."""
_SLOW_APP = "import time\ntime.sleep(2)  # what a large application takes to import\nfrom lq.bench.ours import tasks\n"


async def pickup(work: Work) -> Told:
    """Enqueue one, wait until it has run, and again."""
    took: list[float] = []
    async with stage(work) as here:
        await _until_idle(here)
        with Part() as part:
            for _ in range(work.jobs):
                await asyncio.sleep(random.uniform(*_PAUSES))  # noqa: S311 (it guards nothing)
                at = time.monotonic_ns()
                took.append((await (await here.service.enqueue(tasks.stamp)).get() - at) / 1e6)
    return tell(work, part, "one job at a time, 10 to 30 ms apart", took)


async def loaded_pickup(work: Work) -> Told:
    """Enqueue urgent jobs during a drain."""
    urgent: list[tuple[int, TaskResult[int]]] = []
    async with stage(work) as here:
        drained = await _drain(here)
        stamp = tasks.stamp.using(priority=_URGENT)
        with Part() as part:
            here.release()
            while not drained.done() and len(urgent) < _MOST:
                at = time.monotonic_ns()
                urgent.append((at, await here.service.enqueue(stamp)))
                await asyncio.sleep(_EVERY)
            await drained
        took = [(await result.get() - at) / 1e6 for at, result in urgent]
    return _with_rate(tell(work, part, f"priority {_URGENT} among {work.jobs:,} of priority 0", took))


async def beside(work: Work) -> Told:
    """Enqueue, in this process, while the master drains."""
    took: list[float] = []
    async with stage(work) as here:
        drained = await _drain(here)
        with Part() as part:
            here.release()
            while not drained.done():
                at = time.perf_counter()
                await here.service.enqueue(tasks.noop, 0)
                took.append((time.perf_counter() - at) * 1e3)
                await asyncio.sleep(_BESIDE_PAUSE)
    return _with_rate(tell(work, part, f"one after the other, {_BESIDE_PAUSE * 1e3:g} ms apart", took))


async def _drain(here: Stage) -> asyncio.Future[object]:
    """Enqueue a run's jobs, held back; return what is done when the last of them is."""
    await here.hold()
    results = await here.enqueue(tasks.noop, ((number,) for number in range(here.work.jobs)))
    return asyncio.ensure_future(results[-1].wait())


def _with_rate(told: Told) -> Told:
    told.extra["drain_jobs_per_second"] = told.jobs / told.seconds
    return told


async def replacement(work: Work) -> Told:
    """Kill the worker of an application that takes long to import; when its job runs again."""
    Path(work.folder, "slow_app.py").write_text(_SLOW_APP)
    one = Work(work.scenario, work.jobs, 1, work.folder, work.seconds)
    async with stage(one, serves=False) as here:
        here.start(imports="slow_app")
        with Part() as part:
            took = [await _kill_and_wait(here, work.folder / f"ran-{index}") for index in range(work.jobs)]
    return tell(one, part, "from SIGKILL of the worker to the first line of the job's next run", took)


async def _kill_and_wait(here: Stage, log: Path) -> float:
    """Have the worker killed while a job runs; return how many milliseconds later that ran again."""
    result = await here.service.enqueue(tasks.last, str(log))
    await _lines(here, log, 1)
    [pid] = [each.pid for each in tree_of(_pid_of(here)) if each.name.startswith("lq: worker")]
    at = time.monotonic_ns()
    os.kill(pid, signal.SIGKILL)
    lines = await _lines(here, log, 2)
    await result.cancel()
    await result.wait()
    return (lines[1] - at) / 1e6


async def _lines(here: Stage, log: Path, count: int) -> list[int]:
    while True:
        lines = log.read_text().split() if log.exists() else []
        if len(lines) >= count:
            return [int(line) for line in lines]
        await asyncio.sleep(0.002)


async def memory(work: Work) -> Told:
    """Start with a job waiting, see when it runs, and what all processes hold once they are quiet."""
    async with stage(work, serves=False) as here:
        waiting = await here.service.enqueue(tasks.stamp)
        with Part() as part:
            at = time.monotonic_ns()
            here.start()
            started = (await waiting.get() - at) / 1e9
        wait_until_idle(_pid_of(here))
        pids = [each.pid for each in tree_of(_pid_of(here))]
        whole, master = memory_of(pids), memory_of(pids[:1])
    told = tell(work, part, f"master, zygote and {work.workers} workers; no application but the tasks")
    told.extra = {
        "startup_s": started,
        "processes": len(pids),
        "rss_mib": whole.rss,
        "pss_mib": whole.pss,
        "master_rss_mib": master.rss,
    }
    return told


async def idle(work: Work) -> Told:
    """Do nothing for a while."""
    async with stage(work) as here:
        await _until_idle(here)
        with Part() as part:
            await asyncio.sleep(work.seconds)
    return tell(work, part, "master, zygote and workers; nothing to do")


async def _until_idle(here: Stage) -> None:
    """Return once the master has served a few jobs, and uses no more CPU."""
    for _ in range(20):
        await (await here.service.enqueue(tasks.stamp)).wait()
    wait_until_idle(_pid_of(here))


def _pid_of(here: Stage) -> int:
    assert here.master is not None, "the master has been started"
    return here.master.pid
