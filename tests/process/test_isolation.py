"""What one job leaves, and what the next one in its process meets of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from litestar_queues import QueueService, Task, TaskResult
from support import lasting, logbook, zoo
from support.apps import write_app
from support.masters import RunningMaster

pytestmark = pytest.mark.anyio
StartMaster = Callable[..., RunningMaster]


@pytest.fixture(params=[1, 4], ids=["one slot", "four slots"])
def master(
    request: pytest.FixtureRequest, start_master: StartMaster, logbook_file: Path, tmp_path: Path, url: str
) -> RunningMaster:
    """One worker with one slot, or with several."""
    arguments = write_app(tmp_path, url, worker=f"max_concurrency=1, slots={request.param}")
    return start_master(*arguments, "--import", "support.lasting", serve=None, url=None).until_serving()


@pytest.mark.usefixtures("master")
async def test_a_job_does_not_see_the_context_of_the_one_before(service: QueueService) -> None:
    for sets in (lasting.sets_tenant, lasting.sets_tenant_in_function):
        await (await service.enqueue(sets, "somebody")).get(30)
        for says in (lasting.says_tenant, lasting.says_tenant_in_coroutine):
            assert await (await service.enqueue(says)).get(30) == "nobody"


@pytest.mark.usefixtures("master")
@pytest.mark.parametrize("changes", [lasting.changes_folder, lasting.handles_signals], ids=lambda task: task.name)
async def test_what_a_coroutine_changes_of_its_process_is_put_back(
    service: QueueService, logbook_file: Path, changes: Task[[], None]
) -> None:
    await assert_put_back(service, logbook_file, changes)


@pytest.mark.fault(
    "A32", "a job changes folder, umask, signals, an alarm, streams", "put back; the next one can be asked to stop"
)
async def test_what_a_function_changes_of_its_process_is_put_back(
    service: QueueService, start_master: StartMaster, logbook_file: Path
) -> None:
    start_master("--concurrency", "1", serve="support.lasting").until_serving()
    await assert_put_back(service, logbook_file, lasting.changes_all)


async def assert_put_back(service: QueueService, logbook_file: Path, changes: Task[[], None]) -> None:
    before = await (await service.enqueue(lasting.describes_process)).get(30)
    await (await service.enqueue(changes)).get(30)
    assert await (await service.enqueue(lasting.describes_process)).get(30) == before
    record = await (await service.enqueue(lasting.clears_up)).wait(30)
    assert "cleared-up" in [words[2] for words in logbook.read(logbook_file)], "it was not asked to stop"
    assert "in clears_up" in (record.error or ""), "nobody looked where it stood"


@pytest.mark.usefixtures("master")
async def test_a_coroutine_that_stops_the_event_loop_stops_nobody_else(service: QueueService) -> None:
    await assert_alone(service, lasting.stops_loop)


async def test_a_function_that_closes_the_event_loop_spoils_it_for_nobody_else(
    service: QueueService, start_master: StartMaster
) -> None:
    start_master("--concurrency", "1", "--import", "support.lasting").until_serving()
    await assert_alone(service, lasting.closes_loop)


async def assert_alone(service: QueueService, ends: Task[[], None]) -> None:
    pid = (await (await service.enqueue(lasting.describes_process)).get(30))["pid"]
    await (await service.enqueue(ends)).wait(30)
    assert await (await service.enqueue(zoo.good_async, "text")).get(30) == "TEXT"
    assert (await (await service.enqueue(lasting.describes_process)).get(30))["pid"] == pid


@pytest.mark.fault("A29", "a coroutine leaves an asyncio task, and is retried", "the task has ended before the retry")
@pytest.mark.usefixtures("master")
async def test_what_a_coroutine_has_started_ends_with_its_attempt(service: QueueService, logbook_file: Path) -> None:
    result = await service.enqueue(lasting.leaves_a_ticker)
    record = await result.wait(30)
    assert [attempt.outcome for attempt in record.attempts] == ["timed_out", "succeeded"]
    lines = [words[2] for words in logbook.read(logbook_file)]
    assert "tick-1" in lines
    assert "tick-1" not in lines[lines.index("tick-2") :]
    await assert_warned(result, "1 tasks or timers", "in _tick")
    await (await service.enqueue(lasting.takes_a_while, 0.05)).get(30)
    assert logbook.read(logbook_file)[len(lines) :] == []


@pytest.mark.usefixtures("master")
async def test_a_timer_that_a_coroutine_has_set_does_not_ring_after_it(
    service: QueueService, logbook_file: Path
) -> None:
    result = await service.enqueue(lasting.leaves_a_timer)
    await result.get(30)
    await (await service.enqueue(lasting.takes_a_while, 0.1)).get(30)
    assert logbook.read(logbook_file) == []
    await assert_warned(result, "1 tasks or timers", "write")


@pytest.mark.usefixtures("master")
@pytest.mark.parametrize(
    "leaves", [lasting.leaves_a_generator, lasting.breaks_out_of_generator], ids=lambda task: task.name
)
async def test_a_generator_that_a_coroutine_has_left_is_closed_before_the_job_has_ended(
    service: QueueService, logbook_file: Path, leaves: Task[[], None]
) -> None:
    await (await service.enqueue(leaves)).wait(30)
    assert [words[2] for words in logbook.read(logbook_file)] == ["generator-closed"]


@pytest.mark.usefixtures("master")
async def test_a_task_that_will_not_end_is_waited_for_only_so_long_and_goes_with_its_worker(
    service: QueueService, logbook_file: Path
) -> None:
    pid = await (await service.enqueue(lasting.takes_a_while, 0.0)).get(30)
    result = await service.enqueue(lasting.leaves_stubborn)
    await result.get(30)
    await assert_warned(result, "2 tasks or timers", "not all of it has ended, so this worker is replaced")
    assert await (await service.enqueue(lasting.takes_a_while, 0.0)).get(30) != pid


@pytest.mark.fault("A29", "a coroutine at its timeout leaves a call in a thread", "killed with it: nothing lives on")
@pytest.mark.usefixtures("master")
async def test_a_coroutine_at_its_timeout_has_not_ended_while_its_thread_works(
    service: QueueService, logbook_file: Path
) -> None:
    record = await (await service.enqueue(lasting.leaves_a_thread_behind)).wait(30)
    assert [attempt.outcome for attempt in record.attempts] == ["timed_out"]
    assert "SIGKILL" in (record.attempts[0].exit or "")
    lines = len(logbook.read(logbook_file))
    await (await service.enqueue(lasting.takes_a_while, 0.05)).get(30)
    assert len(logbook.read(logbook_file)) == lines


@pytest.mark.usefixtures("master")
async def test_a_task_on_the_loop_that_exits_ends_nobody_but_itself(service: QueueService) -> None:
    pid = await (await service.enqueue(lasting.takes_a_while, 0.0)).get(30)
    await (await service.enqueue(lasting.leaves_an_exit)).wait(30)
    assert await (await service.enqueue(lasting.takes_a_while, 0.0)).get(30) == pid


async def assert_warned(result: TaskResult[None], *words: str) -> None:
    said = [event.message or "" for event in await result.events() if event.type == "task.log"]
    assert any(all(word in line for word in words) for line in said), said
