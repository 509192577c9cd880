"""What a job does to a worker with slots that runs others too, and what a defect of the worker's own comes to."""

from __future__ import annotations

from pathlib import Path

import pytest

from litestar_queues import QueueService
from support import hard, logbook, zoo
from support.masters import RunningMaster
from support.waiting import wait_until

pytestmark = pytest.mark.anyio


@pytest.mark.usefixtures("slotted_master")
@pytest.mark.parametrize("harm", [hard.set_old_factory, hard.shut_executor_down])
async def test_what_a_job_sets_on_the_loop_is_over_with_it_while_others_run(
    service: QueueService, logbook_file: Path, tmp_path: Path, harm: object
) -> None:
    flag = tmp_path / "go"
    beside = await service.enqueue(hard.until, "beside", str(flag))
    wait_until(lambda: logbook.started(logbook_file, "beside"), "one runs all the time")
    assert (await (await service.enqueue(harm)).wait(30)).status == "completed"  # type: ignore[call-overload]  # either
    for task in (hard.call_in_thread, hard.call_in_thread):
        record = await (await service.enqueue(task)).wait(30)
        assert (record.status, record.attempt) == ("completed", 1)
    flag.touch()
    assert (await beside.wait(30)).status == "completed"


@pytest.mark.unjudged("a run that never reaches its function writes down no start")
@pytest.mark.usefixtures("slotted_master")
async def test_a_job_for_which_no_thread_can_be_started_runs_later_once_and_at_no_cost(
    service: QueueService, logbook_file: Path, tmp_path: Path
) -> None:
    flag = tmp_path / "go"
    # A thread that is busy: it would take what was queued for one that could not be started.
    busy = await service.enqueue(zoo.until_told, "busy", str(flag))
    wait_until(lambda: logbook.started(logbook_file, "busy"), "a thread is busy")
    assert (await (await service.enqueue(hard.refuse_threads, 1)).wait(30)).status == "completed"
    result = await service.enqueue(hard.quick, "once")
    wait_until(lambda: logbook.started(logbook_file, "once"), "it runs in the end")
    flag.touch()
    record = await result.wait(30)
    assert (record.status, record.retry_count, record.crashes) == ("completed", 0, 0)
    assert [attempt.outcome for attempt in record.attempts] == ["snoozed", "succeeded"]
    assert (await busy.wait(30)).status == "completed"
    assert len(logbook.started(logbook_file, "once")) == 1


async def test_a_worker_with_slots_that_a_defect_has_met_ends_and_holds_up_no_job(
    service: QueueService, slotted_master: RunningMaster
) -> None:
    result = await service.enqueue(hard.break_the_server)
    record = await result.wait(30)  # its timeout is a minute
    assert (record.status, record.crashes) == ("failed", 3)
    assert (await (await service.enqueue(zoo.good, 1)).wait(30)).status == "completed"
    assert "'NoneType' object is not callable" in slotted_master.log
