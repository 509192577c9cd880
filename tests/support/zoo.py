"""Tasks that behave, and tasks that do not. Imported by real workers."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from itertools import repeat

from litestar_queues import INJECTED, Snooze, TaskExecutionContext, job_cancelled, non_retryable
from support import logbook
from support.runs import task

log = logging.getLogger("zoo")
QUICK = {"timeout": 0.5, "kill_grace": 0.3}


@task
def good(number: int) -> int:
    return number + 1


@task
async def good_async(text: str, _task_context: TaskExecutionContext = INJECTED) -> str:
    await _task_context.progress(current=1, total=2, message="half")
    print("printed")
    log.info("logged")
    return text.upper()


@task(**QUICK)
def endless_regex() -> None:
    log.warning("before the regex")
    re.match(r"(a+)+$", "a" * 60 + "b")


@task(**QUICK)
def hang_in_c() -> None:
    deque(repeat(None), maxlen=0)


@task(**QUICK)
def swallow_everything() -> None:
    while True:
        with contextlib.suppress(BaseException):
            while True:
                pass


@task(**QUICK)
def stop_itself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


@task(**QUICK)
def fork_holder() -> None:
    """Fork a child that holds every descriptor, then hang."""
    if os.fork() == 0:
        logbook.write("child", "fork_holder")
        while True:
            signal.pause()
    deque(repeat(None), maxlen=0)


@task(**QUICK)
def setsid_child() -> None:
    """Leave a child in a session of its own, then hang."""
    subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
    deque(repeat(None), maxlen=0)


@task
def flood_with_gil() -> str:
    """Write 1 MiB to descriptor 1 while holding the GIL: nobody in this process could read it."""
    data = b"x" * 1023 + b"\n"
    write = ctypes.PyDLL(None).write
    for _ in range(1024):
        write(1, data, len(data))
    return "written"


@task
def segfault() -> None:
    log.warning("last words")
    ctypes.string_at(0)


@task
def exit_zero() -> None:
    log.warning("leaving")
    os._exit(0)


@task
def sys_exit() -> None:
    sys.exit(3)


@task
def close_channel() -> None:
    """Close every descriptor, ours included, and live on."""
    os.closerange(3, 1000)
    deque(repeat(None), maxlen=0)


@task(timeout=0.5, kill_grace=5)
def cooperative() -> None:
    """Clear up when asked to stop."""
    try:
        while True:
            time.sleep(0.01)
    finally:
        log.warning("cleared up")


@task(timeout=0.5, kill_grace=5)
async def cooperative_async() -> None:
    import asyncio

    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        log.warning("cancelled")
        raise


@task(**QUICK)
async def block_the_loop() -> None:
    time.sleep(60)


@task(retries=2, retry_backoff=0.05)
def fails() -> None:
    raise ValueError("on purpose")


@task(retries=5)
def not_again() -> None:
    non_retryable("no use")


@task
def cancels_itself() -> None:
    job_cancelled("changed my mind")


@task
def snoozes_for_ever() -> None:
    raise Snooze(float("inf"))


@task
def forks_and_returns() -> str:
    """Fork, and let the child come back from the task as the parent does."""
    os.fork()
    return "one of two"


@task
async def takes_its_time(flag: str) -> str:
    import asyncio

    logbook.write("start", "takes_its_time")
    while not os.path.exists(flag):
        await asyncio.sleep(0.01)
    return "done"


@task
def returns_lambda() -> object:
    return lambda: 1


@task
def returns_too_much() -> str:
    return "x" * 5_000_000


@task
def many_lines(count: int) -> str:
    for index in range(count):
        print(index)
    return "all said"


@task
def breaks_its_error() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    raise Broken


@task
def recorded(name: str, seconds: float = 0.0) -> str:
    """Write down start and end of a real run."""
    logbook.write("start", name)
    time.sleep(seconds)
    logbook.write("end", name)
    return name


@task
def until_told(name: str, flag: str) -> str:
    """Run until a file appears; say so at the start."""
    log.warning("started %s", name)
    logbook.write("start", name)
    while not os.path.exists(flag):
        time.sleep(0.005)
    logbook.write("end", name)
    return name


@task
async def enqueues_more(number: int) -> str:
    result = await good.enqueue(number)
    return str(result.id)


@task
def sometimes_hangs(flag: str, number: int) -> int:
    """Hang in C if this is number 0 and *flag* is there."""
    if number == 0 and os.path.exists(flag):
        deque(repeat(None), maxlen=0)
    return number


@task
def then(name: str, fail: bool = False, _task_context: TaskExecutionContext = INJECTED) -> str:
    """Add a job on success, and succeed or not."""
    id = _task_context.enqueue_on_success(recorded, name, key=f"then-{name}")
    if fail:
        raise ValueError("after all")
    return str(id)
