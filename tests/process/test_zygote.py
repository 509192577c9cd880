"""Workers forked from a zygote: its death, its reload, and what a fork must not break."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from litestar_queues import QueueService, TaskRequest
from litestar_queues.master import strays
from litestar_queues.master.nursery import REAP_WITHIN
from support import hard, logbook, zoo
from support.apps import write_app
from support.masters import RunningMaster
from support.waiting import eventually, wait_until

pytestmark = pytest.mark.anyio
StartMaster = Callable[..., RunningMaster]
VERSIONED = """
from litestar_queues import task

@task
def version() -> int:
    return {version}
"""


def serve(start_master: StartMaster, *arguments: str, **options: object) -> RunningMaster:
    return start_master(*arguments, serve=None, url=None, **options).until_serving()


async def test_a_zygote_killed_under_load_takes_no_job_with_it(
    service: QueueService, start_master: StartMaster, logbook_file: Path
) -> None:
    master = start_master("--concurrency", "2").until_serving()
    names = [f"job-{number}" for number in range(600)]
    results = await service.enqueue_many([TaskRequest(zoo.recorded, (name, 0.004)) for name in names])
    killed: set[int] = set()
    while len(killed) < 4 * 2 and len(logbook.read(logbook_file)) < 1_000:
        count = len(logbook.read(logbook_file))
        wait_until(lambda count=count: len(logbook.read(logbook_file)) > count + 40, "jobs run")
        workers = master.workers()
        [zygote] = wait_until(master.zygotes, "there is a zygote")
        os.kill(zygote, signal.SIGKILL)
        wait_until(lambda workers=workers: not set(workers) & set(master.workers()), "its workers are gone")
        killed |= set(workers)
    records = [await result.wait(60) for result in results]
    assert Counter(str(record.status) for record in records) == {"completed": 600}
    assert {(record.crashes, record.retry_count) for record in records} == {(0, 0)}
    outcomes = Counter(attempt.outcome for record in records for attempt in record.attempts)
    assert 1 <= outcomes["lost"] <= len(killed)
    assert master.process.poll() is None


async def test_a_zygote_that_is_stopped_does_not_keep_a_killed_worker_from_being_replaced(
    service: QueueService, start_master: StartMaster, logbook_file: Path, tmp_path: Path
) -> None:
    master = start_master("--concurrency", "1").until_serving()
    flag = tmp_path / "go"
    result = await service.enqueue(zoo.until_told, "held", str(flag))
    [line] = wait_until(lambda: logbook.started(logbook_file, "held"), "it has started")
    [zygote] = master.zygotes()
    os.kill(zygote, signal.SIGSTOP)
    os.kill(int(line[1]), signal.SIGKILL)
    wait_until(lambda: len(logbook.started(logbook_file, "held")) == 2, "it runs again")
    flag.touch()
    assert (await result.wait(30)).status == "completed"
    assert zygote not in master.zygotes()


async def test_the_logs_of_an_app_with_a_listener_thread_reach_the_job(
    service: QueueService, start_master: StartMaster, tmp_path: Path, url: str
) -> None:
    # Litestar's default logging starts such a thread when an app is made.
    before = "from litestar.logging import LoggingConfig\nLoggingConfig().configure()()\n"
    master = serve(start_master, *write_app(tmp_path, url, before=before))
    result = await service.enqueue(zoo.good_async, "text")
    await result.wait(30)
    said = [event.message for event in await result.events() if event.type in ("task.log", "task.output")]
    assert said == ["printed", "logged"]
    master.signal(signal.SIGTERM)
    assert master.wait() == 0
    assert "Traceback" not in master.log


async def test_threads_that_the_import_starts_are_named_in_a_warning(
    start_master: StartMaster, tmp_path: Path, url: str
) -> None:
    before = "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,), name='poller', daemon=True).start()\n"
    master = serve(start_master, *write_app(tmp_path, url, before=before))
    wait_until(
        lambda: "the import started poller; workers are forked and do not have them" in master.log, "it is named"
    )


async def test_each_worker_has_random_numbers_of_its_own(
    service: QueueService, start_master: StartMaster, tmp_path: Path, url: str
) -> None:
    before = "import random\nrandom.seed(1)\n"
    serve(start_master, *write_app(tmp_path, url, worker="max_concurrency=1, max_jobs=1", before=before))
    facts = [await (await service.enqueue(hard.process_facts)).get(30) for _ in range(4)]
    assert len({each["pid"] for each in facts}) == 4
    assert len({each["random"] for each in facts}) == 4


async def test_reload_gives_new_workers_the_new_code_and_lets_running_jobs_end(
    service: QueueService, start_master: StartMaster, logbook_file: Path, tmp_path: Path
) -> None:
    module = tmp_path / "versioned.py"
    module.write_text(VERSIONED.format(version=1))
    master = start_master("--import", "versioned", "--concurrency", "2").until_serving()
    flag = tmp_path / "go"
    running = await service.enqueue(zoo.until_told, "running", str(flag))
    wait_until(lambda: logbook.started(logbook_file, "running"), "it has started")
    assert await (await service.enqueue("version")).get(30) == 1
    module.write_text(VERSIONED.format(version=22))
    master.signal(signal.SIGUSR1)
    wait_until(lambda: "reload" in master.log.partition("  stop ")[2].partition("kill -USR1")[2], "it is reloaded")

    async def is_new() -> bool:
        return await (await service.enqueue("version")).get(30) == 22

    await eventually(is_new, "new workers have the new code")
    flag.touch()
    assert (await running.wait(30)).attempt == 1
    wait_until(lambda: len(master.zygotes()) == 1, "the old zygote ends with its last worker")


MORE = """
@task
def more() -> str:
    return "more"
