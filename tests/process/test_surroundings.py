"""Masters in other people's surroundings: service managers, containers, shells, and what an import leaves open."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from litestar_queues import QueueService
from litestar_queues.master import strays
from support import hard, logbook, zoo
from support.apps import write_app
from support.masters import MARK, TESTS, RunningMaster, marked
from support.waiting import wait_until

pytestmark = pytest.mark.anyio
StartMaster = Callable[..., RunningMaster]


class Shell:
    """A shell that execs ``lq worker``, or starts it in namespaces of its own."""

    def __init__(self, folder: Path, url: str, script: str, *arguments: str) -> None:
        self.mark = f"{folder.name}-{os.urandom(4).hex()}"
        self.log_file = folder / f"shell-{self.mark[-8:]}.log"
        path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH", "")]))
        worker = [sys.executable, "-m", "lq", "worker", "--import", "support.zoo", "--import", "support.hard"]
        self.process = subprocess.Popen(
            ["bash", "-c", script, "bash", *worker, "--url", url, *(arguments or ("-c", "1"))],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path, MARK: self.mark, "LOG": str(self.log_file)},
            start_new_session=True,
        )

    @property
    def log(self) -> str:
        return self.log_file.read_text() if self.log_file.exists() else ""

    def until_serving(self) -> None:
        wait_until(lambda: "  stop " in self.log or self.process.poll() is not None, f"it serves: {self.log}")
        assert self.process.poll() is None, self.log

    def titled(self, title: str) -> list[int]:
        found = []
        for pid in marked(self.mark):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(title.encode()):
                    found.append(pid)
        return found


@pytest.fixture
def shell(tmp_path: Path, url: str) -> Iterator[Callable[..., Shell]]:
    shells: list[Shell] = []

    def start(script: str, *arguments: str) -> Shell:
        shells.append(Shell(tmp_path, url, script, *arguments))
        return shells[-1]

    yield start
    for each in shells:
        for pid in [*marked(each.mark), each.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        each.process.wait()


def can_unshare() -> bool:
    done = subprocess.run(["unshare", "-pf", "--mount-proc", "true"], check=False, capture_output=True)
    return done.returncode == 0


@pytest.mark.fault(
    "B17", "two masters in two containers (PID namespaces) on one database", "neither takes the other for dead"
)
async def test_a_master_in_another_container_is_not_taken_for_dead(
    service: QueueService, shell: Callable[..., Shell], start_master: StartMaster, tmp_path: Path, logbook_file: Path
) -> None:
    if not can_unshare():
        pytest.skip("this user may make no PID namespace")
    contained = shell('exec unshare -pf --mount-proc "$@" >$LOG 2>&1')
    contained.until_serving()
    flag = tmp_path / "go"
    result = await service.enqueue(zoo.until_told, "contained", str(flag))
    wait_until(lambda: logbook.started(logbook_file, "contained"), "it runs")
    master = start_master("--concurrency", "1").until_serving()
    for number in range(5):  # it looks for the dead every two seconds, and at its start
        assert await (await service.enqueue(zoo.good, number)).get(30) == number + 1
    assert "adopted" not in master.log
    flag.touch()
    assert [attempt.outcome for attempt in (await result.wait(30)).attempts] == ["succeeded"]


@pytest.mark.fault(
    "B6", "SIGTERM to every process of the service at once (systemd)", "drained as by SIGTERM to the master"
)
async def test_a_signal_to_all_processes_of_the_service_is_the_masters_to_answer(
    service: QueueService, start_master: StartMaster, tmp_path: Path, logbook_file: Path
) -> None:
    master = start_master("--concurrency", "2").until_serving()
    flag = tmp_path / "go"
    result = await service.enqueue(zoo.until_told, "all", str(flag))
    wait_until(lambda: logbook.started(logbook_file, "all"), "it runs")
    for number in (signal.SIGUSR1, signal.SIGTERM):
        for pid in [*master.zygotes(), *(master.workers() if number == signal.SIGTERM else ())]:
            os.kill(pid, number)
    master.signal(signal.SIGTERM)
    wait_until(lambda: "stopping" in master.log, "it drains")
    flag.touch()
    assert master.wait() == 0
    assert [attempt.outcome for attempt in (await result.wait(30)).attempts] == ["succeeded"]


@pytest.mark.fault("B7", "kill -9 of the zygote during a drain", "the exit status says that jobs were handed back")
async def test_a_zygote_that_is_killed_during_a_drain_is_told_by_the_exit_status(
    service: QueueService, start_master: StartMaster, tmp_path: Path, logbook_file: Path
) -> None:
    master = start_master("--concurrency", "1").until_serving()
    await service.enqueue(zoo.until_told, "drained", str(tmp_path / "never"))
    wait_until(lambda: logbook.started(logbook_file, "drained"), "it runs")
    [zygote] = master.zygotes()
    master.signal(signal.SIGTERM)
    wait_until(lambda: "stopping" in master.log, "it drains")
    os.kill(zygote, signal.SIGKILL)
    assert master.wait() == 8


@pytest.mark.fault("B9", "nobody reads what the master prints: its pipe is full", "jobs run, time out, and it stops")
async def test_a_master_whose_words_nobody_reads_goes_on(
    service: QueueService, shell: Callable[..., Shell], tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "words")
    held = os.open(tmp_path / "words", os.O_RDWR)
    try:
        os.set_blocking(held, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(held, b"x" * 1024)
        master = shell('exec "$@" 2>words')
        hanging = await service.enqueue(zoo.hang_in_c)
        assert (await hanging.wait(30)).status == "failed"
        master.process.terminate()
        wait_until(lambda: master.process.poll() is not None, "it ends")
        assert master.process.returncode == 0
    finally:
        os.close(held)


@pytest.mark.parametrize(
    "script", ["trap '' CHLD; exec \"$@\" >$LOG 2>&1", 'exec env --block-signal=CHLD,TERM,USR1 "$@" >$LOG 2>&1']
)
@pytest.mark.fault(
    "B9", "SIGCHLD ignored, signals blocked by who started the master", "deaths are heard of all the same"
)
async def test_a_master_whose_parent_ignored_or_blocked_signals_hears_of_deaths(
    service: QueueService, shell: Callable[..., Shell], script: str
) -> None:
    master = shell(script)
    master.until_serving()
    assert await (await service.enqueue(zoo.good, 1)).get(30) == 2
    for title in ("lq: worker", "lq: zygote"):
        [pid] = wait_until(lambda title=title: master.titled(title), "it is there")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda title=title, pid=pid: set(master.titled(title)) - {pid}, "there is another")
        assert await (await service.enqueue(zoo.good, 1)).get(30) == 2
    master.process.terminate()
    wait_until(lambda: master.process.poll() is not None, "it ends")
    assert master.process.returncode == 0


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&-", "<&- >&- 2>&-"])
@pytest.mark.fault("B9", "a master with closed standard descriptors", "it serves, and ends in good order")
async def test_a_master_without_standard_descriptors_serves_and_ends_in_good_order(
    service: QueueService, shell: Callable[..., Shell], closed: str
) -> None:
    log = "" if "2>&-" in closed else "2>$LOG"
    master = shell(f'exec "$@" {log} {closed}')
    assert await (await service.enqueue(zoo.good, 1)).get(30) == 2
    master.process.terminate()
    wait_until(lambda: master.process.poll() is not None, "it ends")
    assert master.process.returncode == 0, master.log


@pytest.mark.fault(
    "B14", "few descriptors, and many workers", "the limit is raised, or the number refused with the limit named"
)
async def test_the_limit_of_descriptors_is_raised_or_too_many_workers_are_refused(
    service: QueueService, shell: Callable[..., Shell]
) -> None:
    raised = shell('ulimit -Sn 64; exec "$@" >$LOG 2>&1', "-c", "8")
    raised.until_serving()
    facts = await (await service.enqueue(hard.process_facts)).get(30)
    assert facts["descriptors"] == 64, "jobs have the limit that they would have"
    raised.process.terminate()
    assert raised.process.wait(30) == 0
    refused = shell('ulimit -n 128; exec "$@" >$LOG 2>&1', "-c", "40")
    assert refused.process.wait(30) == 4
    assert "40 worker processes need 480 descriptors, and this process may open 128" in refused.log


TEMPORARY = """
import os, tempfile
FOLDER = tempfile.TemporaryDirectory(prefix="lq-import-")
os.environ["LQ_FOLDER"] = FOLDER.name
"""


async def test_what_the_import_has_made_outlives_the_workers_and_ends_with_the_zygote(
    service: QueueService, start_master: StartMaster, tmp_path: Path, url: str
) -> None:
    app = write_app(tmp_path, url, worker="max_concurrency=1, max_jobs=1", before=TEMPORARY)
    master = start_master(*app, serve=None, url=None).until_serving()
    folders = [await (await service.enqueue(hard.use_folder)).get(30) for _ in range(3)]
    assert len(set(folders)) == 1
    assert Path(folders[0]).is_dir()
    master.signal(signal.SIGTERM)
    assert master.wait() == 0
    assert not Path(folders[0]).exists()


THREAD = "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,)).start()"
POOL = "import multiprocessing, time\nPOOL = multiprocessing.get_context('fork').Pool(2)"


@pytest.mark.parametrize("before", [THREAD, POOL], ids=["thread", "pool"])
async def test_what_the_import_has_started_keeps_no_zygote(
    service: QueueService, start_master: StartMaster, tmp_path: Path, url: str, before: str
) -> None:
    master = start_master(*write_app(tmp_path, url, before=before), serve=None, url=None).until_serving()
    for _ in range(2):
        [zygote] = master.zygotes_proper()
        master.signal(signal.SIGUSR1)
        wait_until(lambda zygote=zygote: master.zygotes_proper() not in ([zygote], []), "another has taken over")
        assert await (await service.enqueue(zoo.good, 1)).get(30) == 2
        wait_until(lambda: len(master.zygotes_proper()) == 1, "the old one has ended")
    master.signal(signal.SIGKILL)
    master.wait()
    wait_until(lambda: not master.descendants(), "nothing is left")


async def test_what_is_closed_at_the_import_keeps_no_worker_from_being_forked(
    service: QueueService, start_master: StartMaster, tmp_path: Path, url: str
) -> None:
    start_master(
        *write_app(tmp_path, url, before="import sys\nsys.stdout.close()"), serve=None, url=None
    ).until_serving()
    assert await (await service.enqueue(zoo.good, 1)).get(30) == 2


async def test_programs_and_forks_of_a_job_are_ended_by_the_usual_signals(
    service: QueueService, start_master: StartMaster
) -> None:
    start_master("--import", "support.hard", "--concurrency", "1").until_serving()
    ends = await (await service.enqueue(hard.signal_children)).get(30)
    assert ends == {"program SIGINT": -2, "program SIGHUP": -1, "fork SIGTERM": -15, "fork SIGHUP": -1}


@pytest.mark.parametrize(
    ("how", "slots"), [("popen", 4), ("multiprocessing", 1), ("multiprocessing", 2), ("speaks", 1)]
)
async def test_what_is_allowed_to_live_on_does_whatever_it_is(
    service: QueueService, start_master: StartMaster, tmp_path: Path, url: str, how: str, slots: int
) -> None:
    app = write_app(tmp_path, url, worker=f"max_concurrency=1, slots={slots}")
    start_master(*app, serve=None, url=None).until_serving()
    result = await service.enqueue(hard.leave.using(allow_background=True), how)
    pid = await result.get(30)
    try:
        for number in range(3):
            after = await service.enqueue(hard.pid_of_worker)
            assert await after.get(30) != (await result.refresh()).attempts[0].receipt.pid  # type: ignore[union-attr]
            assert [event.message for event in await after.events() if event.level == "warning"] == [], number
        if how == "speaks":
            said = tmp_path / "said"
            count = len(said.read_text()) if said.exists() else 0
            wait_until(lambda: said.exists() and len(said.read_text()) > count + 3, "it goes on, and nobody listens")
        assert strays.state_of(pid) not in (None, "Z")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert (await result.refresh()).status == "completed"


async def test_pythons_own_helper_of_shared_memory_is_nobodys_leftover(
    service: QueueService, start_master: StartMaster
) -> None:
    start_master("--import", "support.hard", "--concurrency", "1").until_serving()
    results = [await service.enqueue(hard.share_memory) for _ in range(3)]
    assert len({await result.get(30) for result in results}) == 1
    said = [event.message for result in results for event in await result.events() if event.level]
    assert said == []


YOUNG = """
import multiprocessing.resource_tracker as tracker, subprocess, sys
from litestar_queues.worker import leftovers
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
tracker._resource_tracker._pid = child.pid
print(leftovers.end_all(), child.poll())
child.kill()
"""


def test_pythons_own_helper_is_known_before_it_has_its_own_command() -> None:
    done = subprocess.run([sys.executable, "-c", YOUNG], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["[]", "None"]


CHATTY = """
import threading
def chat():
    while True:
        print("chat")
