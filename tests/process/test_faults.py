"""Faults that the other files do not inject: files that go away, signals, limits, and defects of our own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import resource
import shutil
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from litestar_queues import QueueService, TaskRequest
from litestar_queues.master import strays
from support import hard, logbook, runs, zoo
from support.apps import write_app
from support.masters import TESTS, RunningMaster
from support.waiting import eventually, wait_until

pytestmark = pytest.mark.anyio
StartMaster = Callable[..., RunningMaster]


@pytest.mark.unjudged("the database is gone")
@pytest.mark.parametrize("how", ["deleted", "replaced", "moved"])
@pytest.mark.fault(
    "C4", "the database is deleted, replaced or moved under a master", "noticed, exit status 75, no worker left"
)
async def test_a_master_whose_database_goes_away_ends_with_75(
    service: QueueService, start_master: StartMaster, url: str, how: str
) -> None:
    master = start_master("--concurrency", "1").until_serving()
    assert await (await service.enqueue(zoo.good, 1)).get(30) == 2
    path = Path(url.removeprefix("sqlite:///"))
    match how:
        case "deleted":
            path.unlink()
        case "moved":
            path.rename(path.with_suffix(".moved"))
        case _:
            shutil.copy(path, path.with_suffix(".copy"))
            path.with_suffix(".copy").replace(path)
    assert master.wait() == 75
    assert "replaced or deleted" in master.log
    assert not master.descendants()


@pytest.mark.fault("B9", "SIGPIPE, SIGUSR2 and SIGWINCH to the master", "it goes on")
async def test_signals_that_mean_nothing_to_a_master_do_not_end_it(
    service: QueueService, start_master: StartMaster
) -> None:
    master = start_master("--concurrency", "1").until_serving()
    for number in (signal.SIGPIPE, signal.SIGUSR2, signal.SIGWINCH):
        master.signal(number)
    assert await (await service.enqueue(zoo.good, 1)).get(30) == 2
    assert master.process.poll() is None


@pytest.mark.fault("B9", "SIGHUP to the master", "it drains")
async def test_a_hang_up_drains(service: QueueService, start_master: StartMaster) -> None:
    with hang_up(signal.SIG_DFL):
        master = start_master("--concurrency", "1").until_serving()
    assert await (await service.enqueue(zoo.good, 1)).get(30) == 2
    master.signal(signal.SIGHUP)
    assert master.wait() == 0


@pytest.mark.fault("B9", "SIGHUP to a master that was started by nohup", "it goes on")
async def test_a_hang_up_is_nothing_to_a_master_started_by_nohup(
    service: QueueService, start_master: StartMaster
) -> None:
    with hang_up(signal.SIG_IGN):
        master = start_master("--concurrency", "1").until_serving()
    master.signal(signal.SIGHUP)
    assert await (await service.enqueue(zoo.good, 1)).get(30) == 2
    assert master.process.poll() is None


@contextlib.contextmanager
def hang_up(disposition: signal.Handlers) -> Iterator[None]:
    """Let processes started in the block inherit what SIGHUP does, whoever has started the tests (nohup does too)."""
    before = signal.signal(signal.SIGHUP, disposition)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.fault(
    "B8", "Ctrl-C typed twice on a real terminal", "the jobs are handed back, and the workers never saw it"
)
async def test_ctrl_c_on_a_terminal_reaches_the_master_and_not_the_workers(
    service: QueueService, logbook_file: Path, tmp_path: Path, url: str
) -> None:
    ours, theirs = pty.openpty()
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-m", "lq", "worker", "--import", "support.zoo", "--url", url, "--concurrency", "1"]
    master = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path},
        preexec_fn=_take_terminal,
    )  # fmt: skip
    os.close(theirs)
    os.set_blocking(ours, False)
    shown = b""

    def read() -> bytes:
        nonlocal shown
        try:
            shown += os.read(ours, 65_536)
        except (BlockingIOError, OSError):
            return shown
        return shown

    wait_until(lambda: b"  reload " in read(), "the master serves")
    result = await service.enqueue(zoo.until_told.using(kill_grace=600), "long", str(tmp_path / "never"))
    [line] = wait_until(lambda: logbook.started(logbook_file, "long"), "the job has started")
    os.write(ours, b"\x03")
    wait_until(lambda: b"finishing 1 running jobs" in read(), "the master drains")
    assert Path(f"/proc/{line[1]}").exists(), "the worker goes on"
    os.write(ours, b"\x03")
    wait_until(lambda: read() is None or master.poll() is not None, "the master ends")
    assert master.returncode == 8
    record = await result.refresh()
    assert (record.status, [attempt.outcome for attempt in record.attempts]) == ("pending", ["returned"])
    os.close(ours)


def _take_terminal() -> None:
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.mark.fault(
    "B10", "the master is stopped (SIGSTOP) for a while beside another one", "its jobs are left to it, and run once"
)
async def test_the_jobs_of_a_master_that_is_stopped_are_left_to_it(
    service: QueueService, start_master: StartMaster, logbook_file: Path, tmp_path: Path
) -> None:
    flag = tmp_path / "go"
    stopped = start_master("--concurrency", "1").until_serving()
    held = await service.enqueue(zoo.until_told, "held", str(flag))
    wait_until(lambda: logbook.started(logbook_file, "held"), "it has started")
    wait_until(
        lambda: stop_between_transactions(stopped, Path(service.store.folder)), "it is stopped outside a transaction"
    )
    start_master("--concurrency", "1").until_serving()
    others = await service.enqueue_many([TaskRequest(zoo.recorded, (f"other-{n}", 0.05)) for n in range(50)])
    for other in others:  # more than two seconds, in which the other master looks for the dead
        assert (await other.wait(30)).status == "completed"
    assert (await held.refresh()).status == "running"
    flag.touch()
    stopped.signal(signal.SIGCONT)
    record = await held.wait(30)
    assert (record.status, record.attempt) == ("completed", 1)
    assert len(logbook.started(logbook_file, "held")) == 1


def stop_between_transactions(master: RunningMaster, folder: Path) -> bool:
    """Stop a master; if it holds the write lock, which nobody can take from it, let it go on and say so."""
    master.signal(signal.SIGSTOP)
    wait_until(lambda: strays.state_of(master.pid) == "T", "it is stopped")
    with (folder / "write").open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            master.signal(signal.SIGCONT)
            return False
    return True


BREAK = """
import sys
from litestar_queues.master import {module}
{kind} broken(*args, **kwargs):
    raise RuntimeError("a defect of our own")
{module}.{place} = broken
from lq.__main__ import main
sys.argv = ["lq", "worker", *sys.argv[1:]]
main()
"""


@pytest.mark.parametrize(
    ("module", "place"),
    [
        ("watch", "Watch._tick"),
        ("rounds", "Rounds._round"),
        ("ladder", "enforce"),
        ("process", "WorkerProcess._ended"),
        ("zygote", "ZygoteProcess._take"),
    ],
)
@pytest.mark.fault(
    "B13",
    "an exception in a background task or a callback of the master",
    "the master ends, loudly, and its workers with it",
)
async def test_a_defect_in_a_task_of_the_master_ends_it_and_its_workers(
    service: QueueService, tmp_path: Path, url: str, logbook_file: Path, module: str, place: str
) -> None:
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH", "")]))
    kind = "async def" if module in ("watch", "rounds", "ladder") else "def"
    mark = f"defect-{module}-{os.getpid()}"
    arguments = ["--import", "support.zoo", "--concurrency", "1", "--url", url]
    await service.enqueue(zoo.hang_in_c)
    master = subprocess.Popen(
        [sys.executable, "-c", BREAK.format(module=module, place=place, kind=kind), *arguments],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": path, "LQ_TEST_MARK": mark}, stderr=subprocess.PIPE,
    )  # fmt: skip
    _, errors = master.communicate(timeout=60)
    assert master.returncode not in (0, None)
    assert b"a defect of our own" in errors
    wait_until(lambda: not _marked(mark), "nothing of it is left")


SLOW_SWEEP = """
import sys, time
from litestar_queues.master import strays
sweep = strays.sweep
def slow(**signs):
    time.sleep(1)
    return sweep(**signs)
