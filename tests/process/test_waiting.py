"""Jobs that wait at workers: taken back when they would wait in vain, and never started twice."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from litestar_queues import Query, QueueService, Status, TaskRequest, TaskResult
from store.making import new_job
from support import hard, logbook, zoo
from support.masters import RunningMaster
from support.waiting import eventually, wait_until

pytestmark = pytest.mark.anyio
StartMaster = Callable[..., RunningMaster]


def start(start_master: StartMaster, *arguments: str) -> RunningMaster:
    return start_master("--import", "support.hard", *arguments).until_serving()


def starts(logbook_file: Path) -> Counter[str]:
    return Counter(words[3] for words in logbook.read(logbook_file) if words[2] == "start")


async def measure(service: QueueService) -> None:
    """Let the master learn that ``quick`` is quick, so that jobs of it wait at workers."""
    results = await service.enqueue_many([TaskRequest(hard.quick, (f"measured-{n}",)) for n in range(100)])
    for result in results:
        await result.wait(30)


async def all_ended(service: QueueService, results: list[TaskResult[object]]) -> Counter[str]:
    return Counter([str((await result.wait(60)).status) for result in results])


async def test_jobs_behind_one_that_hangs_run_elsewhere_and_only_once(
    service: QueueService, start_master: StartMaster, logbook_file: Path
) -> None:
    start(start_master, "--concurrency", "2")
    await measure(service)
    # The hang looks as quick as the others until it is one: the same task would be measured.
    requests = [TaskRequest(zoo.sometimes_hangs, (str(logbook_file), number)) for number in range(1, 33)]
    await all_ended(service, await service.enqueue_many(requests))
    [hang, *rest] = await service.enqueue_many([TaskRequest(zoo.sometimes_hangs, (str(logbook_file), 0)), *requests])
    assert await all_ended(service, rest) == {"completed": 32}
    assert {(await result.refresh()).attempt for result in rest} == {1}
    assert (await hang.refresh()).status == "running"
    await hang.cancel()
    assert (await hang.wait(30)).status == "cancelled"


async def test_a_worker_that_is_stopped_with_jobs_waiting_loses_none(
    service: QueueService, start_master: StartMaster, logbook_file: Path
) -> None:
    master = start(start_master, "--concurrency", "2")
    await measure(service)
    os.kill(master.workers()[0], signal.SIGSTOP)
    names = [f"after-{number}" for number in range(300)]
    results = await service.enqueue_many([TaskRequest(hard.quick, (name,)) for name in names])
    assert await all_ended(service, results) == {"completed": 300}
    assert {starts(logbook_file)[name] for name in names} == {1}
    assert {(await result.refresh()).crashes for result in results} == {0}


async def test_a_waiting_job_that_hangs_is_charged_and_those_behind_it_are_not(
    service: QueueService, start_master: StartMaster, logbook_file: Path
) -> None:
    start(start_master, "--concurrency", "1")
    await measure(service)
    before = [TaskRequest(hard.quick, (f"before-{n}",)) for n in range(20)]
    hang = TaskRequest(hard.hang.using(timeout=0.3, kill_grace=0.2), ("hang",))
    after = [TaskRequest(hard.quick, (f"after-{n}",)) for n in range(20)]
    results = await service.enqueue_many([*before, hang, *after])
    ends = [await result.wait(30) for result in results]
    assert Counter(str(end.status) for end in ends) == {"completed": 40, "failed": 1}
    assert ends[20].error is not None
    assert "ran past its timeout of 0.3 s" in ends[20].error
    assert {(end.attempt, end.crashes, end.retry_count) for end in ends if end.status == "completed"} == {(1, 0, 0)}


@pytest.mark.fault(
    "A1",
    "kill -9 of random workers at random moments, fifteen times",
    "each job completes, none live twice, a death charges one job at most",
)
async def test_a_worker_killed_again_and_again_while_jobs_wait_starts_none_of_them_twice_at_once(
    service: QueueService, start_master: StartMaster, logbook_file: Path
) -> None:
    master = start(start_master, "--concurrency", "2")
    await measure(service)
    names = [f"job-{number}" for number in range(1_500)]
    results = await service.enqueue_many([TaskRequest(zoo.recorded, (name, 0.002)) for name in names])
    killed: set[int] = set()
    while len(killed) < 15 and len(logbook.read(logbook_file)) < 2_500:  # a busy machine may be late to the last kills
        count = len(logbook.read(logbook_file))
        wait_until(lambda count=count: len(logbook.read(logbook_file)) > count + 40, "jobs run")
        workers = wait_until(master.workers, "there are workers")
        pid = random.choice(workers)
        os.kill(pid, signal.SIGKILL)
        killed.add(pid)
    records = [await result.wait(60) for result in results]
    assert Counter(str(record.status) for record in records) == {"completed": 1_500}
    # A job pays for a death only when it was running: at most one each.
    assert killed
    assert sum(record.crashes for record in records) <= len(killed)
    assert {record.crashes for record in records} <= {0, 1, 2}


async def test_an_urgent_job_overtakes_those_that_wait_at_the_workers(
    service: QueueService, start_master: StartMaster, logbook_file: Path
) -> None:
    start(start_master, "--concurrency", "1")
    await measure(service)
    crowd = await service.enqueue_many([TaskRequest(hard.quick, (f"crowd-{n}", 0.002)) for n in range(600)])
    wait_until(lambda: starts(logbook_file)["crowd-100"], "the crowd runs")
    urgent = await service.enqueue(hard.quick.using(priority=5), "urgent")
    assert (await urgent.wait(30)).status == "completed"
    order = [words[3] for words in logbook.read(logbook_file) if words[2] == "start"]
    assert len(order) < 100 + 600, "it has ended before the crowd has started"
    assert await all_ended(service, crowd) == {"completed": 600}


@pytest.mark.fault("D4", "cancel of jobs that wait at workers", "those cancelled unstarted never start")
async def test_cancelled_jobs_never_start_once_cancel_says_so_and_all_others_run(
    service: QueueService, start_master: StartMaster, logbook_file: Path
) -> None:
    start(start_master, "--concurrency", "2")
    await measure(service)
    results = await service.enqueue_many([TaskRequest(hard.quick, (f"job-{n}", 0.001)) for n in range(400)])
    for result in random.sample(results, 200):
        await result.cancel()
    records = [await result.wait(30) for result in results]
    assert {str(record.status) for record in records} <= {"completed", "cancelled"}
    started = starts(logbook_file)
    for number, record in enumerate(records):
        assert started[f"job-{number}"] == record.attempt, record
        if record.status == "completed":
            assert record.attempt == 1


async def test_jobs_with_large_arguments_wait_as_others_do(service: QueueService, start_master: StartMaster) -> None:
    start(start_master, "--concurrency", "2")
    await measure(service)
    text = "x" * 200_000
    results = await service.enqueue_many([TaskRequest(zoo.good_async, (f"{n}{text}",)) for n in range(60)])
    for number, result in enumerate(results):
        assert await result.get(60) == f"{number}{text}".upper()


async def test_quick_jobs_are_not_held_up_by_slow_ones_of_the_same_pool(
    service: QueueService, start_master: StartMaster, logbook_file: Path, tmp_path: Path
) -> None:
    start(start_master, "--concurrency", "2")
    await measure(service)
    flag = tmp_path / "go"
    slow = await service.enqueue(zoo.until_told, "slow", str(flag))
    wait_until(lambda: starts(logbook_file)["slow"], "the slow one runs")
    mixed = [TaskRequest(hard.quick, (f"quick-{n}",)) for n in range(200)]
    assert await all_ended(service, await service.enqueue_many(mixed)) == {"completed": 200}
    assert (await slow.refresh()).status == "running"
    flag.touch()
    assert (await slow.wait(30)).status == "completed"


async def test_a_drain_gives_back_what_waits_at_the_workers_unstarted(
    service: QueueService, start_master: StartMaster, logbook_file: Path
) -> None:
    master = start(start_master, "--concurrency", "2")
    await measure(service)
    results = await service.enqueue_many([TaskRequest(hard.quick, (f"job-{n}", 0.002)) for n in range(1_000)])
    wait_until(lambda: starts(logbook_file)["job-50"], "they run")
    master.signal(signal.SIGTERM)
    assert master.wait() == 0
    records = [await result.refresh() for result in results]
    assert Counter(str(record.status) for record in records).keys() == {"completed", "pending"}
    started = starts(logbook_file)
    for number, record in enumerate(records):
        assert started[f"job-{number}"] == record.attempt == (record.status == "completed")


async def test_snooze_runs_a_job_again_at_no_cost(
    service: QueueService, start_master: StartMaster, tmp_path: Path
) -> None:
    start(start_master, "--concurrency", "1")
    record = await (await service.enqueue(hard.snooze_once, str(tmp_path / "snoozed"))).wait(30)
    assert (record.status, record.result, record.retry_count) == ("completed", "awake", 0)
    assert [attempt.outcome for attempt in record.attempts] == ["snoozed", "succeeded"]


@pytest.mark.fault(
    "A20",
    "300,000 lines; 100 MB printed, 50 MB written without a newline",
    "the master grows by less than 50 MiB, results kept, what is dropped is counted",
)
async def test_floods_and_endless_lines_cost_the_master_no_memory_and_no_job(
    service: QueueService, start_master: StartMaster
) -> None:
    master = start(start_master, "--concurrency", "2", "--log-level", "none")
    await measure(service)
    before = memory_of(master.pid)
    floods = [
        TaskRequest(hard.flood, (300_000,)),
        TaskRequest(hard.long_line, (50,)),
        TaskRequest(hard.print_long_line, (100,)),
    ]
    results = await service.enqueue_many(floods)
    assert await all_ended(service, results) == {"completed": 3}
    assert memory_of(master.pid) - before < 50 * 2**20
    said = [event.message or "" for event in await results[0].events()]
    assert "line 0 of a flood" in said
    assert said[-2] == "290000 more were dropped: the job said more than is kept"
    assert await (await service.enqueue(zoo.good, 1)).get(30) == 2


def memory_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.fault(
    "B5",
    "kill -9 of the master between claims and starts",
    "what had not begun is returned uncharged; recorded attempts are real starts",
)
async def test_what_waits_when_the_master_is_killed_runs_under_the_next_one(
    service: QueueService, start_master: StartMaster, logbook_file: Path
) -> None:
    master = start(start_master, "--concurrency", "2")
    await measure(service)
    names = [f"job-{number}" for number in range(2_000)]
    results = await service.enqueue_many([TaskRequest(zoo.recorded, (name,)) for name in names])
    wait_until(lambda: starts(logbook_file)["job-300"], "they run")
    master.signal(signal.SIGKILL)
    master.wait()
    wait_until(lambda: not master.workers(), "its workers are gone")
    start(start_master, "--concurrency", "2")

    async def has_finished() -> bool:
        return (await service.get_statistics()).completed == 2_100

    await eventually(has_finished, "all have run")
    records = [await result.refresh() for result in results]
    started = starts(logbook_file)
    assert set(names) <= set(started)
    # A start is noted in the cell just before the task's first line.
    unwritten = [record.attempt - started[name] for record, name in zip(records, names, strict=True)]
    assert min(unwritten) == 0
    assert sum(unwritten) <= 2
    assert sum(record.attempt - 1 for record in records) <= 2 * 129


async def test_a_last_line_without_an_end_belongs_to_the_job_that_wrote_it(
    service: QueueService, start_master: StartMaster
) -> None:
    start(start_master, "--concurrency", "1")
    await measure(service)
    results = await service.enqueue_many([TaskRequest(hard.write_raw, (f"raw {number}",)) for number in range(20)])
    for number, result in enumerate(results):
        await result.wait(30)
        said = [event.message for event in await result.events() if event.type == "task.output"]
        assert said == [f"raw {number}"]


async def test_a_thread_that_writes_on_when_no_job_runs_is_heard_only_for_a_while(
    service: QueueService, start_master: StartMaster
) -> None:
    master = start(start_master, "--concurrency", "1")
    await (await service.enqueue(hard.leave_a_writer)).wait(30)
    wait_until(lambda: "writes more while it runs no job than is shown" in master.log, "it is enough")
    assert await (await service.enqueue(zoo.good, 1)).get(30) == 2


@pytest.mark.fault("D3", "cancels of whatever runs, again and again", "only those asked for; the master goes on")
async def test_cancelling_whatever_runs_again_and_again_harms_neither_master_nor_others(
    service: QueueService, start_master: StartMaster, logbook_file: Path
) -> None:
    master = start(start_master, "--concurrency", "2")
    await measure(service)
    seconds = [0.0005] * 17 + [0.045] * 3
    results = []
    for _ in range(40):
        requests = [TaskRequest(hard.quick, ("x", random.choice(seconds))) for _ in range(30)]
        results += await service.enqueue_many(requests)
        for record in await service.list_tasks(Query(statuses=(Status.RUNNING,), limit=200)):
            await service.cancel_task(record.number)
    assert set(await all_ended(service, results)) <= {"completed", "cancelled"}
    assert master.process.poll() is None
    assert await (await service.enqueue(zoo.good, 1)).get(30) == 2


async def test_a_thousand_jobs_of_an_unknown_task_do_not_keep_known_ones_waiting(
    service: QueueService, start_master: StartMaster, logbook_file: Path
) -> None:
    start(start_master, "--concurrency", "2")
    await measure(service)
    unknown = [new_job(task="of.another.deploy") for _ in range(3_000)]
    await service.store.add(unknown)
    results = await service.enqueue_many([TaskRequest(hard.quick, (f"known-{n}",)) for n in range(50)])
    assert await all_ended(service, results) == {"completed": 50}
    records = await service.store.get([job.id for job in unknown])
    assert {record.status for record in records if record} <= {"scheduled", "pending", "running"}
    # At first they are asked for again after 0.1 s, then half as often each time.
    assert max(record.fence for record in records if record) <= 12


async def test_slow_jobs_behind_quick_ones_are_not_claimed_and_given_back_all_the_time(
    service: QueueService, start_master: StartMaster, logbook_file: Path
) -> None:
    start(start_master, "--concurrency", "2")
    await measure(service)
    # Killed each time, so no report ever tells how long one takes.
    limits = {"timeout": 0.05, "kill_grace": 0.0}
    slow = await service.enqueue_many([TaskRequest(hard.hang.using(**limits), (f"slow-{n}",)) for n in range(40)])
    for result in slow:
        assert (await result.wait(60)).status == "failed"
    fences = [(await result.refresh()).fence for result in slow]
    assert sum(fences) <= 40 * 4, fences
