"""What a master and its workers do for a job, counted: the same on every machine, whatever else runs.

The bounds are about half as much again as what was counted when they were written.
"""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from uuid import UUID

import pytest

from litestar_queues import QueueService, TaskRequest, task, wire
from litestar_queues.cell import CellFile
from litestar_queues.clock import SystemClock
from litestar_queues.lifecycle import Succeeded, Unknown
from litestar_queues.master import rounds
from litestar_queues.master.assignments import Assignment
from litestar_queues.master.exit_status import OutOfMemory
from litestar_queues.master.lanes import Lane
from litestar_queues.master.pace import BUDGET, SHORT
from litestar_queues.master.pool import Pool
from litestar_queues.master.process import WorkerProcess
from litestar_queues.master.rounds import Rounds
from litestar_queues.models import ClaimedJob, ErrorReport, Receipt
from litestar_queues.nodes import PoolEntry
from litestar_queues.running import FRESH, resident_memory
from litestar_queues.store import Store, Want, open_store
from store.making import claim, new_jobs, status_of
from support import hard
from support.counting import counting
from support.masters import RunningMaster
from support.waiting import eventually
from support.workers import OneWorker

pytestmark = pytest.mark.anyio
JOBS = 100


@task("costs.next")
def following(number: int) -> int:
    return number + 1


@task("costs.next_async")
async def following_async(number: int) -> int:
    return number + 1


StartMaster = Callable[..., RunningMaster]


def rounds_of(path: Path) -> int:
    """Return how many transactions the ends of the jobs share."""
    with closing(sqlite3.connect(path)) as connection:
        [(count,)] = connection.execute("SELECT count(DISTINCT sequence) FROM lq_job WHERE status = 'completed'")
    return int(count)


class NoWorkers:
    """Workers that are full."""

    def collect(self) -> None:
        pass

    def wants(self) -> list[Want]:
        return []

    def assign(self, jobs: Sequence[Sequence[ClaimedJob]]) -> None:
        raise AssertionError("nothing was asked for")


@asynccontextmanager
async def exchanging(url: str) -> AsyncIterator[tuple[Store, Rounds]]:
    """Run the rounds of a master that has no workers."""
    async with await open_store(url) as store:
        made = Rounds(store, "node", SystemClock(), NoWorkers(), lambda notice: None, lambda: None)
        running = asyncio.create_task(made.run(lambda: None))
        yield store, made
        running.cancel()


async def test_ends_wait_for_company_only_until_a_worker_is_short(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "PAUSE", 3600.0)
    async with exchanging(url) as (store, made):
        await store.add(new_jobs(4))
        first, *others = await claim(store)
        made.end(first, Succeeded("1"), None)

        async def is_written() -> bool:
            return await status_of(store, first.id) == "completed"

        await eventually(is_written, "the first end of all waits for nobody")
        for job in others:
            made.end(job, Succeeded("1"), None)
            await store.get([job.id])
        assert await status_of(store, others[0].id) == "running"
        made.wake()

        async def are_written() -> bool:
            return [await status_of(store, job.id) for job in others] == ["completed"] * 3

        await eventually(are_written, "the others are written")
    assert rounds_of(tmp_path / "queues.db") == 2


class Refusing(NoWorkers):
    """Workers that can be given none of the jobs there are."""

    rounds: Rounds

    def wants(self) -> list[Want]:
        return [Want(2)]

    def assign(self, jobs: Sequence[Sequence[ClaimedJob]]) -> None:
        for job in jobs[0]:
            self.rounds.end(job, Unknown(ErrorReport("UnknownTaskError", "nobody knows it")), None)


