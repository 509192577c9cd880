"""Tasks for the process pool: strays, memory, threads, blocked loops. Imported by real workers."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from itertools import repeat
from multiprocessing import shared_memory
from pathlib import Path

import msgspec

from litestar_queues import INJECTED, Secret, Snooze, TaskExecutionContext, wire
from litestar_queues.events import require_current_task_context
from litestar_queues.master import strays
from litestar_queues.worker import slots
from support import logbook
from support.runs import task

SLEEPER = [sys.executable, "-S", "-c", "import signal; signal.pause()"]


@task
def quick(name: str, seconds: float = 0.0) -> str:
    """Take no time, and write down the start only."""
    logbook.write("start", name)
    if seconds:
        time.sleep(seconds)
    return name


@task
def hang(name: str = "hang") -> None:
    logbook.write("start", name)
    deque(repeat(None), maxlen=0)


@task
def start_and_hang(how: str) -> None:
    """Leave a process behind in one of the ways there are, then hang in C."""
    logbook.write("stray", f"{how}:{_leave(how)}")
    deque(repeat(None), maxlen=0)


@task
def start_and_wait(how: str, flag: str) -> None:
    logbook.write("stray", f"{how}:{_leave(how)}")
    while not os.path.exists(flag):
        time.sleep(0.005)


@task
def leave(how: str) -> int:
    """Leave a process behind, and succeed."""
    return _leave(how)


def _leave(how: str) -> int:
    match how:
        case "popen":
            return subprocess.Popen(SLEEPER).pid
        case "session":
            return subprocess.Popen(SLEEPER, start_new_session=True).pid
        case "multiprocessing":
            process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,))
            process.start()
            return process.pid or 0
        case "speaks":
            return subprocess.Popen(
                ["sh", "-c", "while :; do echo said; echo said >&2; echo . >>said; sleep 0.05; done"]
            ).pid
        case "hops":  # several: one may be seen by chance
            pids = [_hopper() for _ in range(8)]
            return pids[0]
        case "system":
            file = f"/tmp/lq-test-{os.getpid()}-{time.monotonic_ns()}"
            os.system(f"sleep 1000 & echo $! > {file}")
            pid = int(Path(file).read_text())
            os.unlink(file)
            return pid
        case _:
            return _daemon()


def _hopper() -> int:
    """Start a process that is another one every moment: it forks, and ends."""
    pid = os.fork()
    if pid == 0:
        while True:
            if os.fork():
                os._exit(0)
    return pid


def _daemon() -> int:
    """Fork twice, lead a session, close everything, never exec: what a daemon of the old school does."""
    read, write = os.pipe()
    if os.fork() == 0:
        os.setsid()
        pid = os.fork()
        if pid == 0:
            os.closerange(0, 4096)
            while True:
                signal.pause()
        os.write(write, str(pid).encode())
        os._exit(0)
    os.wait()
    pid = int(os.read(read, 20))
    os.close(read)
    os.close(write)
    return pid


@task
async def nap(seconds: float) -> int:
    await asyncio.sleep(seconds)
    return os.getpid()


@task
async def until(name: str, flag: str) -> str:
    logbook.write("start", name)
    while not os.path.exists(flag):
        await asyncio.sleep(0.005)
    return name


@task
async def block(name: str = "block") -> None:
    """Keep the event loop for ever."""
    logbook.write("start", name)
    time.sleep(1000)


@task
async def crash() -> None:
    await asyncio.sleep(0.05)
    os.kill(os.getpid(), signal.SIGSEGV)


@task
def thread_name(seconds: float) -> str:
    time.sleep(seconds)
    return threading.current_thread().name


@task
def spin(name: str) -> None:
    """Compute for ever in Python: it can be interrupted."""
    logbook.write("start", name)
    while True:
        pass


@task
def compute(seconds: float) -> int:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return os.getpid()


@task
def use_memory(mebibytes: int) -> int:
    """Use and keep so much memory, until told otherwise."""
    kept = bytearray(mebibytes * 1024 * 1024)
    kept[::4096] = b"x" * len(kept[::4096])
    signal.pause()
    return len(kept)


_kept: list[bytearray] = []


@task
def leak(mebibytes: int) -> int:
    _kept.append(bytearray(mebibytes * 1024 * 1024))
    _kept[-1][::4096] = b"x" * len(_kept[-1][::4096])
    return os.getpid()


@task
def process_facts() -> dict[str, float]:
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return {"pid": os.getpid(), "nice": os.nice(0), "random": random.random(), "descriptors": descriptors}


@task(redact=("return",))
def charge(amount: int, card: Secret[str], _task_context: TaskExecutionContext = INJECTED) -> str:
    """Say the secret in every way that a task can say something."""
    _task_context.log_sync(f"charging {card}", payload={"card": card})
    _task_context.progress_sync(1, 2, message=f"half of {card}")
    _task_context.event_sync("charged", f"event {card}")
    logging.getLogger("charge").warning("logged %r", card)
    print("printed", card)
    if amount < 0:
        msg = f"cannot charge {card}"
        raise ValueError(msg)
    return f"charged {card}"


@task
def share_memory() -> int:
    """Use shared memory, of which a helper process of Python's keeps count."""
    block = shared_memory.SharedMemory(create=True, size=10)
    block.close()
    block.unlink()
    return os.getpid()