"""


@pytest.mark.parametrize("how", ["reload", "death"])
async def test_a_task_that_new_code_brings_is_published_and_run(
    service: QueueService, start_master: StartMaster, tmp_path: Path, how: str
) -> None:
    module = tmp_path / "versioned.py"
    module.write_text(VERSIONED.format(version=1))
    master = start_master("--import", "versioned", "--concurrency", "1").until_serving()
    assert await (await service.enqueue("version")).get(30) == 1
    module.write_text(VERSIONED.format(version=22) + MORE)
    if how == "reload":
        master.signal(signal.SIGUSR1)
    else:
        os.kill(master.zygotes()[0], signal.SIGKILL)

    async def is_published() -> bool:
        return "more" in {entry.name for entry in (await service.store.catalogue()).tasks}

    await eventually(is_published, "the store's catalogue has it")
    record = await (await service.enqueue("more")).wait(30)
    assert (record.status, record.result, record.fence) == ("completed", "more", 1)


DIES_SOON = """
import os, threading, time
def die():
    time.sleep(1.5)
    if os.path.exists({flag!r}):
        os._exit(9)
threading.Thread(target=die, name="dies").start()
"""


async def test_a_zygote_that_dies_again_and_again_is_started_later_each_time_and_says_so(
    service: QueueService, start_master: StartMaster, tmp_path: Path, url: str
) -> None:
    flag = tmp_path / "dies"
    flag.touch()
    master = serve(start_master, *write_app(tmp_path, url, before=DIES_SOON.format(flag=str(flag))))
    wait_until(lambda: master.log.count("exited with status 9, its workers with it") >= 3, "it has died three times")
    assert [f"next try {delay}" in master.log for delay in ("at once", "in 0.1 s", "in 0.2 s")] == [True] * 3
    flag.unlink()
    assert await (await service.enqueue(zoo.good, 1)).get(60) == 2


async def test_a_master_that_is_told_to_stop_while_it_waits_for_a_zygote_ends_in_good_order(
    service: QueueService, start_master: StartMaster
) -> None:
    master = start_master("--concurrency", "1").until_serving()
    for delay in ("at once", "in 0.1 s", "in 0.2 s"):
        [zygote] = wait_until(lambda: master.workers() and master.zygotes(), "there is a zygote, with a worker")
        os.kill(zygote, signal.SIGKILL)
        wait_until(lambda delay=delay: f"next try {delay}" in master.log, "its death is heard of")
    master.signal(signal.SIGTERM)
    assert master.wait() == 0


async def test_a_master_that_was_stopped_itself_does_not_blame_its_zygote(
    service: QueueService, start_master: StartMaster, logbook_file: Path
) -> None:
    master = start_master("--concurrency", "1").until_serving()
    assert await (await service.enqueue(zoo.good, 1)).get(30) == 2
    [zygote], [worker] = master.zygotes(), master.workers()
    # The master learns of the death, is stopped before it reads how, and goes on after the zygote's time is up.
    os.kill(zygote, signal.SIGSTOP)
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: strays.state_of(worker) == "Z", "the worker is dead")
    wait_until(lambda: waits_for_zygote(master), "the master has seen it")
    master.signal(signal.SIGSTOP)
    wait_until(lambda: strays.state_of(master.pid) == "T", "the master is stopped")
    os.kill(zygote, signal.SIGCONT)
    until = time.monotonic() + REAP_WITHIN
    wait_until(lambda: time.monotonic() > until, "the zygote's time is up")
    master.signal(signal.SIGCONT)
    assert await (await service.enqueue(zoo.good, 1)).get(30) == 2
    assert master.zygotes() == [zygote]


def waits_for_zygote(master: RunningMaster) -> bool:
    """Say whether the master sleeps again after what has happened."""
    return strays.state_of(master.pid) == "S"


async def test_code_that_does_not_import_is_not_taken_and_the_old_goes_on(
    service: QueueService, start_master: StartMaster, tmp_path: Path
) -> None:
    module = tmp_path / "versioned.py"
    module.write_text(VERSIONED.format(version=1))
    master = start_master("--import", "versioned", "--concurrency", "1").until_serving()
    module.write_text("raise RuntimeError('half a deploy')\n")
    master.signal(signal.SIGUSR1)
    wait_until(lambda: "reload failed, the old code goes on" in master.log, "it says so")
    assert "half a deploy" in master.log
    assert await (await service.enqueue("version")).get(30) == 1


async def test_an_app_that_cannot_be_imported_any_more_charges_no_job_and_recovers(
    service: QueueService, start_master: StartMaster, tmp_path: Path
) -> None:
    module = tmp_path / "versioned.py"
    module.write_text(VERSIONED.format(version=1))
    master = start_master("--import", "versioned", "--concurrency", "1").until_serving()
    assert await (await service.enqueue("version")).get(30) == 1
    module.write_text("raise RuntimeError('half a deploy')\n")
    os.kill(master.zygotes()[0], signal.SIGKILL)

    async def is_told() -> bool:
        nodes = await service.store.nodes()
        return any(pool.problem and "half a deploy" in pool.problem for node in nodes for pool in node.pools)

    await eventually(is_told, "the node's row says why")
    result = await service.enqueue("version")
    module.write_text(VERSIONED.format(version=2))
    record = await result.wait(60)
    assert (record.result, record.attempt, record.crashes) == (2, 1, 0)


WAITS_AT_IMPORT = """
import os, time
while os.path.exists({flag!r}):
    time.sleep(0.01)