async def test_jobs_that_no_worker_can_be_given_do_not_keep_the_next_ones_waiting(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pause in ("PAUSE", "SHORTEST_POLL", "LONGEST_POLL"):
        monkeypatch.setattr(rounds, pause, 3600.0)
    async with await open_store(url) as store:
        await store.add(new_jobs(20, created_at=1, run_at=1))
        dispatcher = Refusing()
        dispatcher.rounds = Rounds(store, "node", SystemClock(), dispatcher, lambda notice: None, lambda: None)
        running = asyncio.create_task(dispatcher.rounds.run(lambda: None))
        dispatcher.rounds.wake()

        async def are_back() -> bool:
            statistics = (await store.statistics())["default"]
            return statistics.scheduled == 20

        await eventually(are_back, "all have been refused", deadline=5)
        running.cancel()


async def test_ends_wait_no_longer_than_a_pause(url: str) -> None:
    async with exchanging(url) as (store, made):
        await store.add(new_jobs(2))
        for job in await claim(store):
            made.end(job, Succeeded("1"), None)

            async def is_written(job: ClaimedJob = job) -> bool:
                return await status_of(store, job.id) == "completed"

            await eventually(is_written, "nobody needs to wake the rounds")


async def test_a_master_does_not_look_for_requests_because_of_what_it_writes_itself(url: str) -> None:
    rings: list[None] = []
    async with await open_store(url) as store:
        await store.add(new_jobs(3))
        made = Rounds(store, "node", SystemClock(), NoWorkers(), lambda notice: None, lambda: None)
        running = asyncio.create_task(made.run(lambda: rings.append(None)))
        for job in await claim(store):
            made.end(job, Succeeded("1"), None)
            made.wake()

            async def is_written(job: ClaimedJob = job) -> bool:
                return await status_of(store, job.id) == "completed"

            await eventually(is_written, "the end is written")
        assert rings == []
        async with await open_store(url) as other:
            await other.add(new_jobs(1))

        async def is_rung() -> bool:
            return bool(rings)

        await eventually(is_rung, "what somebody else writes rings")
        running.cancel()


async def test_workers_with_enough_to_do_share_rounds(
    service: QueueService, start_master: StartMaster, tmp_path: Path, logbook_file: Path
) -> None:
    start_master("--import", "support.hard", "--concurrency", "2").until_serving()
    results = await service.enqueue_many([TaskRequest(hard.quick, (str(n), 0.002)) for n in range(300)])
    for result in results:
        await result.wait(60)
    assert rounds_of(tmp_path / "queues.db") <= 300 / 3  # about 30; 130 to 210 without the pause


def lane_with(*expected: float | None, slots: int = 1, payload: str = "", priority: int = 0) -> Lane:
    """Return a lane with jobs that are expected to take so many microseconds."""
    lane = Lane(None, slots=slots, max_jobs=None)  # type: ignore[arg-type]  # nobody is asked anything
    for number, microseconds in enumerate(expected):
        job = ClaimedJob(
            number=number, id=UUID(int=number), task="t", queue="default", priority=priority, fence=1, payload=payload,
            checksum=0, attempts=0, failures=0, crashes=0, losses=0, max_retries=0, backoff=None, timeout=None, kill_grace=0,
            run_at=0, created_at=0,
        )  # fmt: skip
        assignment = Assignment(job)
        assignment.expected = microseconds
        lane.add(assignment)
    return lane


@pytest.mark.parametrize(
    ("expected", "is_short", "has_plenty"),
    [
        ((), True, False),
        ((None,), False, False),  # a job that takes long, or nobody knows how long: none is to wait behind it
        ((SHORT - 1,), True, False),
        ((SHORT,), False, False),
        ((BUDGET / 4,) * 2, False, False),
        ((BUDGET / 4,) * 3, False, True),
    ],
)
def test_a_lane_is_short_or_has_plenty_by_the_work_that_is_left(
    expected: tuple[float | None, ...], is_short: bool, has_plenty: bool
) -> None:
    lane = lane_with(*expected)
    assert (lane.is_short, lane.has_plenty) == (is_short, has_plenty)


def test_little_waits_where_arguments_are_large_and_one_job_a_slot_always_may() -> None:
    megabyte = "x" * 1_000_000
    assert lane_with(*(10.0,) * 4, payload=megabyte).has_room()
    full = lane_with(*(10.0,) * 5, payload=megabyte)
    assert (full.has_room(), full.room(10.0)) == (False, 0)
    assert lane_with(10.0, slots=2, payload=megabyte * 100).has_room()
    full.remove(0)
    assert full.has_room()


def done(number: int) -> wire.Done:
    return wire.Done(number, 1, "2", Receipt(1, 2, "default/1", 4242, 7, 8_000))


def test_a_worker_does_little_for_a_job(one_worker: OneWorker) -> None:
    with counting() as counts:
        reports = one_worker.serve(*["costs.next"] * JOBS)
    assert len(reports) == JOBS
    assert counts.functions <= JOBS * 95  # 78, some of them the test's own
    assert counts.system["recvmsg_into"] <= 2 * JOBS + 2  # one to take it; as many by the test
    assert counts.system["send"] <= 2 * JOBS
    assert counts.system["process_time_ns"] <= 2 * JOBS
    assert sum(counts.system.values()) <= JOBS * 18  # 14, three of them the test's


def test_resident_memory_is_read_again_only_after_a_while_of_cpu() -> None:
    later = 10**15
    for cpu, reads in ((later, 1), (later + FRESH - 1, 0), (later + FRESH, 1), (5, 1), (None, 1)):  # 5: after a fork
        with counting() as counts:
            assert resident_memory(cpu)
        assert counts.system["pread"] == reads, cpu


def test_a_coroutine_costs_a_worker_little_more(one_worker: OneWorker) -> None:
    with counting() as counts:
        assert len(one_worker.serve(*["costs.next_async"] * JOBS)) == JOBS
    assert counts.functions <= JOBS * 125  # 85
    assert counts.system["close"] < JOBS  # it does not leave the event loop between them


def test_jobs_leave_nothing_in_a_workers_memory(one_worker: OneWorker) -> None:
    gc.collect()
    before = sys.getallocatedblocks()
    one_worker.serve(*["costs.next"] * 200)
    gc.collect()
    assert sys.getallocatedblocks() - before < 200  # not one object a job


class Listener:
    """Who is told of a worker process, as far as that is called here."""

    def __init__(self) -> None:
        self.reports: list[wire.Report] = []

    def reported(self, worker: WorkerProcess, report: wire.Report) -> None:
        self.reports.append(report)

    def died(self, worker: WorkerProcess) -> None:
        pass


async def test_a_master_takes_a_report_with_one_system_call(cells: CellFile) -> None:
    listener = Listener()
    worker = WorkerProcess(1, "cookie", "default/1", (cells.cell(0),), listener, OutOfMemory())  # type: ignore[arg-type]  # it is told no more
    for number in range(1, JOBS + 1):
        wire.send(worker._far_reports, done(number))
    with counting() as counts:
        worker._read()
    assert len(listener.reports) == JOBS
    assert counts.system["recvmsg_into"] == JOBS + 1  # the last finds nothing
    assert counts.functions <= JOBS * 9  # 6
    worker.rest()
    wire.send(worker._far_reports, done(1))
    for _ in range(3):
        await asyncio.sleep(0)  # a turn of the loop
    assert len(listener.reports) == JOBS  # it is not listened to
    worker.collect()
    assert len(listener.reports) == JOBS + 1
    worker.stillborn("never born")


async def test_an_end_costs_a_master_little(url: str) -> None:
    async with await open_store(url) as store:
        made = Rounds(store, "node", SystemClock(), NoWorkers(), lambda notice: None, lambda: None)
        await store.add(new_jobs(JOBS))
        jobs = await claim(store)
        receipt = Receipt(1, 2, "default/1", 4242, 7, 8_000)
        with counting() as counts:
            for job in jobs:
                made.end(job, Succeeded("1"), receipt)
            await made._round()
        assert await status_of(store, jobs[-1].id) == "completed"
    assert counts.functions <= JOBS * 20  # 13
    assert sum(counts.system.values()) <= 10  # of the writer's thread none are counted


def want_of(*lanes: Lane) -> Want:
    pool = Pool(PoolEntry("p", processes=len(lanes)), first_cell=0, excluded=(), backends=("local",))
    for place, lane in zip(pool.places, lanes, strict=True):
        place.lane = lane
    pool.pace.learn("t", BUDGET // 2)
    return pool.want


def test_a_pool_without_room_asks_for_what_is_more_urgent_than_what_waits_at_its_workers() -> None:
    full = (BUDGET / 2,) * 3
    want = want_of(lane_with(*full, priority=7), lane_with(*full, priority=4))
    assert (want.limit, want.above) == (2, 4)
    alone = lane_with(None, priority=7)  # it runs: nothing at this worker could give way
    want = want_of(alone, lane_with(*full, priority=4))
    assert (want.limit, want.above) == (1, 4)
    assert want_of(alone).limit == 0
    want = want_of(alone, lane_with(BUDGET / 2, priority=4))
    assert (want.limit, want.above) == (1, None)


def test_workers_are_given_more_than_one_short_job_soon_after_a_long_one() -> None:
    pool = Pool(PoolEntry("p", processes=1), first_cell=0, excluded=(), backends=("local",))
    pool.places[0].lane = lane_with()
    pool.pace.learn("long", 3_600_000_000)
    short = 0
    while pool.pace.mean is None or pool.places[0].lane.room(pool.pace.mean) <= 1:
        pool.pace.learn("short", 50)
        short += 1
    assert short == 6
    assert pool.pace.expect("long") is None, "it is as slow as before"
