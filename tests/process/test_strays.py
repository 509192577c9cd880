"""Processes that jobs leave behind: the guilty job's end, others' do not, and nothing leaks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from litestar_queues import QueueService, TaskRequest
from litestar_queues.master import strays
from support import hard, logbook, zoo
from support.held import held_by, threads_of
from support.masters import RunningMaster
from support.waiting import wait_until

pytestmark = pytest.mark.anyio
StartMaster = Callable[..., RunningMaster]
WAYS = ("popen", "session", "system", "daemon")


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def strays_in(logbook_file: Path) -> dict[str, int]:
    """Return by way and pid of the worker what the tasks have left."""
    found: dict[str, int] = {}
    for _, worker, kind, text in (words[:4] for words in logbook.read(logbook_file)):
        if kind == "stray":
            way, _, pid = text.partition(":")
            found[f"{way} {worker}"] = int(pid)
    return found


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.fault(
    "A18",
    "double-forked daemons, sessions and shells of two jobs, one of them killed",
    "exactly the guilty one's are gone",
)
async def test_of_two_workers_with_strays_only_the_killed_ones_go(
    service: QueueService, start_master: StartMaster, logbook_file: Path, tmp_path: Path, way: str
) -> None:
    start_master("--import", "support.hard", "--concurrency", "2").until_serving()
    flag = tmp_path / "go"
    innocent = await service.enqueue(hard.start_and_wait, way, str(flag))
    [kept] = wait_until(lambda: strays_in(logbook_file).values(), "the innocent one has started its process")
    guilty = await service.enqueue(hard.start_and_hang.using(timeout=0.3, kill_grace=0.1), way)
    assert (await guilty.wait(30)).status == "failed"
    [gone] = set(strays_in(logbook_file).values()) - {kept}
    assert not is_alive(gone)
    assert is_alive(kept)
    flag.touch()
    assert (await innocent.wait(30)).status == "completed"
    assert not is_alive(kept), "it was left behind on success, and not allowed"


@pytest.mark.parametrize("way", WAYS)
async def test_what_a_job_leaves_behind_on_success_is_killed_and_its_log_says_so(
    service: QueueService, start_master: StartMaster, way: str
) -> None:
    start_master("--import", "support.hard", "--concurrency", "1").until_serving()
    result = await service.enqueue(hard.leave, way)
    assert not is_alive(await result.get(30))
    warnings = [event.message or "" for event in await result.events() if event.level == "warning"]
    assert len(warnings) == 1
    assert warnings[0].startswith("the job left 1 processes running, which were killed")


@pytest.mark.parametrize("way", WAYS)
async def test_what_is_allowed_to_live_on_survives_later_kills_and_the_master(
    service: QueueService, start_master: StartMaster, way: str
) -> None:
    master = start_master("--import", "support.hard", "--concurrency", "1").until_serving()
    pid = await (await service.enqueue(hard.leave.using(allow_background=True), way)).get(30)
    try:
        killed = await service.enqueue(hard.hang.using(timeout=0.2, kill_grace=0.1))
        assert (await killed.wait(30)).status == "failed"
        assert is_alive(pid)
        master.signal(signal.SIGKILL)
        master.wait()
        start_master("--import", "support.hard", "--concurrency", "1").until_serving()
        assert await (await service.enqueue(zoo.good, 1)).get(30) == 2
        assert is_alive(pid)
    finally:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.fault(
    "B2", "kill -9 of the master while a job has started processes of its own", "they are gone without another master"
)
async def test_what_jobs_have_started_ends_with_the_master(
    service: QueueService, start_master: StartMaster, logbook_file: Path, tmp_path: Path, way: str
) -> None:
    master = start_master("--import", "support.hard", "--concurrency", "1").until_serving()
    await service.enqueue(hard.start_and_wait, way, str(tmp_path / "never"))
    [stray] = wait_until(lambda: strays_in(logbook_file).values(), "the job has started its process")
    master.signal(signal.SIGKILL)
    master.wait()
    wait_until(lambda: not is_alive(stray), "it is gone")


@pytest.mark.fault("A17", "eleven kinds of kills, again and again", "no process, descriptor or file is left")
async def test_kills_of_every_kind_leave_nothing_behind(
    service: QueueService, start_master: StartMaster, logbook_file: Path
) -> None:
    master = start_master("--import", "support.hard", "--concurrency", "2").until_serving()
    rounds = 100 if os.environ.get("LQ_LONG") else 4
    limits = {"timeout": 0.1, "kill_grace": 0.05}
    kills = [
        TaskRequest(zoo.segfault),
        TaskRequest(zoo.exit_zero),
        TaskRequest(hard.hang.using(**limits)),
        TaskRequest(zoo.swallow_everything.using(**limits)),
        TaskRequest(zoo.stop_itself.using(**limits)),
        TaskRequest(zoo.fork_holder.using(**limits)),
        TaskRequest(zoo.close_channel.using(**limits)),
        *(TaskRequest(hard.start_and_hang.using(**limits), (way,)) for way in WAYS),
    ]

    async def one_round() -> None:
        for result in await service.enqueue_many(kills):
            assert (await result.wait(120)).status == "failed"

    def is_calm() -> bool:
        return len(master.workers()) == 2 and not master.strays()

    await one_round()
    wait_until(is_calm, "the pool is full again")
    folder = Path(service.store.folder)

    def held() -> tuple[list[str], list[str], list[str]]:
        return held_by(master.pid), held_by(master.zygotes()[0]), sorted(os.listdir(folder / "run"))

    # The master looks into /proc now and then: what it holds for a moment is not what it keeps.
    before = wait_until(lambda: (now := held()) == held() and now, "what is held stands still")
    threads = threads_of(master.pid)
    for _ in range(rounds):
        await one_round()
    wait_until(is_calm, "the pool is full again")
    wait_until(lambda: held() == before, lambda: f"nothing more is held than before: {held()} is {before}")
    # asyncio's pool of threads, in which strays are looked for, fills to its limit and no further.
    assert threads_of(master.pid) <= threads + (os.cpu_count() or 1) + 4
    assert threads_of(master.zygotes()[0]) == 1
    master.signal(signal.SIGTERM)
    assert master.wait() == 0
    assert not master.descendants()
    assert os.listdir(folder / "run") == []


@pytest.mark.fault(
    "B2",
    "kill -9 of zygote and master together while a daemon of a job lives on",
    "it is gone before the job runs again",
)
async def test_what_both_zygote_and_master_left_is_ended_by_the_next_master(
    service: QueueService, start_master: StartMaster, logbook_file: Path, tmp_path: Path
) -> None:
    master = start_master("--import", "support.hard", "--concurrency", "1").until_serving()
    flag = tmp_path / "go"
    result = await service.enqueue(hard.start_and_wait, "daemon", str(flag))
    [daemon] = wait_until(lambda: strays_in(logbook_file).values(), "the job has started its process")
    [zygote] = master.zygotes()
    master.signal(signal.SIGSTOP)  # it would end the daemon itself
    os.kill(zygote, signal.SIGKILL)
    worker = int(logbook.read(logbook_file)[0][1])
    wait_until(lambda: not is_alive(worker), "the worker is gone with its zygote")
    master.signal(signal.SIGKILL)
    master.wait()
    assert is_alive(daemon), "it has let go of everything that showed whose it is, but its cookie"
    flag.touch()
    start_master("--import", "support.hard", "--concurrency", "1")
    assert [attempt.outcome for attempt in (await result.wait(30)).attempts] == ["lost", "succeeded"]
    assert not is_alive(daemon)


@pytest.mark.fault("A19", "a process that forks and ends all the time, and a job that hangs", "it is gone with the job")
async def test_a_process_that_is_another_one_every_moment_is_ended_with_its_job(
    service: QueueService, start_master: StartMaster, logbook_file: Path
) -> None:
    master = start_master("--import", "support.hard", "--concurrency", "1").until_serving()
    hops = await service.enqueue(hard.start_and_hang.using(timeout=0.3, kill_grace=0.1), "hops")
    [attempt] = (await hops.wait(30)).attempts
    assert attempt.receipt is not None
    worker = attempt.receipt.pid
    # Nothing of the worker's session may be seen in many looks: one look could miss it.
    for _ in range(50):
        assert [pid for pid in master.strays() if session_of(pid) == worker] == []
    assert await (await service.enqueue(zoo.good, 1)).get(30) == 2


def test_strays_are_looked_for_below_who_adopts_them_or_everywhere_once_that_is_gone() -> None:
    waits = [sys.executable, "-S", "-c", "import signal; signal.pause()"]
    first, second, bystander = (subprocess.Popen(waits, start_new_session=True) for _ in range(3))
    gone = subprocess.Popen([sys.executable, "-S", "-c", ""])
    gone.wait()
    try:
        assert strays.sweep(session=first.pid, below=bystander.pid) == []
        assert strays.sweep(session=first.pid, below=os.getpid()) == [first.pid]
        assert strays.sweep(session=second.pid, below=gone.pid) == [second.pid]
        assert bystander.poll() is None
    finally:
        for process in (first, second, bystander):
            process.kill()
            process.wait()


def session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


PROBE = """
import json, sys, time
from litestar_queues.master import liveness
end = time.monotonic() + 1.5
while time.monotonic() < end:
    liveness.is_alive(sys.argv[1], "dead")
print("unharmed")
"""


async def test_those_that_look_whether_a_master_lives_do_not_take_each_other_for_it(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "dead.lock").write_text('{"pid": 1, "started": 1}')
    probes = [subprocess.Popen([sys.executable, "-c", PROBE, str(tmp_path)], stdout=subprocess.PIPE) for _ in range(3)]
    assert [probe.communicate(timeout=60)[0] for probe in probes] == [b"unharmed\n"] * 3
