"""Workers and masters killed from outside: nothing is lost, nothing is live twice, and the pool goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from litestar_queues import QueueService, TaskResult
from support import lasting, logbook, zoo
from support.apps import write_app
from support.masters import TESTS, RunningMaster
from support.waiting import eventually, wait_until

pytestmark = pytest.mark.anyio
StartMaster = Callable[..., RunningMaster]
LINE_OF_WAIT = 1 + next(
    number
    for number, line in enumerate(Path(lasting.__file__).read_text().splitlines())
    if line.endswith("# the line where it hangs")
)


@pytest.mark.fault("A1", "kill -9 of a worker in the middle of a job", "run again once, no retry spent, events kept")
async def test_a_job_whose_worker_is_killed_runs_again_once_at_no_cost_and_keeps_its_events(
    service: QueueService, start_master: StartMaster, logbook_file: Path, tmp_path: Path
) -> None:
    start_master("--concurrency", "2").until_serving()
    flag = tmp_path / "go"
    result = await service.enqueue(zoo.until_told, "killed", str(flag))
    [first] = wait_until(lambda: logbook.started(logbook_file, "killed"), "the job has started")
    os.kill(int(first[1]), signal.SIGKILL)
    wait_until(lambda: len(logbook.started(logbook_file, "killed")) == 2, "the job has started again")
    flag.touch()
    record = await result.wait(30)
    assert (record.status, record.retry_count, record.crashes) == ("completed", 0, 1)
    assert [attempt.outcome for attempt in record.attempts] == ["crashed", "succeeded"]
    assert "SIGKILL" in (record.attempts[0].exit or "")
    assert len(logbook.started(logbook_file, "killed")) == 2
    said = [event.message for event in await result.events() if event.type == "task.log"]
    assert said == ["started killed", "started killed"]


@pytest.mark.fault(
    "B2", "kill -9 of the master under load, ten times", "nothing lost, nothing live twice, attempts are starts"
)
@pytest.mark.fault("B4", "kill -9 of the master between reports and their commit", "run again, never half recorded")
async def test_killing_the_master_ten_times_under_load_loses_no_job_and_runs_none_twice_at_once(
    service: QueueService, start_master: StartMaster, logbook_file: Path
) -> None:
    names = [f"job-{index}" for index in range(400)]
    results = [await service.enqueue(zoo.recorded, name, random.choice([0.0, 0.01, 0.03])) for name in names]
    for _ in range(10):
        master = start_master("--concurrency", "2").until_serving()
        before = len(logbook.read(logbook_file))
        wait_until(lambda before=before: len(logbook.read(logbook_file)) > before + 8, "the master works")
        master.signal(signal.SIGKILL)
        master.wait()
        wait_until(lambda master=master: not master.workers(), "the killed master's workers are gone", deadline=5)
    start_master("--concurrency", "2").until_serving()
    records = [await result.wait(60) for result in results]
    assert {record.status for record in records} == {"completed"}
    lines = logbook.read(logbook_file)
    assert {words[3] for words in lines if words[2] == "end"} == set(names)
    starts = Counter(words[3] for words in lines if words[2] == "start")
    # A start is written into the cell just before the task's first line: a kill between the two is an
    # attempt whose task wrote nothing. At most one for each of the two workers of a killed master.
    unwritten = [record.attempt - starts[record.args[0]] for record in records]
    assert min(unwritten) == 0
    assert sum(unwritten) <= 10 * 2


@pytest.mark.fault("B2", "kill -9 of the master while a job runs", "lost, no retry spent, run again")
async def test_a_job_that_was_running_when_its_master_died_counts_the_loss_and_no_retry(
    service: QueueService, start_master: StartMaster, logbook_file: Path, tmp_path: Path
) -> None:
    flag = tmp_path / "go"
    master = start_master("--concurrency", "1").until_serving()
    result = await service.enqueue(zoo.until_told, "lost", str(flag))
    wait_until(lambda: logbook.started(logbook_file, "lost"), "the job has started")
    master.signal(signal.SIGKILL)
    master.wait()
    start_master("--concurrency", "1").until_serving()
    wait_until(lambda: len(logbook.started(logbook_file, "lost")) == 2, "the next master runs it")
    flag.touch()
    record = await result.wait(30)
    assert (record.status, record.retry_count, record.crashes) == ("completed", 0, 0)
    assert [attempt.outcome for attempt in record.attempts] == ["lost", "succeeded"]


@pytest.mark.fault("B17", "two masters on one database", "each job once, by the master that claimed it")
async def test_two_masters_share_the_work_and_never_take_each_others_jobs(
    service: QueueService, start_master: StartMaster, logbook_file: Path
) -> None:
    for _ in range(2):
        start_master("--concurrency", "1").until_serving()
    results = [await service.enqueue(zoo.recorded, f"job-{index}", 0.02) for index in range(60)]
    records = [await result.wait(60) for result in results]
    assert {record.status for record in records} == {"completed"}
    assert {record.attempt for record in records} == {1}
    lines = logbook.read(logbook_file)
    assert len({words[1] for words in lines}) == 2


@pytest.mark.fault("B6", "SIGTERM with jobs shorter than the drain", "they finish, exit status 0, others stay pending")
async def test_sigterm_lets_running_jobs_finish_and_takes_no_others(
    service: QueueService, start_master: StartMaster, logbook_file: Path, tmp_path: Path
) -> None:
    flag = tmp_path / "go"
    master = start_master("--concurrency", "1").until_serving()
    running = await service.enqueue(zoo.until_told, "running", str(flag))
    wait_until(lambda: logbook.started(logbook_file, "running"), "the job has started")
    waiting = await service.enqueue(zoo.recorded, "waiting")
    master.signal(signal.SIGTERM)
    wait_until(lambda: "finishing 1 running jobs" in master.log, "the master drains")
    flag.touch()
    assert master.wait() == 0
    assert (await running.refresh()).status == "completed"
    record = await waiting.refresh()
    assert (record.status, record.attempt) == ("pending", 0)


@pytest.mark.fault("B7", "SIGTERM with a job longer than the drain", "handed back uncharged, exit status 8")
async def test_a_job_longer_than_the_drain_is_handed_back_uncharged(
    service: QueueService, start_master: StartMaster, logbook_file: Path, tmp_path: Path
) -> None:
    master = start_master("--concurrency", "1", "--drain-timeout", "0.2").until_serving()
    result = await service.enqueue(zoo.until_told.using(kill_grace=0.2), "long", str(tmp_path / "never"))
    wait_until(lambda: logbook.started(logbook_file, "long"), "the job has started")
    master.signal(signal.SIGTERM)
    assert master.wait() == 8
    record = await result.refresh()
    assert (record.status, record.retry_count, record.crashes) == ("pending", 0, 0)
    assert [attempt.outcome for attempt in record.attempts] == ["returned"]


@pytest.mark.fault("B8", "a second signal", "at once; no process left")
async def test_a_second_signal_hands_jobs_back_at_once(
    service: QueueService, start_master: StartMaster, logbook_file: Path, tmp_path: Path
) -> None:
    master = start_master("--concurrency", "1", "--drain-timeout", "600").until_serving()
    result = await service.enqueue(zoo.until_told.using(kill_grace=600), "long", str(tmp_path / "never"))
    wait_until(lambda: logbook.started(logbook_file, "long"), "the job has started")
    master.signal(signal.SIGINT)
    wait_until(lambda: "finishing 1 running jobs" in master.log, "the master drains")
    master.signal(signal.SIGINT)
    assert master.wait() == 8
    assert (await result.refresh()).status == "pending"
    assert master.descendants() == []


async def test_a_running_job_can_be_cancelled_and_its_worker_goes_on(
    service: QueueService, start_master: StartMaster, logbook_file: Path, tmp_path: Path
) -> None:
    master = start_master("--concurrency", "1").until_serving()
    result = await service.enqueue(zoo.until_told, "cancelled", str(tmp_path / "never"))
    [first] = wait_until(lambda: logbook.started(logbook_file, "cancelled"), "the job has started")
    assert await result.cancel()
    assert (await result.wait(30)).status == "cancelled"
    after: TaskResult[str] = await service.enqueue(zoo.recorded, "after")
    await after.wait(30)
    [second] = logbook.started(logbook_file, "after")
    assert second[1] == first[1]
    assert master.process.poll() is None


@pytest.mark.fault("A7", "SIGSTOP of an idle worker", "replaced; the job is not charged")
async def test_a_worker_that_is_stopped_while_idle_is_replaced_and_the_job_is_not_charged(
    service: QueueService, start_master: StartMaster, logbook_file: Path
) -> None:
    master = start_master("--concurrency", "1").until_serving()
    await (await service.enqueue(zoo.recorded, "before")).wait(30)
    [line] = logbook.started(logbook_file, "before")
    os.kill(int(line[1]), signal.SIGSTOP)
    result = await service.enqueue(zoo.recorded, "after")
    record = await result.wait(30)
    assert (record.status, record.attempt, record.crashes) == ("completed", 1, 0)
    assert int(line[1]) not in master.workers()


@pytest.mark.fault("D20", "a job that enqueues", "stored by the worker as by any client")
async def test_a_job_enqueued_from_inside_a_job_runs(service: QueueService, start_master: StartMaster) -> None:
    start_master("--concurrency", "1").until_serving()
    outer = await service.enqueue(zoo.enqueues_more, 41)
    inner = await service.get_result(await outer.get(30))
    assert await inner.get(30) == 42


@pytest.mark.fault("C22", "every doorbell of the master is removed", "the job starts within the poll")
async def test_with_every_doorbell_lost_a_job_still_starts(
    service: QueueService, start_master: StartMaster, logbook_file: Path
) -> None:
    start_master("--concurrency", "1").until_serving()
    bells = Path(service.store.folder) / "bells"

    async def remove_bells() -> bool:
        for bell in bells.iterdir():
            bell.unlink(missing_ok=True)
        return True

    await eventually(remove_bells, "the bells are gone")
    result = await service.enqueue(zoo.recorded, "unheard")
    assert (await result.wait(30)).status == "completed"


@pytest.mark.fault("D6", "jobs of several priorities and a delayed one", "priority, then first in first out")
async def test_a_scheduled_job_starts_when_it_is_due_and_a_higher_priority_goes_first(
    service: QueueService, start_master: StartMaster, logbook_file: Path, tmp_path: Path
) -> None:
    flag = tmp_path / "go"
    start_master("--concurrency", "1").until_serving()
    await service.enqueue(zoo.until_told, "first", str(flag))
    wait_until(lambda: logbook.started(logbook_file, "first"), "the job has started")
    results = [
        await service.enqueue(zoo.recorded.using(priority=priority), f"priority-{priority}") for priority in (0, 5, 1)
    ]
    later = await service.enqueue(zoo.recorded.using(run_after=0.5, priority=9), "later")
    assert later.status == "scheduled"
    flag.touch()
    for result in (*results, later):
        assert (await result.wait(30)).status == "completed"
    order = [words[3] for words in logbook.read(logbook_file) if words[2] == "start" and words[3] != "later"]
    assert order == ["first", "priority-5", "priority-1", "priority-0"]


APP = """
from litestar import Litestar
from litestar_queues import PoolConfig, QueueConfig, QueuePlugin, WorkerConfig

