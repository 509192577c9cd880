"""What a master and its workers do for a job, counted: the same on every machine, whatever else runs.

The bounds are about half as much again as what was counted when they were written.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from uuid import UUID

import pytest

from litestar_queues import QueueService, TaskRequest
from litestar_queues.clock import SystemClock
from litestar_queues.lifecycle import Succeeded
from litestar_queues.master import rounds
from litestar_queues.master.assignments import Assignment
from litestar_queues.master.lanes import Lane
from litestar_queues.master.pace import BUDGET, SHORT
from litestar_queues.master.rounds import Rounds
from litestar_queues.models import ClaimedJob
from litestar_queues.store import Store, Want, open_store
from store.making import claim, new_jobs, status_of
from support import hard
from support.masters import RunningMaster
from support.waiting import eventually

pytestmark = pytest.mark.anyio
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


async def test_ends_wait_no_longer_than_a_pause(url: str) -> None:
    async with exchanging(url) as (store, made):
        await store.add(new_jobs(2))
        for job in await claim(store):
            made.end(job, Succeeded("1"), None)

            async def is_written(job: ClaimedJob = job) -> bool:
                return await status_of(store, job.id) == "completed"

            await eventually(is_written, "nobody needs to wake the rounds")


async def test_workers_with_enough_to_do_share_rounds(
    service: QueueService, start_master: StartMaster, tmp_path: Path, logbook_file: Path
) -> None:
    start_master("--import", "support.hard", "--concurrency", "2").until_serving()
    results = await service.enqueue_many([TaskRequest(hard.quick, (str(n), 0.002)) for n in range(300)])
    for result in results:
        await result.wait(60)
    assert rounds_of(tmp_path / "queues.db") <= 300 / 3  # about 30; 130 to 210 without the pause


def lane_with(*expected: float | None, slots: int = 1, payload: str = "") -> Lane:
    """Return a lane with jobs that are expected to take so many microseconds."""
    lane = Lane(None, slots=slots, max_jobs=None)  # type: ignore[arg-type]  # nobody is asked anything
    for number, microseconds in enumerate(expected):
        job = ClaimedJob(
            number=number, id=UUID(int=number), task="t", queue="default", priority=0, fence=1, payload=payload, checksum=0,
            attempts=0, failures=0, crashes=0, losses=0, max_retries=0, backoff=None, timeout=None, kill_grace=0,
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
