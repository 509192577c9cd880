"""When a worker is taken to be late: judged by what it did, not by what its master has not read."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest

from litestar_queues.cell import CellFile, Reason
from litestar_queues.master.assignments import Assignment
from litestar_queues.master.lanes import Lane
from litestar_queues.master.timekeeper import DAWDLE, LONGEST_EXCUSE, MOST_PAUSES, TAKE_WITHIN, Pauses, Timekeeper
from litestar_queues.models import ClaimedJob

pytestmark = pytest.mark.anyio


class Clock:
    """One that is set by hand."""

    def __init__(self) -> None:
        self.nanoseconds = 1_000_000_000

    def now(self) -> int:
        return self.nanoseconds // 1_000

    def monotonic(self) -> int:
        return self.nanoseconds


class IdleWorker:
    """One that lives, and whose cells show no job."""

    def __init__(self, cells: CellFile, slots: int = 1) -> None:
        self.cells = tuple(cells.cell(slot) for slot in range(slots))
        self.pid = os.getpid()
        self.was_killed = False

    def kill(self) -> None:
        self.was_killed = True


def job(number: int = 1, timeout: int | None = None) -> ClaimedJob:
    return ClaimedJob(
        number=number, id=UUID(int=number), task="t", queue="default", priority=0, fence=1, payload="", checksum=0,
        attempts=0, failures=0, crashes=0, losses=0, max_retries=0, backoff=None, timeout=timeout, kill_grace=0, run_at=0,
        created_at=0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("step", "looks", "is_killed"), [(10 * TAKE_WITHIN, 2, False), (DAWDLE, TAKE_WITHIN // DAWDLE + 1, True)]
)
async def test_a_worker_is_killed_for_what_it_has_not_taken_while_its_master_looked_and_not_while_that_was_stopped(
    tmp_path: Path, step: int, looks: int, is_killed: bool
) -> None:
    """A master that was stopped has not read yet what its workers have done meanwhile."""
    clock = Clock()
    cells = CellFile.create(str(tmp_path / "cells"), 1)
    worker = IdleWorker(cells)
    lane = Lane(worker, slots=1, max_jobs=None)  # type: ignore[arg-type]  # what is asked of it is there
    timekeeper = Timekeeper(clock, lambda *stopped: None, lambda *taken: None)
    assignment = Assignment(job())
    assignment.sent = clock.nanoseconds
    lane.add(assignment)
    timekeeper.watch(lane, assignment)
    for _ in range(looks):
        clock.nanoseconds += step
        timekeeper._look()
    assert worker.was_killed is is_killed
    timekeeper.forget(lane)
    cells.close()


async def test_a_worker_that_was_late_gets_jobs_again_when_the_one_left_for_it_is_taken_away(tmp_path: Path) -> None:
    """Cancelled, or for a worker that has room: what it did not come for is not there any more, and it was well."""
    clock = Clock()
    cells = CellFile.create(str(tmp_path / "cells"), 1)
    lane = Lane(IdleWorker(cells), slots=1, max_jobs=None)  # type: ignore[arg-type]  # what is asked of it is there
    timekeeper = Timekeeper(clock, lambda *stopped: None, lambda *taken: None)
    assignment = Assignment(job())
    assignment.sent = clock.nanoseconds
    lane.add(assignment)
    timekeeper.watch(lane, assignment)
    clock.nanoseconds += DAWDLE
    timekeeper._look()
    assert not lane.has_room(), "it is late, and only one job is left for it"
    lane.bring_back([assignment.job.number])
    clock.nanoseconds += DAWDLE
    timekeeper._look()
    assert lane.has_room()
    timekeeper.forget(lane)
    cells.close()


SECOND = 1_000_000_000


class Watched:
    """A lane with a timekeeper, and what that has stopped."""

    def __init__(self, folder: Path, *, slots: int = 1) -> None:
        self.clock = Clock()
        self.cells = CellFile.create(str(folder / "cells"), slots)
        self.worker = IdleWorker(self.cells, slots)
        self.lane = Lane(self.worker, slots=slots, max_jobs=None)  # type: ignore[arg-type]  # what is asked of it is there
        self.stopped: list[tuple[int, Reason]] = []
        self.timekeeper = Timekeeper(self.clock, self.stop, lambda *taken: None)
        self.pauses = self.timekeeper.pauses

    def stop(self, assignment: Assignment, reason: Reason, blocked: int) -> None:
        self.stopped.append((assignment.job.number, reason))

    def send(self, number: int = 1, timeout: int | None = None) -> None:
        assignment = Assignment(job(number, timeout))
        assignment.sent = self.clock.nanoseconds
        self.lane.add(assignment)
        self.timekeeper.watch(self.lane, assignment)

    def begin(self, number: int = 1, slot: int = 0) -> None:
        self.worker.cells[slot].begin(number, 1, started=self.clock.nanoseconds, started_at=0, cpu=0)

    def pass_time(self, nanoseconds: int) -> None:
        """Let time pass, with a look every 50 ms."""
        end = self.clock.nanoseconds + nanoseconds
        while self.clock.nanoseconds < end:
            self.clock.nanoseconds = min(self.clock.nanoseconds + DAWDLE, end)
            self.timekeeper._look()

    def pause(self, nanoseconds: int) -> None:
        """Read no worker for so long."""
        self.pauses.begin(self.clock.nanoseconds)
        self.pass_time(nanoseconds)
        self.pauses.end(self.clock.nanoseconds)

    def close(self) -> None:
        self.timekeeper.forget(self.lane)
        self.cells.close()


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    made = Watched(tmp_path)
    yield made
    made.close()


@pytest.fixture
async def watched_slots(tmp_path: Path) -> AsyncIterator[Watched]:
    made = Watched(tmp_path, slots=2)
    yield made
    made.close()


async def test_time_in_which_no_worker_was_read_does_not_count_against_a_run(watched: Watched) -> None:
    watched.send(timeout=4_000_000)
    watched.begin()
    watched.pass_time(SECOND)
    watched.pause(8 * SECOND)
    watched.pass_time(SECOND)
    watched.pause(5 * SECOND)
    watched.pass_time(2 * SECOND - DAWDLE)
    assert watched.stopped == []
    watched.pass_time(DAWDLE)
    assert watched.stopped == [(1, Reason.TIMEOUT)]


async def test_a_run_that_is_late_by_its_own_doing_is_stopped_when_workers_are_read_again(watched: Watched) -> None:
    watched.pause(20 * SECOND)
    watched.send(timeout=1_000_000)
    watched.begin()
    watched.pass_time(SECOND // 2)
    watched.pause(3 * SECOND)
    assert watched.stopped == []
    watched.pass_time(SECOND // 2)
    assert watched.stopped == [(1, Reason.TIMEOUT)], "what was paused before it began is no excuse"


async def test_a_run_is_stopped_at_last_though_no_worker_is_read_for_the_store_may_wait_for_it(
    watched: Watched,
) -> None:
    watched.send(timeout=1_000_000)
    watched.begin()
    watched.pauses.begin(watched.clock.nanoseconds)
    watched.pass_time(LONGEST_EXCUSE)
    assert watched.stopped == []
    watched.pass_time(SECOND + DAWDLE)
    assert watched.stopped == [(1, Reason.TIMEOUT)]


async def test_a_worker_that_is_not_read_is_not_killed_for_what_it_has_not_taken(watched: Watched) -> None:
    watched.send()
    watched.pass_time(TAKE_WITHIN // 2)
    watched.pause(10 * TAKE_WITHIN)
    watched.pass_time(TAKE_WITHIN // 2 - DAWDLE)
    assert not watched.worker.was_killed
    watched.pass_time(DAWDLE)
    assert watched.worker.was_killed


async def test_a_run_that_waited_to_be_read_has_not_blocked_its_neighbour(watched_slots: Watched) -> None:
    watched_slots.send(1)
    watched_slots.send(2, timeout=1_000_000)
    watched_slots.begin(1, 0)
    watched_slots.begin(2, 1)
    watched_slots.worker.cells[0].begin_step(watched_slots.clock.nanoseconds)  # of the first: it waits in ``send``
    watched_slots.pause(8 * SECOND)
    watched_slots.worker.cells[0].end_step()
    watched_slots.pass_time(SECOND - DAWDLE)
    watched_slots.worker.cells[0].begin_step(watched_slots.clock.nanoseconds)
    watched_slots.pause(8 * SECOND)
    watched_slots.pass_time(DAWDLE)
    assert watched_slots.stopped == [(2, Reason.TIMEOUT)]


def test_of_many_pauses_the_time_is_kept_and_of_the_last_ones_also_when() -> None:
    pauses = Pauses()
    for number in range(3 * MOST_PAUSES):
        pauses.begin(10 * number)
        pauses.end(10 * number + 4)
    now = 30 * MOST_PAUSES
    assert pauses.since(0, now) == 12 * MOST_PAUSES
    assert pauses.since(now - 5_000, now) == 2_000
    assert pauses.since(now - 4_998, now) == 1_998
    assert pauses.since(now, now) == 0
    assert len(pauses._past) == MOST_PAUSES