threading.Thread(target=chat, daemon=True).start()
"""


async def test_a_thread_of_the_import_that_prints_without_end_fills_no_screen(
    service: QueueService, start_master: StartMaster, tmp_path: Path, url: str
) -> None:
    master = start_master(*write_app(tmp_path, url, before=CHATTY), serve=None, url=None).until_serving()
    assert await (await service.enqueue(zoo.good, 1)).get(30) == 2
    wait_until(lambda: "no more are shown" in master.log, "it is cut off")
    assert master.log.count("chat\n") <= 1_000


SLOW_IMPORT = "import time, pathlib\nwhile pathlib.Path('slow').exists():\n    time.sleep(0.01)\n"


async def test_a_reload_that_is_asked_for_during_an_import_is_not_lost(
    service: QueueService, start_master: StartMaster, tmp_path: Path, url: str
) -> None:
    master = start_master(*write_app(tmp_path, url, before=SLOW_IMPORT), serve=None, url=None).until_serving()
    (tmp_path / "slow").touch()
    master.signal(signal.SIGUSR1)
    wait_until(lambda: len(master.zygotes_proper()) == 2, "a second one imports")
    hanging = max(master.zygotes_proper())
    write_app(tmp_path, url, before="import os\nos.environ['LQ_FOLDER'] = '/'")
    master.signal(signal.SIGUSR1)
    wait_until(lambda: "gives up its import" in master.log and "reload" in master.log, "the newest code is taken")
    wait_until(lambda: hanging not in master.zygotes_proper(), "the import that hung was given up")

    async def is_new() -> bool:
        return (await (await service.enqueue(hard.environment, "LQ_FOLDER")).get(30)) == "/"

    while not await is_new():
        continue


HANGING_FORK = """
import os, pathlib, time