strays.sweep = slow
from lq.__main__ import main
sys.argv = ["lq", "worker", *sys.argv[1:]]
main()
"""


@pytest.mark.fault(
    "B7", "a drain that ends while a killed job's strays are still looked for", "the attempt is settled first"
)
async def test_a_drain_waits_until_the_jobs_it_killed_are_settled(
    service: QueueService, tmp_path: Path, url: str, logbook_file: Path
) -> None:
    result = await service.enqueue(zoo.until_told.using(kill_grace=0.0), "long", str(tmp_path / "never"))
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH", "")]))
    arguments = ["--import", "support.zoo", "--concurrency", "1", "--drain-timeout", "0", "--url", url]
    master = subprocess.Popen(
        [sys.executable, "-c", SLOW_SWEEP, *arguments], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}
    )
    wait_until(lambda: logbook.started(logbook_file, "long"), "it has started")
    master.terminate()
    assert master.wait(60) == 8
    record = await result.refresh()
    assert (record.status, [attempt.outcome for attempt in record.attempts]) == ("pending", ["returned"])


@pytest.mark.fault(
    "B5", "kill -9 of the master while a dead worker's run waits to be settled", "that start is among the attempts"
)
async def test_a_start_that_was_not_settled_when_the_master_died_is_not_forgotten(
    service: QueueService, start_master: Callable[..., RunningMaster], tmp_path: Path, url: str, logbook_file: Path
) -> None:
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH", "")]))
    arguments = ["--import", "support.zoo", "--concurrency", "1", "--url", url]
    master = subprocess.Popen(
        [sys.executable, "-c", SLOW_SWEEP, *arguments], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}
    )
    flag = tmp_path / "go"
    first = await service.enqueue(zoo.until_told, "first", str(flag))
    [line] = wait_until(lambda: logbook.started(logbook_file, "first"), "it has started")
    second = await service.enqueue(zoo.until_told, "second", str(flag))
    os.kill(int(line[1]), signal.SIGKILL)
    wait_until(lambda: logbook.started(logbook_file, "second"), "the next worker has taken the place, and the cell")
    master.kill()
    master.wait()
    start_master("--concurrency", "1")
    flag.touch()
    assert [attempt.outcome for attempt in (await first.wait(30)).attempts] == ["lost", "succeeded"]
    assert [attempt.outcome for attempt in (await second.wait(30)).attempts] == ["lost", "succeeded"]


def _marked(mark: str) -> list[str]:
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and mark.encode() in Path(f"/proc/{name}/environ").read_bytes():
                found.append(name)
        except OSError:
            continue
    return found


@pytest.mark.fault(
    "B14",
    "no descriptor is left when a worker is to be made (RLIMIT_NOFILE)",
    "tried again later; the job is not charged",
)
async def test_a_master_without_descriptors_makes_its_worker_later(
    service: QueueService, start_master: StartMaster, logbook_file: Path
) -> None:
    master = start_master("--concurrency", "1").until_serving()
    await (await service.enqueue(zoo.recorded, "before")).wait(30)
    [line] = logbook.started(logbook_file, "before")
    soft, hard_limit = resource.prlimit(master.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(master.pid, resource.RLIMIT_NOFILE, (8, hard_limit))
    os.kill(int(line[1]), signal.SIGKILL)
    wait_until(lambda: "cannot start a worker: could not be made" in master.log, "it says so")
    resource.prlimit(master.pid, resource.RLIMIT_NOFILE, (soft, hard_limit))
    record = await (await service.enqueue(zoo.recorded, "after")).wait(30)
    assert (record.status, record.attempt, record.crashes) == ("completed", 1, 0)


NO_FORK = """
import errno, os
from litestar_queues.worker import zygote
fork = zygote._fork
def refuse():
    if os.path.exists({flag!r}):
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
    return fork()
