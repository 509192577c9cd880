"""How much: enqueue, drain, events, depth."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from litestar_queues import Task
from lq.bench.adapter import Part, Told, Work
from lq.bench.ours import tasks
from lq.bench.ours.client import Client, enqueue
from lq.bench.ours.stage import BATCH, Stage, stage
from lq.bench.ours.telling import tell
from lq.bench.processes import cpu_seconds, tree_of

_AT_A_TIME = 100
_PROCESSES = 8
_LARGE = 100_000
_LARGE_CALLERS = 10
_REPORTS = 1_000
"""Calls of progress in one job: as many as are sent as they come."""
_DEPTHS = (10_000, 100_000, 1_000_000)


async def one_by_one(work: Work) -> Told:
    """Have a hundred callers enqueue, nobody serving."""
    async with stage(work, serves=False) as here:
        with Part() as part:
            took = await enqueue(here.service, work.jobs, _AT_A_TIME)
        return tell(work, part, f"{_AT_A_TIME} coroutines in one process", took, commits=here.commits())


async def bulk(work: Work) -> Told:
    """Enqueue in batches."""
    async with stage(work, serves=False) as here:
        with Part() as part:
            await here.enqueue(tasks.noop, ((number,) for number in range(work.jobs)))
        return tell(work, part, f"enqueue_many, {BATCH:,} a call", commits=here.commits())


async def eight(work: Work) -> Told:
    """Have eight processes enqueue, each one job after the other."""
    async with stage(work, serves=False) as here:
        clients = [await Client.start(work.url, work.jobs // _PROCESSES) for _ in range(_PROCESSES)]
        with Part() as part:
            for client in clients:
                client.go()
            took = [each for client in clients for each in await client.latencies()]
        return tell(work, part, f"{_PROCESSES} processes, each one job after the other", took, commits=here.commits())


async def noop(work: Work) -> Told:
    """Drain jobs that do nothing."""
    return await _drain(work, tasks.noop)


async def sleep(work: Work) -> Told:
    """Drain jobs that wait, a hundred at a time in all."""
    return await _drain(work, tasks.sleep, slots=max(_AT_A_TIME // work.workers, 1))


async def compute(work: Work) -> Told:
    """Drain jobs that compute."""
    return await _drain(work, tasks.compute)


async def _drain(work: Work, task: Task[[int], int], *, slots: int = 1) -> Told:
    async with stage(work, slots=slots) as here:
        await here.hold()
        results = await here.enqueue(task, ((number,) for number in range(work.jobs)))
        before = here.commits()
        with Part() as part:
            here.release()
            await results[-1].wait()
            await here.until_completed(here.held + work.jobs)
        commits = here.commits() - before
        await here.compare(results, range(1, work.jobs + 1))
    return tell(work, part, f"{work.workers} processes of {slots} slots", commits=commits)


async def large(work: Work) -> Told:
    """Send 100 KB there and get them back, ten callers at a time."""
    text = "x" * _LARGE
    took: list[float] = []
    numbers = iter(range(work.jobs))
    async with stage(work) as here:

        async def call() -> None:
            for _ in numbers:
                at = time.perf_counter()
                result = await here.service.enqueue(tasks.echo, text)
                if await result.get() != text:
                    msg = "100 KB did not come back as they went"
                    raise ValueError(msg)
                took.append((time.perf_counter() - at) * 1e3)

        await (await here.service.enqueue(tasks.stamp)).wait()
        with Part() as part:
            async with asyncio.TaskGroup() as group:
                for _ in range(_LARGE_CALLERS):
                    group.create_task(call())
    return tell(work, part, f"{_LARGE_CALLERS} callers; each waits for its result and compares it", took)


async def events(work: Work) -> Told:
    """Have every worker report progress as fast as it can."""
    jobs = max(work.jobs // _REPORTS, 1)
    async with stage(work) as here:
        await here.hold()
        results = await here.enqueue(tasks.report, ((_REPORTS,) for _ in range(jobs)))
        before = here.commits()
        with Part() as part:
            here.release()
            await results[-1].wait()
            await here.until_completed(here.held + jobs)
        stored, commits = here.ask("SELECT count(*) FROM lq_event"), here.commits() - before
        if stored != jobs * _REPORTS:
            msg = f"{jobs * _REPORTS} calls of progress, and {stored} are stored"
            raise ValueError(msg)
    done = Work(work.scenario, stored, work.workers, work.folder, work.seconds)
    return tell(
        done, part, f"{jobs} jobs that report {_REPORTS:,} times; every report is in the store", commits=commits
    )


async def depth(work: Work) -> Told:
    """Drain the same number of jobs with more and more waiting behind them."""
    figures: dict[str, Any] = {}
    async with stage(work) as here:
        await here.hold()
        with Part() as part:
            for more in _DEPTHS:
                figures[str(more)] = await _drain_above(here, more)
    told = tell(work, part, f"{work.jobs:,} jobs drained, with that many more behind them")
    told.extra |= figures
    return told


async def _drain_above(here: Stage, depth: int) -> dict[str, float]:
    """Drain a run's jobs while *depth* others wait; holds all workers before and after."""
    jobs = here.work.jobs
    waiting = (await here.service.get_statistics()).pending
    await here.enqueue(tasks.noop, ((number,) for number in range(depth + jobs - waiting)))
    assert here.master is not None
    before = (await here.service.get_statistics()).completed
    used, began = cpu_seconds(tree_of(here.master.pid)), time.monotonic()
    here.release()
    done = await here.until_completed(before + jobs) - before
    seconds, used = time.monotonic() - began, cpu_seconds(tree_of(here.master.pid)) - used
    await here.hold()
    return {"jobs_per_second": done / seconds, "cpu_us_per_job": used / done * 1e6}