def hang_once():
    try:
        pathlib.Path("hangs").unlink()
    except FileNotFoundError:
        return
    time.sleep(600)

os.register_at_fork(after_in_child=hang_once)
"""


async def test_a_worker_that_hangs_before_it_is_ready_is_killed_and_replaced(
    service: QueueService, start_master: StartMaster, tmp_path: Path, url: str
) -> None:
    (tmp_path / "hangs").touch()
    result = await service.enqueue(zoo.good, 1)
    master = start_master(*write_app(tmp_path, url, before=HANGING_FORK), serve=None, url=None).until_serving()
    record = await result.wait(30)
    assert (record.status, record.attempt, record.crashes) == ("completed", 1, 0)
    assert "was not ready within 10 s of its fork" in master.log


async def test_a_zygote_that_is_silent_for_a_while_costs_no_running_job(
    service: QueueService, start_master: StartMaster, tmp_path: Path, logbook_file: Path
) -> None:
    master = start_master("--concurrency", "2").until_serving()
    flag = tmp_path / "go"
    well = await service.enqueue(zoo.until_told, "well", str(flag))
    killed = await service.enqueue(zoo.until_told, "killed", str(flag))
    [line] = wait_until(lambda: logbook.started(logbook_file, "killed"), "both run")
    wait_until(lambda: logbook.started(logbook_file, "well"), "both run")
    [zygote] = master.zygotes()
    os.kill(zygote, signal.SIGSTOP)
    os.kill(int(line[1]), signal.SIGKILL)
    wait_until(lambda: "its zygote has not said how" in master.log, "the master goes on without its word")
    os.kill(zygote, signal.SIGCONT)
    flag.touch()
    assert [attempt.outcome for attempt in (await well.wait(30)).attempts] == ["succeeded"]
    assert [attempt.outcome for attempt in (await killed.wait(30)).attempts] == ["crashed", "succeeded"]
    assert master.zygotes_proper() == [zygote]