@task
def pid_of_worker() -> int:
    return os.getpid()


@task
def environment(name: str) -> str | None:
    return os.environ.get(name)


@task
def use_folder() -> str:
    """Write into the temporary folder that the import has made."""
    folder = Path(os.environ["LQ_FOLDER"])
    (folder / str(os.getpid())).touch(exist_ok=False)
    return str(folder)


@task
def signal_children() -> dict[str, int]:
    """Send signals to a program and to a fork, and return how they ended."""
    ends: dict[str, int] = {}
    for name in ("SIGINT", "SIGHUP"):
        program = subprocess.Popen(["sleep", "1000"])
        program.send_signal(getattr(signal, name))
        ends[f"program {name}"] = program.wait()
    for name in ("SIGTERM", "SIGHUP"):
        pid = os.fork()
        if pid == 0:
            while True:
                signal.pause()
        while strays.state_of(pid) != "S":  # until its handlers are restored
            time.sleep(0.001)
        os.kill(pid, getattr(signal, name))
        ends[f"fork {name}"] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return ends


@task
def flood(lines: int) -> int:
    for number in range(lines):
        print(f"line {number} of a flood")
    return lines


@task
def long_line(mebibytes: int) -> int:
    """Write one line without an end to descriptor 1, past ``sys.stdout``."""
    piece = b"x" * 65_536
    for _ in range(mebibytes * 16):
        os.write(1, piece)
    return mebibytes


@task
def print_long_line(mebibytes: int) -> int:
    print("y" * (mebibytes * 1024 * 1024))
    return mebibytes


@task
def snooze_once(flag: str) -> str:
    if not os.path.exists(flag):
        Path(flag).touch()
        raise Snooze(0.01)
    return "awake"


@task
async def says_progress(_task_context: TaskExecutionContext = INJECTED) -> int:
    await _task_context.progress(1, 2)
    return resource.getpagesize()


@task
def write_raw(text: str) -> None:
    """Write to descriptor 1, without the end of a line."""
    os.write(1, text.encode())


@task
def leave_a_writer() -> None:
    """Leave a thread that writes for ever."""

    def write() -> None:
        while True:
            os.write(1, b"still here\n")

    threading.Thread(target=write, daemon=True).start()


@task
def forge_a_successor(field: str, value: int) -> None:
    """Report an end with a job to add that no client makes: a number which fits no column."""
    context = require_current_task_context()
    context.enqueue_on_success(quick, "forged")
    [honest] = context._successors or ()
    context._successors = [msgspec.structs.replace(honest, **{field: value})]


@task
def add_many(count: int, size: int, metadata: bool, _task_context: TaskExecutionContext = INJECTED) -> None:
    """Add jobs whose arguments, or whose metadata, are so many characters of four bytes each."""
    text = "\N{PILE OF POO}" * size
    for _ in range(count):
        if metadata:
            _task_context.enqueue_on_success(quick.using(metadata={"text": text}), "x")
        else:
            _task_context.enqueue_on_success(quick, text)