zygote._fork = refuse
"""


@pytest.mark.fault("B15", "fork fails with EAGAIN", "tried again later; the job is not charged")
async def test_a_fork_that_fails_is_tried_again(
    service: QueueService, start_master: StartMaster, tmp_path: Path, url: str
) -> None:
    flag = tmp_path / "no-fork"
    flag.touch()
    arguments = write_app(tmp_path, url, before=NO_FORK.format(flag=str(flag)))
    master = start_master(*arguments, serve=None, url=None).until_serving()
    result = await service.enqueue(zoo.good, 1)
    wait_until(lambda: "could not be forked: [Errno 11]" in master.log, "it says so")
    flag.unlink()
    record = await result.wait(30)
    assert (record.status, record.attempt) == ("completed", 1)


@pytest.mark.fault(
    "A14", "a task writes garbage into its worker's channels", "killed, counted as a crash; the master is unharmed"
)
@pytest.mark.fault(
    "A16", "a task reports the end of another job (forged frame)", "killed; the other job is not touched"
)
@pytest.mark.parametrize("what", ["garbage", "forged", "empty"])
async def test_what_is_no_report_of_the_run_kills_its_worker_and_nothing_else(
    service: QueueService, start_master: StartMaster, logbook_file: Path, tmp_path: Path, what: str
) -> None:
    master = start_master("--import", "support.hard", "--concurrency", "2").until_serving()
    flag = tmp_path / "go"
    victim = await service.enqueue(zoo.until_told, "victim", str(flag))
    wait_until(lambda: logbook.started(logbook_file, "victim"), "the victim runs")
    record = await (await service.enqueue(hard.talks_nonsense, what, victim.number)).wait(30)
    assert (record.status, record.crashes) == ("failed", 3)
    assert "protocol error" in master.log
    flag.touch()
    record = await victim.wait(30)
    assert (record.status, record.result, record.attempt) == ("completed", "victim", 1)


@pytest.mark.fault(
    "A8", "a task ignores SIGTERM and replaces the handlers of our signals", "killed at timeout + grace all the same"
)
@pytest.mark.fault("A19", "a task forks 300 processes and hangs", "all are gone")
@pytest.mark.fault("A28", "a task uses up its descriptors", "it fails, and nothing else")
@pytest.mark.fault("A25", "endless recursion in a task", "a failed attempt; the worker lives")
@pytest.mark.fault(
    "A26", "a task limits its address space (RLIMIT_AS) and meets the limit", "MemoryError, a failed attempt"
)
@pytest.mark.fault("A4", "KeyboardInterrupt and BaseException in a task", "a failed attempt; the worker lives")
async def test_what_a_task_does_to_its_own_process_stays_there(
    service: QueueService, start_master: StartMaster, logbook_file: Path
) -> None:
    master = start_master("--import", "support.hard", "--concurrency", "2").until_serving()
    limits = {"timeout": 1.0, "kill_grace": 0.1}
    cases = {
        "deaf": (hard.deaf.using(**limits), "TimeoutError"),
        "fork bomb": (hard.fork_bomb.using(timeout=3.0, kill_grace=0.1), "TimeoutError"),
        "descriptors": (hard.use_up_descriptors, "OSError"),
        "recursion": (hard.recurse, "RecursionError"),
        "address space": (hard.meet_address_limit, "MemoryError"),
        "interrupt": (hard.interrupt, "KeyboardInterrupt"),
        "base": (hard.raise_base, "BaseException"),
    }
    results = {name: await service.enqueue(task) for name, (task, _) in cases.items()}
    good = await service.enqueue_many([TaskRequest(zoo.good, (n,)) for n in range(50)])
    for name, (_, error) in cases.items():
        record = await results[name].wait(60)
        assert (name, record.status, record.failure and record.failure.type) == (name, "failed", error)
    assert [await each.get(30) for each in good] == [n + 1 for n in range(50)]
    wait_until(lambda: not master.strays(), "nothing they started is left")


@pytest.mark.fault(
    "A9",
    "poison among good jobs: they kill their worker every time",
    "failed after 3 attempts; every good job completes once",
)
@pytest.mark.fault("A10", "poison on the last allowed attempt", "failed, not left running")
async def test_poison_is_failed_and_good_jobs_are_not_harmed(
    service: QueueService, start_master: StartMaster, logbook_file: Path
) -> None:
    start_master("--import", "support.hard", "--concurrency", "2").until_serving()
    requests = [
        TaskRequest(zoo.exit_zero) if n % 20 == 7 else TaskRequest(hard.quick, (f"good-{n}",)) for n in range(400)
    ]
    results = await service.enqueue_many(requests)
    for number, result in enumerate(results):
        record = await result.wait(60)
        if number % 20 == 7:
            assert (record.status, record.attempt, record.crashes) == ("failed", 3, 3)
        else:
            assert (record.status, record.crashes) == ("completed", 0)
            assert len(logbook.started(logbook_file, f"good-{number}")) == record.attempt == 1


@pytest.mark.fault("A29", "a thread outlives its job and speaks during the next one", "its words belong to its own job")
async def test_the_words_of_a_thread_that_is_left_belong_to_its_own_job(
    service: QueueService, start_master: StartMaster, tmp_path: Path
) -> None:
    start_master("--import", "support.hard", "--concurrency", "1").until_serving()
    flag = tmp_path / "speak"
    first = await service.enqueue(hard.leave_a_speaker, str(flag))
    await first.wait(30)
    second = await service.enqueue(hard.wait_for_word, str(flag))
    await second.wait(30)

    async def has_spoken() -> bool:
        return "from the thread" in [event.message for event in await first.events()]

    await eventually(has_spoken, "the word is kept")
    assert "from the thread" not in [event.message for event in await second.events()]


@pytest.mark.fault(
    "A31", "an application that takes long to import", "not counted as the job's time; the job waits and runs once"
)
async def test_a_slow_import_is_not_the_jobs_time(
    service: QueueService, start_master: StartMaster, tmp_path: Path, url: str
) -> None:
    result = await service.enqueue(zoo.good.using(timeout=0.5), 1)
    start_master(*write_app(tmp_path, url, before="import time\ntime.sleep(1)\n"), serve=None, url=None)
    record = await result.wait(30)
    assert (record.status, record.attempt) == ("completed", 1)


@pytest.mark.fault("A15", "a process says 2,000 lines and dies in the same moment", "all of them are kept, in order")
async def test_everything_that_was_said_before_a_death_is_kept_in_order(
    service: QueueService, start_master: StartMaster
) -> None:
    start_master("--import", "support.hard", "--concurrency", "1", "--log-level", "none").until_serving()
    result = await service.enqueue(hard.shout_and_die, 2_000)
    record = await result.wait(60)
    assert (record.status, record.crashes) == ("failed", 3)
    for attempt in (1, 2, 3):
        said = [
            event.message for event in await result.events() if event.type == "task.log" and event.attempt == attempt
        ]
        assert said == [f"word {number}" for number in range(2_000)]


PATIENT = """
import sys
from litestar_queues.master import timekeeper
timekeeper.DAWDLE = 3600 * 1_000_000_000
from lq.__main__ import main
sys.argv = ["lq", "worker", *sys.argv[1:]]
main()
"""


@pytest.mark.fault(
    "B6", "SIGTERM while jobs wait at a worker whose job hangs", "they are given back by the drain itself, at once"
)
async def test_a_drain_takes_back_what_waits_behind_a_job_that_goes_on(
    service: QueueService, tmp_path: Path, url: str
) -> None:
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH", "")]))
    arguments = ["--import", "support.zoo", "--concurrency", "1", "--drain-timeout", "60", "--url", url]
    # Nobody else takes them back: the look at those who wait in vain would do so after 50 ms.
    master = subprocess.Popen(
        [sys.executable, "-c", PATIENT, *arguments], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}
    )
    flag = tmp_path / "hang"
    short = [TaskRequest(zoo.sometimes_hangs, (str(flag), number)) for number in range(1, 101)]
    for result in await service.enqueue_many(short):
        await result.wait(30)
    flag.touch()
    hangs, *rest = await service.enqueue_many([TaskRequest(zoo.sometimes_hangs, (str(flag), 0)), *short[:20]])

    async def counts(**wanted: int) -> bool:
        found = await service.get_statistics()
        return all(getattr(found, status) == count for status, count in wanted.items())

    await eventually(lambda: counts(running=21), "all are at the worker")
    wait_until(lambda: hangs.number in {line.job for line in runs.read(tmp_path / "runs")}, "the first has begun")
    master.terminate()
    await eventually(lambda: counts(running=1, pending=20), "what has not begun is given back")
    assert (await hangs.refresh()).status == "running"
    master.terminate()
    assert master.wait(30) == 8
    assert {record.attempt for record in [await result.refresh() for result in rest]} == {0}


LATE_EXIT = """
import atexit, os, sys, time
from lq.__main__ import main
def late():
    print("all but gone", flush=True)
    while not os.path.exists("leave"):
        time.sleep(0.01)
atexit.register(late)
sys.argv = ["lq", "worker", *sys.argv[1:]]
main()
"""


@pytest.mark.fault("B8", "a signal that comes when all is over", "the exit status is that of a stop in good order")
async def test_a_signal_that_comes_at_the_very_end_does_not_turn_it_into_a_death(tmp_path: Path, url: str) -> None:
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH", "")]))
    log = tmp_path / "log"
    output = log.open("wb")
    master = subprocess.Popen(
        [sys.executable, "-c", LATE_EXIT, "--import", "support.zoo", "--url", url],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        stdout=output,
        stderr=subprocess.STDOUT,
    )
    output.close()
    wait_until(lambda: "  stop " in log.read_text(), "it serves")
    master.terminate()
    wait_until(lambda: "all but gone" in log.read_text(), "it has stopped")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        master.send_signal(number)
    (tmp_path / "leave").touch()
    assert master.wait(30) == 0
