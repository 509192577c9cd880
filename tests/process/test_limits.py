"""Recycling, limits of memory, niceness, and what an attempt has cost."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from litestar_queues import QueueService, TaskRequest
from litestar_queues.master import exit_status
from litestar_queues.master.exit_status import in_words
from support import hard, talkers, zoo
from support.apps import write_app
from support.masters import RunningMaster

pytestmark = pytest.mark.anyio
StartMaster = Callable[..., RunningMaster]
MEBIBYTE = 1024 * 1024


@pytest.fixture
def serve(start_master: StartMaster, tmp_path: Path, url: str) -> Callable[..., RunningMaster]:
    def serve(**settings: str) -> RunningMaster:
        return start_master(*write_app(tmp_path, url, **settings), serve=None, url=None).until_serving()

    return serve


@pytest.mark.fault("A30", "max_jobs", "replaced after exactly so many")
@pytest.mark.fault("A32", "a job changes its process", "with max_jobs=1 the next job has a new one")
async def test_a_worker_is_replaced_after_max_jobs(service: QueueService, serve: Callable[..., RunningMaster]) -> None:
    serve(worker="max_concurrency=1, max_jobs=10")
    results = await service.enqueue_many([TaskRequest(hard.compute, (0.0,))] * 100)
    pids = [await result.get(30) for result in results]
    assert {pids.count(pid) for pid in pids} == {10}
    assert {(await result.refresh()).attempt for result in results} == {1}


@pytest.mark.fault("A30", "a slow leak", "replaced between jobs, never during one")
async def test_a_worker_that_has_grown_is_replaced_between_jobs(
    service: QueueService, serve: Callable[..., RunningMaster]
) -> None:
    serve(worker="max_concurrency=1, max_rss='150MiB'")
    pids = [await (await service.enqueue(hard.leak, 60)).get(30) for _ in range(6)]
    assert len(set(pids)) == 3
    assert max(pids.count(pid) for pid in pids) == 2


@pytest.mark.parametrize("slots", [1, 4])
async def test_a_job_above_its_memory_limit_is_killed_and_its_attempt_says_so(
    service: QueueService, serve: Callable[..., RunningMaster], slots: int
) -> None:
    serve(worker=f"max_concurrency=1, slots={slots}")
    greedy = await service.enqueue(hard.use_memory.using(max_rss="200MiB", retries=1, retry_backoff=0.01), 400)
    record = await greedy.wait(30)
    assert (record.status, record.retry_count) == ("failed", 2)
    assert [attempt.outcome for attempt in record.attempts] == ["over_memory", "over_memory"]
    assert "above its limit of 200 MiB" in (record.error or "")
    [first, _] = record.attempts
    assert first.receipt is not None
    assert (first.receipt.rss or 0) > 200 * MEBIBYTE
    assert await (await service.enqueue(zoo.good, 1)).get(30) == 2


async def test_workers_of_a_pool_are_as_nice_as_it_says(
    service: QueueService, serve: Callable[..., RunningMaster]
) -> None:
    serve(pools="PoolConfig(name='kind', queues=('kind',), nice=7),")
    usual = await (await service.enqueue(hard.process_facts)).get(30)
    nice = await (await service.enqueue(hard.process_facts.using(queue="kind"))).get(30)
    assert nice["nice"] - usual["nice"] == 7


async def test_an_attempt_tells_its_cpu_time_and_memory(service: QueueService, start_master: StartMaster) -> None:
    start_master("--import", "support.hard", "--concurrency", "1").until_serving()
    computing = await service.enqueue(hard.compute, 0.2)
    sleeping = await service.enqueue(hard.nap, 0.2)
    await computing.wait(30)
    await sleeping.wait(30)
    [computed] = await service.store.attempts(computing.number)
    [slept] = await service.store.attempts(sleeping.number)
    assert computed.receipt is not None
    assert slept.receipt is not None
    assert 200_000 <= (computed.receipt.cpu or 0) < 10 * 200_000
    assert (slept.receipt.cpu or 0) < 100_000
    assert 10 * MEBIBYTE < (computed.receipt.rss or 0) < 500 * MEBIBYTE


@pytest.mark.fault("A27", "SIGKILL while the kernel's counter of out-of-memory kills rose", "the reason says so")
async def test_a_death_is_put_into_words_with_its_likely_reason() -> None:
    assert in_words(9) == "was killed by SIGKILL (from outside)"
    assert in_words(9, by_us=True) == "was killed by SIGKILL"
    assert in_words(9, out_of_memory=lambda: True) == (
        "was killed by SIGKILL (by the kernel: the machine or the container is out of memory)"
    )
    assert in_words(11) == "was killed by SIGSEGV"
    assert in_words(7 << 8) == "exited with status 7"


async def test_a_limit_is_not_charged_for_the_memory_that_an_earlier_job_has_left(
    service: QueueService, serve: Callable[..., RunningMaster]
) -> None:
    serve(worker="max_concurrency=1")
    before = await (await service.enqueue(hard.leak, 300)).get(30)
    limited = await service.enqueue(hard.process_facts.using(max_rss="200MiB"))
    record = await limited.wait(30)
    assert (record.status, record.attempt) == ("completed", 1)
    assert record.result["pid"] != before


async def test_an_old_out_of_memory_kill_is_not_the_reason_of_a_new_death(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = tmp_path / "memory.events"
    events.write_text("low 0\noom_kill 3\n")
    monkeypatch.setattr(exit_status, "_cgroup_files", lambda: [events])
    killer = exit_status.OutOfMemory()
    events.write_text("low 0\noom_kill 4\n")
    assert [killer.has_struck(), killer.has_struck()] == [True, True], "two of its victims die one after the other"
    killer.sample()
    assert killer.has_struck(), "a second has passed: the death may be heard of late"
    killer.sample()
    assert not killer.has_struck(), "two have passed"


@pytest.mark.fault(
    "A16", "a report forged by a job, of a year that no calendar has", "its worker is ended; all is shown"
)
async def test_whatever_jobs_say_the_screens_show_it(
    service: QueueService, start_master: StartMaster, url: str
) -> None:
    start_master("--concurrency", "1", serve="support.talkers").until_serving()
    odd = await service.enqueue(talkers.odd_events)
    forged = await service.enqueue(talkers.forges_time.using(timeout=20))
    assert (await odd.wait(30)).status == "completed"
    assert (await forged.wait(30)).status == "failed"
    assert f"#{forged.number}\ttalkers.forges_time" in lq(url, "inspect")
    for result in (odd, forged):
        assert lq(url, "inspect", str(result.number)).startswith(f"# #{result.number}  talkers.")


def lq(url: str, *arguments: str) -> str:
    command = [sys.executable, "-m", "lq", *arguments, "--url", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