@task
async def cancels_itself_inside() -> None:
    current = asyncio.current_task()
    assert current is not None
    current.cancel()
    await asyncio.sleep(1)


@task
async def cancels_all() -> None:
    """Cancel every asyncio task there is, as libraries do at their shutdown."""
    for each in asyncio.all_tasks():
        each.cancel()
    await asyncio.sleep(1)


@task
async def blocks_later() -> None:
    """Leave a thread that gives the event loop a callback, which keeps it for a while."""

    def blocking() -> None:
        logbook.write("start", "blocked")
        time.sleep(0.4)

    loop = asyncio.get_running_loop()
    threading.Timer(0.02, loop.call_soon_threadsafe, (blocking,)).start()


@task
def talks_nonsense(what: str, victim: int) -> None:
    """Write into the worker's own channel of reports, found among its descriptors."""
    from litestar_queues.models import Receipt

    forged = wire.Done(victim, 1, '"forged"', Receipt(1, 2))
    for name in os.listdir("/proc/self/fd"):
        try:
            channel = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue
        with channel:
            if channel.type == socket.SOCK_SEQPACKET and int(name) >= 200:
                try:
                    if what == "forged":
                        wire.send(channel, forged)
                    else:
                        channel.send(b"\xde\xad\xbe\xef" * 10 if what == "garbage" else b"\x90")
                except (OSError, wire.ChannelClosed):
                    continue
    time.sleep(30)


@task
def deaf() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while True:
        time.sleep(0.05)


@task
def fork_bomb() -> None:
    for _ in range(300):
        if os.fork() == 0:
            while True:
                signal.pause()
    deque(repeat(None), maxlen=0)


@task
def use_up_descriptors() -> None:
    soft, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard_limit))
    held = []
    try:
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard_limit))


@task
def recurse() -> None:
    recurse.func()


@task
def meet_address_limit() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, before[1]))
    try:
        bytearray(1 << 31)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@task
def interrupt() -> None:
    raise KeyboardInterrupt


@task
def raise_base() -> None:
    raise BaseException("as base as it gets")


@task
def leave_a_speaker(flag: str, _task_context: TaskExecutionContext = INJECTED) -> None:
    """Leave a thread that logs once the next job runs."""

    def speak() -> None:
        while not os.path.exists(flag):
            time.sleep(0.005)
        _task_context.log_sync("from the thread")
        Path(f"{flag}.said").touch()

    threading.Thread(target=speak, daemon=True).start()


@task
def wait_for_word(flag: str) -> None:
    Path(flag).touch()
    while not os.path.exists(f"{flag}.said"):
        time.sleep(0.005)


@task
def shout_and_die(lines: int, _task_context: TaskExecutionContext = INJECTED) -> None:
    """Say more than the master reads in one turn, and die in the same moment."""
    for number in range(lines):
        _task_context.log_sync(f"word {number}")
    os.kill(os.getpid(), signal.SIGKILL)


@task(retries=1, retry_backoff=0.0, timeout=0.3, kill_grace=0.1)
def write_file(path: str) -> str:
    logbook.write("start", "write")
    Path(path).write_text("written")
    return path


@task
async def set_old_factory() -> None:
    """Set a factory of tasks as they were written before tasks had contexts."""
    asyncio.get_running_loop().set_task_factory(lambda loop, coroutine: asyncio.Task(coroutine, loop=loop))


@task
async def shut_executor_down() -> None:
    await asyncio.to_thread(os.getpid)
    await asyncio.get_running_loop().shutdown_default_executor()


@task
async def call_in_thread() -> int:
    return await asyncio.to_thread(os.getpid)


@task
async def refuse_threads(times: int) -> None:
    """Let no thread be started so many times, as where a limit of processes is reached."""
    start, left = threading.Thread.start, iter(range(times))

    def refuse(thread: threading.Thread) -> None:
        if next(left, None) is None:
            threading.Thread.start = start  # type: ignore[method-assign]
            start(thread)
        else:
            raise RuntimeError("can't start new thread")

    threading.Thread.start = refuse  # type: ignore[method-assign]


@task(retries=0, timeout=60.0)
async def break_the_server() -> None:
    """Make what the worker does at the end of each job fail."""
    slots.leftovers.has_children = None  # type: ignore[assignment]