"""


@pytest.mark.fault(
    "A11", "kill -9 of a zygote, and of the next one while it imports", "no reason to call the pool broken"
)
async def test_a_zygote_killed_at_its_import_is_no_pool_that_cannot_start(
    start_master: StartMaster, tmp_path: Path
) -> None:
    flag = tmp_path / "waits"
    (tmp_path / "waits_at_import.py").write_text(WAITS_AT_IMPORT.format(flag=str(flag)))
    master = start_master("--import", "waits_at_import", "--concurrency", "1").until_serving()
    wait_until(master.workers, "there is a worker")
    flag.touch()
    [first] = master.zygotes_proper()
    os.kill(first, signal.SIGKILL)
    [second] = wait_until(lambda: [pid for pid in master.zygotes_proper() if pid != first], "the next one imports")
    os.kill(second, signal.SIGKILL)
    wait_until(lambda: "at the import; next try" in master.log, "it is told")
    master.signal(signal.SIGTERM)
    assert master.wait() == 0, master.log


CANNOT_START = """
import os
def die():
    if os.path.exists({flag!r}):
        os._exit(7)
os.register_at_fork(after_in_child=die)
"""


@pytest.mark.fault("A11", "five deaths before a worker is ready", "the pool is broken and says why; no job is charged")
async def test_a_pool_that_cannot_start_is_broken_says_why_and_charges_no_job(
    service: QueueService, start_master: StartMaster, tmp_path: Path, url: str
) -> None:
    flag = tmp_path / "broken"
    flag.touch()
    before = CANNOT_START.format(flag=str(flag))
    master = serve(start_master, *write_app(tmp_path, url, before=before))
    result = await service.enqueue(zoo.good, 1)

    async def problem() -> str | None:
        return next((pool.problem for node in await service.store.nodes() for pool in node.pools), None)

    told = await eventually(problem, "the pool counts as broken")
    assert told == "5 workers in a row ended before they were ready; the last one exited with status 7"
    assert "default is broken" in master.log
    record = await result.refresh()
    assert (record.status, record.attempt, record.crashes) == ("pending", 0, 0)
    flag.unlink()
    assert await result.get(60) == 2
    flag.touch()


async def test_a_master_none_of_whose_pools_could_start_says_so_at_its_end(
    service: QueueService, start_master: StartMaster, tmp_path: Path, url: str
) -> None:
    flag = tmp_path / "broken"
    flag.touch()
    master = serve(start_master, *write_app(tmp_path, url, before=CANNOT_START.format(flag=str(flag))))
    wait_until(lambda: "default is broken" in master.log, "the pool is broken")
    master.signal(signal.SIGTERM)
    assert master.wait() == 4
    assert "no worker could be started; pool default: " in master.log


async def test_every_process_is_gone_when_the_master_has_ended(
    service: QueueService, start_master: StartMaster
) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        master = start_master("--concurrency", "2").until_serving()
        await (await service.enqueue(zoo.good, random.randrange(100))).wait(30)
        master.signal(number)
        master.wait()
        wait_until(lambda master=master: not master.descendants(), "nothing of it is left")
