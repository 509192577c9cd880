"""Workers that run several jobs at a time: whose fault is what."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from litestar_queues import QueueService, TaskResult
from support import hard, logbook, zoo
from support.apps import write_app
from support.masters import RunningMaster
from support.waiting import eventually, wait_until

pytestmark = pytest.mark.anyio
StartMaster = Callable[..., RunningMaster]


@pytest.mark.usefixtures("slotted_master")
async def test_coroutines_and_synchronous_tasks_run_side_by_side_in_one_process(
    service: QueueService, logbook_file: Path, tmp_path: Path
) -> None:
    flag = str(tmp_path / "go")
    results = [await service.enqueue(hard.until, f"coroutine-{n}", flag) for n in range(4)]
    results += [await service.enqueue(zoo.until_told, f"thread-{n}", flag) for n in range(4)]
    wait_until(lambda: len(logbook.read(logbook_file)) == 8, "all eight run at once")
    waiting = await service.enqueue(hard.nap, 0.0)
    Path(flag).touch()
    for result in results:
        assert (await result.wait(30)).status == "completed"
    assert (await waiting.wait(30)).status == "completed"
    assert len({words[1] for words in logbook.read(logbook_file)}) == 1


@pytest.mark.usefixtures("slotted_master")
async def test_a_death_with_several_jobs_running_is_charged_to_the_one_that_dies_again_alone(
    service: QueueService, logbook_file: Path, tmp_path: Path
) -> None:
    flag = tmp_path / "go"
    neighbours = [await service.enqueue(hard.until, f"n{n}", str(flag)) for n in range(3)]
    wait_until(lambda: len(logbook.read(logbook_file)) == 3, "the neighbours run")
    guilty = await service.enqueue(hard.crash)
    wait_until(lambda: len(logbook.read(logbook_file)) > 3, "a neighbour runs again")
    flag.touch()
    record = await guilty.wait(60)
    assert (record.status, record.crashes) == ("failed", 3)
    assert [attempt.outcome for attempt in record.attempts] == ["suspected", "crashed", "crashed", "crashed"]
    for neighbour in neighbours:
        record = await neighbour.wait(60)
        assert (record.status, record.crashes, record.retry_count) == ("completed", 0, 0)
        assert [attempt.outcome for attempt in record.attempts] == ["suspected", "succeeded"]


@pytest.mark.usefixtures("slotted_master")
@pytest.mark.fault(
    "A35", "a coroutine that blocks a loop with neighbours", "killed alone; the neighbours are returned uncharged"
)
async def test_a_coroutine_that_keeps_the_loop_is_killed_and_its_neighbours_pay_nothing(
    service: QueueService, logbook_file: Path, tmp_path: Path
) -> None:
    flag = tmp_path / "go"
    neighbours = [await service.enqueue(hard.until, f"n{n}", str(flag)) for n in range(3)]
    wait_until(lambda: len(logbook.read(logbook_file)) == 3, "the neighbours run")
    guilty = await service.enqueue(hard.block.using(timeout=0.3, kill_grace=0.1))
    record = await guilty.wait(30)
    assert record.status == "failed"
    assert "in block" in (record.error or "")
    flag.touch()
    for neighbour in neighbours:
        record = await neighbour.wait(30)
        assert (record.status, record.crashes, record.retry_count) == ("completed", 0, 0)
        assert [attempt.outcome for attempt in record.attempts] == ["returned", "succeeded"]


@pytest.mark.usefixtures("slotted_master")
async def test_a_job_that_is_late_because_a_neighbour_keeps_the_loop_is_not_to_blame(
    service: QueueService, logbook_file: Path
) -> None:
    late = await service.enqueue(hard.nap.using(timeout=1.5), 1.0)
    guilty = await service.enqueue(hard.block.using(kill_grace=0.1))  # no timeout of its own
    blamed = await guilty.wait(30)
    assert blamed.status == "failed"
    assert "blocked its worker's event loop" in (blamed.error or "")
    record = await late.wait(30)
    assert (record.status, record.retry_count) == ("completed", 0)


@pytest.mark.usefixtures("slotted_master")
async def test_a_synchronous_task_in_a_thread_can_be_cancelled_beside_others(
    service: QueueService, logbook_file: Path, tmp_path: Path
) -> None:
    flag = tmp_path / "go"
    neighbour = await service.enqueue(hard.until, "neighbour", str(flag))
    spinning = await service.enqueue(hard.spin, "spinning")
    wait_until(lambda: len(logbook.read(logbook_file)) == 2, "both run")
    await spinning.cancel()
    assert (await spinning.wait(30)).status == "cancelled"
    flag.touch()
    record = await neighbour.wait(30)
    assert (record.status, record.attempt) == ("completed", 1)


@pytest.mark.usefixtures("slotted_master")
async def test_the_stack_of_a_thread_that_hangs_names_its_line(service: QueueService) -> None:
    result = await service.enqueue(hard.hang.using(timeout=0.2, kill_grace=0.1))
    record = await result.wait(30)
    assert "hard.py" in (record.error or "")
    assert " in hang" in (record.error or "")


async def test_a_worker_with_slots_that_is_killed_loses_no_job(
    service: QueueService, slotted_master: RunningMaster, logbook_file: Path, tmp_path: Path
) -> None:
    flag = tmp_path / "go"
    results = [await service.enqueue(hard.until, f"n{n}", str(flag)) for n in range(12)]
    wait_until(lambda: len(logbook.read(logbook_file)) == 8, "eight run")
    os.kill(slotted_master.workers()[0], signal.SIGKILL)
    flag.touch()
    records = [await result.wait(60) for result in results]
    assert {(str(record.status), record.crashes) for record in records} == {("completed", 0)}


async def test_a_drain_ends_the_coroutines_that_do_not_end_by_themselves_and_returns_them(
    service: QueueService, start_master: StartMaster, logbook_file: Path, tmp_path: Path, url: str
) -> None:
    arguments = write_app(tmp_path, url, worker="max_concurrency=1, slots=4, drain_timeout=0.2")
    master = start_master(*arguments, serve=None, url=None).until_serving()
    results = [await service.enqueue(hard.until, f"n{n}", str(tmp_path / "never")) for n in range(4)]
    wait_until(lambda: len(logbook.read(logbook_file)) == 4, "all run")
    master.signal(signal.SIGTERM)
    assert master.wait() == 8
    records = [await result.refresh() for result in results]
    assert {(str(record.status), record.retry_count, record.crashes) for record in records} == {("pending", 0, 0)}


async def test_a_quick_job_does_not_wait_behind_a_blocked_loop_while_another_worker_is_idle(
    service: QueueService, start_master: StartMaster, logbook_file: Path, tmp_path: Path, url: str
) -> None:
    arguments = write_app(tmp_path, url, worker="max_concurrency=2, slots=4")
    start_master(*arguments, serve=None, url=None).until_serving()
    assert await (await service.enqueue(zoo.good, 1)).get(30) == 2
    blocking = await service.enqueue(hard.block.using(kill_grace=0.1))
    wait_until(lambda: logbook.started(logbook_file, "block"), "the loop is blocked")
    for number in range(20):
        assert await (await service.enqueue(zoo.good, number)).get(30) == number + 1
    assert (await blocking.refresh()).status == "running"
    await blocking.cancel()
    assert (await blocking.wait(30)).status == "cancelled"


async def test_a_job_that_must_run_alone_takes_the_first_worker_that_is_empty_and_can_be_cancelled_before(
    service: QueueService, start_master: StartMaster, logbook_file: Path, tmp_path: Path, url: str
) -> None:
    arguments = write_app(tmp_path, url, worker="max_concurrency=2, slots=2")
    start_master(*arguments, serve=None, url=None).until_serving()
    flags = [str(tmp_path / name) for name in ("never", "soon", "later")]
    names = ["held", "short", "long-1", "long-2"]
    running = [await service.enqueue(hard.until, name, flags[min(n, 2)]) for n, name in enumerate(names)]
    wait_until(lambda: len(logbook.read(logbook_file)) == 4, "both workers are full")
    Path(flags[1]).touch()
    await running[1].wait(30)  # one worker has a job and a free slot, the other two jobs

    async def waits(result: TaskResult[str]) -> bool:
        return (await result.refresh()).status == "running"

    unwanted = await service.enqueue(hard.quick.using(max_rss="500MiB"), "unwanted")
    await eventually(lambda: waits(unwanted), "it waits for a worker of its own")
    assert await unwanted.cancel()
    assert (await unwanted.wait(30)).status == "cancelled"
    alone = await service.enqueue(hard.quick.using(max_rss="500MiB"), "alone")
    await eventually(lambda: waits(alone), "so does this one")
    Path(flags[2]).touch()
    assert (await alone.wait(30)).status == "completed"
    assert (await running[0].refresh()).status == "running"
    assert not logbook.started(logbook_file, "unwanted")
    Path(flags[0]).touch()


@pytest.mark.usefixtures("slotted_master")
async def test_a_coroutine_that_cancels_itself_or_all_it_finds_ends_and_gives_its_slot_back(
    service: QueueService,
) -> None:
    for _ in range(3):
        for task in (hard.cancels_itself_inside, hard.cancels_all):
            record = await (await service.enqueue(task)).wait(30)
            assert (record.status, record.failure and record.failure.type) == ("failed", "CancelledError")
    results = [await service.enqueue(hard.nap, 0.05) for _ in range(16)]
    assert {str((await result.wait(30)).status) for result in results} == {"completed"}
    assert {(await result.refresh()).attempt for result in results} == {1}


@pytest.mark.usefixtures("slotted_master")
async def test_a_worker_that_was_silent_once_is_given_jobs_again(
    service: QueueService, logbook_file: Path, tmp_path: Path
) -> None:
    await (await service.enqueue(hard.blocks_later)).wait(30)
    wait_until(lambda: logbook.started(logbook_file, "blocked"), "the loop is blocked by a callback")
    flag = tmp_path / "go"
    long = await service.enqueue(hard.until, "long", str(flag))
    wait_until(lambda: logbook.started(logbook_file, "long"), "it runs")
    assert await (await service.enqueue(zoo.good, 1)).get(30) == 2
    assert (await long.refresh()).status == "running"
    flag.touch()
    await long.wait(30)
