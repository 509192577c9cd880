"""The tasks of the soak: most behave, some do not, and each writes down its runs."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import deque
from itertools import repeat

from litestar_queues import INJECTED, Snooze, TaskExecutionContext
from support.runs import task

SHORT = {"timeout": 0.3, "kill_grace": 0.1}


@task("soak.quick")
def quick(number: int) -> int:
    return number + 1


@task("soak.takes")
def takes(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@task("soak.waits")
async def waits(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


@task("soak.speaks")
def speaks(lines: int, _task_context: TaskExecutionContext = INJECTED) -> int:
    for line in range(lines):
        _task_context.progress_sync(current=line, total=lines)
        print("line", line)
    return lines


@task("soak.fails", retries=2, retry_backoff=0.05)
def fails(until: int, _task_context: TaskExecutionContext = INJECTED) -> int:
    if _task_context.attempt < until:
        msg = f"attempt {_task_context.attempt} of {until}"
        raise RuntimeError(msg)
    return until


@task("soak.dies", retries=0)
def dies(how: str) -> None:
    if how == "exit":
        os._exit(0)
    os.kill(os.getpid(), getattr(signal, how))


@task("soak.hangs", **SHORT)
def hangs() -> None:
    deque(repeat(None), maxlen=0)


@task("soak.leaves")
def leaves() -> int:
    """Leave a process behind in a session of its own."""
    command = [sys.executable, "-S", "-c", "import signal; signal.pause()"]
    return subprocess.Popen(command, start_new_session=True).pid


@task("soak.snoozes")
def snoozes(_task_context: TaskExecutionContext = INJECTED) -> int:
    if _task_context.attempt < 3:
        raise Snooze(0.05)
    return _task_context.attempt


@task("soak.adds")
def adds(number: int, _task_context: TaskExecutionContext = INJECTED) -> str:
    return str(_task_context.enqueue_on_success(quick, number))


@task("soak.large")
def large(text: str) -> str:
    return text
