"""When a worker is taken to be late: judged by what it did, not by what its master has not read."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import UUID

import pytest

from litestar_queues.cell import CellFile
from litestar_queues.master.assignments import Assignment
from litestar_queues.master.lanes import Lane
from litestar_queues.master.timekeeper import DAWDLE, TAKE_WITHIN, Timekeeper
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
    """One that lives, and whose cell shows no job."""

    def __init__(self, cells: CellFile) -> None:
        self.cells = (cells.cell(0),)
        self.pid = os.getpid()
        self.was_killed = False

    def kill(self) -> None:
        self.was_killed = True


def job() -> ClaimedJob:
    return ClaimedJob(
        number=1, id=UUID(int=1), task="t", queue="default", priority=0, fence=1, payload="", checksum=0, attempts=0,
        failures=0, crashes=0, losses=0, max_retries=0, backoff=None, timeout=None, kill_grace=0, run_at=0, created_at=0,
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