app = Litestar(plugins=[QueuePlugin(QueueConfig(
    queue_backend=URL,
    task_modules=("support.zoo",),
    worker=WorkerConfig(max_concurrency=1, drain_timeout=0.2),
    pools=(PoolConfig(name="reports", queues=("reports",), processes=1),),
))])
"""


async def test_the_applications_own_settings_decide_what_the_command_line_leaves_open(
    service: QueueService, start_master: StartMaster, logbook_file: Path, tmp_path: Path, url: str
) -> None:
    (tmp_path / "configured.py").write_text(APP.replace("URL", repr(url)))
    master = start_master("--app", "configured:app", serve=None, url=None).until_serving()
    long = await service.enqueue(zoo.until_told.using(kill_grace=0.2), "long", str(tmp_path / "never"))
    wait_until(lambda: logbook.started(logbook_file, "long"), "the job has started")
    # The default pool is full; the other one serves its own queue, and only that.
    other = await service.enqueue(zoo.recorded.using(queue="reports"), "report")
    record = await other.wait(30)
    assert record.worker_id == "reports/1"
    master.signal(signal.SIGTERM)
    assert master.wait() == 8
    assert "up to 0.2 s" in master.log
    assert (await long.refresh()).status == "pending"


async def test_workers_killed_together_lose_no_job_and_do_not_stop_the_master(
    service: QueueService, start_master: StartMaster, logbook_file: Path, tmp_path: Path
) -> None:
    master = start_master("--concurrency", "2").until_serving()
    wait_until(lambda: len(master.workers()) == 2, "two workers are there")
    flag = tmp_path / "go"
    results = [await service.enqueue(zoo.until_told, name, str(flag)) for name in ("one", "two")]
    wait_until(
        lambda: logbook.started(logbook_file, "one") and logbook.started(logbook_file, "two"), "both have started"
    )
    for pid in master.workers():
        os.kill(pid, signal.SIGKILL)
    wait_until(
        lambda: all(len(logbook.started(logbook_file, name)) == 2 for name in ("one", "two")), "both have started again"
    )
    flag.touch()
    assert {(await result.wait(30)).status for result in results} == {"completed"}
    master.signal(signal.SIGTERM)
    assert master.wait() == 0


@pytest.mark.fault("B9", "the terminal's end of standard error is closed", "it goes on, and drains")
async def test_a_master_whose_terminal_is_gone_goes_on_and_drains(
    service: QueueService, logbook_file: Path, tmp_path: Path, url: str
) -> None:
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-m", "lq", "worker", "--import", "support.zoo", "--url", url, "--concurrency", "1"]
    environment = {**os.environ, "PYTHONPATH": path}
    master = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, cwd=tmp_path, start_new_session=True)
    assert master.stderr is not None
    for line in master.stderr:
        if b"  stop " in line:
            break
    master.stderr.close()
    flag = tmp_path / "go"
    assert (await (await service.enqueue(zoo.recorded, "before")).wait(30)).status == "completed"
    running = await service.enqueue(zoo.until_told, "running", str(flag))
    wait_until(lambda: logbook.started(logbook_file, "running"), "the job has started")
    master.send_signal(signal.SIGTERM)
    flag.touch()
    assert (await running.wait(30)).status == "completed"
    wait_until(lambda: master.poll() is not None, "the master ends")
    assert master.returncode == 0


async def test_a_job_that_ran_in_a_caller_which_died_is_failed_and_not_left(
    service: QueueService, start_master: StartMaster, logbook_file: Path, tmp_path: Path, url: str
) -> None:
    program = (
        "import asyncio\nfrom support import zoo\nfrom litestar_queues import QueueConfig, QueueService\n"
        "async def run():\n"
        f"    async with QueueService(QueueConfig(queue_backend={url!r}, execution_backend='immediate')) as service:\n"
        f"        await service.enqueue(zoo.takes_its_time, {str(tmp_path / 'never')!r})\n"
        "asyncio.run(run())\n"
    )
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH", "")]))
    caller = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": path}, cwd=tmp_path)
    wait_until(lambda: logbook.started(logbook_file, "takes_its_time"), "the job runs in its caller")
    caller.kill()
    caller.wait()
    start_master("--concurrency", "1").until_serving()
    record = await (await service.get_result(1)).wait(30)
    assert (record.status, record.failure and record.failure.type) == ("failed", "CallerLost")


async def test_a_job_adds_others_with_its_completion_and_none_without(
    service: QueueService, start_master: StartMaster, logbook_file: Path
) -> None:
    start_master("--concurrency", "1").until_serving()
    failed = await service.enqueue(zoo.then, "never", fail=True)
    assert (await failed.wait(30)).status == "failed"
    done = await service.enqueue(zoo.then, "next")
    following = await service.get_result(await done.get(30))
    assert (await following.wait(30)).result == "next"
    assert not logbook.started(logbook_file, "never")
    assert (await service.get_statistics()).total == 3


@pytest.mark.fault("A35", "a coroutine that waits for ever", "the line where it waits is in its record")
@pytest.mark.parametrize("slots", [1, 4])
async def test_the_record_of_a_coroutine_that_waited_for_ever_names_the_line(
    service: QueueService, start_master: StartMaster, logbook_file: Path, tmp_path: Path, url: str, slots: int
) -> None:
    app = write_app(tmp_path, url, worker=f"max_concurrency=1, slots={slots}")
    start_master(*app, "--import", "support.lasting", serve=None, url=None).until_serving()
    results = {
        task.name: await service.enqueue(task)
        for task in (lasting.hangs_on_await, lasting.hangs_on_task, lasting.hangs_and_swallows)
    }
    for name, result in results.items():
        record = await result.wait(30)
        [attempt] = record.attempts
        assert attempt.outcome == "timed_out"
        assert f'lasting.py", line {LINE_OF_WAIT} in _wait_for_ever' in (record.error or "")
        assert f" in {name}" in (attempt.stack or "")
    cancelled = await service.enqueue(lasting.hangs_on_await.using(timeout=None))
    wait_until(lambda: len(logbook.started(logbook_file, "waiting")) == 4, "it waits")
    await cancelled.cancel()
    [attempt] = (await cancelled.wait(30)).attempts
    assert " in _wait_for_ever" in (attempt.stack or "")
    assert "# the line where it hangs" in (attempt.error.traceback or "" if attempt.error else "")
