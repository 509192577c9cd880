"""Tasks that leave something for the next job, and tasks that look what they find. Imported by real workers."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextvars import ContextVar

from litestar_queues import INJECTED, TaskExecutionContext
from support import logbook
from support.runs import task
from support.zoo import good

_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_PROF, signal.ITIMER_VIRTUAL)

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


@task
def enqueues_from_thread(number: int) -> str:
    """Enqueue from an event loop of one's own, as a synchronous task does."""
    return str(asyncio.run(_enqueue(number)))


@task
def enqueues_in_child(number: int) -> str:
    """Enqueue, and then again in a forked child."""
    asyncio.run(_enqueue(number))
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, asyncio.run(_enqueue(number + 1)).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    with open(read) as answer:
        return answer.read()


async def _enqueue(number: int) -> str:
    return str((await good.enqueue(number)).id)


@task
async def sets_tenant(name: str) -> None:
    tenant.set(name)


@task
def sets_tenant_in_function(name: str) -> None:
    tenant.set(name)


@task
def says_tenant() -> str:
    return tenant.get()


@task
async def says_tenant_in_coroutine() -> str:
    return tenant.get()


@task
async def changes_folder() -> None:
    os.chdir("/")
    os.umask(0o777)


@task
def changes_all() -> None:
    """Change whatever is put back."""
    os.chdir("/")
    os.umask(0o777)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2, signal.SIGALRM})
    for timer in (signal.ITIMER_PROF, signal.ITIMER_VIRTUAL):
        signal.setitimer(timer, 60)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 1)
    while signal.SIGALRM not in signal.sigpending():  # which would be the end of the process, unblocked
        time.sleep(0.001)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.stdout = sys.stderr = io.StringIO()
    asyncio.run(asyncio.sleep(0))  # which leaves the main thread without an event loop


@task
async def handles_signals() -> None:
    """Take the signals by way of the event loop, and keep them."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        asyncio.get_running_loop().add_signal_handler(number, print, "taken")


@task
def describes_process() -> dict[str, str]:
    loop = None
    if threading.current_thread() is threading.main_thread():
        loop = asyncio.get_event_loop_policy().get_event_loop()
    umask = os.umask(0)
    os.umask(umask)
    return {
        "pid": str(os.getpid()),
        "folder": os.getcwd(),
        "umask": oct(umask),
        "alarms": str([signal.getitimer(timer) for timer in _TIMERS]),
        "mask": str(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "handlers": str([signal.getsignal(number) for number in range(1, 32)]),
        "streams": f"{type(sys.stdout)} {type(sys.stderr)}",
        "loop": f"{type(loop)} {loop is not None and loop.is_closed()}",
    }


@task(timeout=0.2, kill_grace=20)
def clears_up() -> None:
    try:
        while True:
            time.sleep(0.005)
    finally:
        logbook.write("cleared-up")


@task
def closes_loop() -> None:
    """Use the main thread's event loop as synchronous code did before there was ``asyncio.run``."""
    loop = asyncio.get_event_loop_policy().get_event_loop()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


@task
async def stops_loop() -> None:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0.02)


@task(timeout=0.2, kill_grace=20)
async def hangs_on_await() -> None:
    await _wait_for_ever()


@task(timeout=0.2, kill_grace=20)
async def hangs_on_task() -> None:
    await asyncio.gather(asyncio.sleep(0), _wait_for_ever())


@task(timeout=0.2, kill_grace=0.2)
async def hangs_and_swallows() -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await _wait_for_ever()
    await asyncio.sleep(1000)


async def _wait_for_ever() -> None:
    logbook.write("start", "waiting")
    await asyncio.sleep(1000)  # the line where it hangs


_kept: list[object] = []
"""What a program of another day keeps in its modules."""


@task(timeout=0.2, kill_grace=20, retries=1, retry_backoff=0.0)
async def leaves_a_ticker(_task_context: TaskExecutionContext = INJECTED) -> None:
    """Start a task that goes on for ever, and time out; the second time, go on for a while."""
    attempt = _task_context.attempt
    _kept.append(asyncio.create_task(_tick(f"tick-{attempt}")))
    await asyncio.sleep(1000 if attempt == 1 else 0.1)


@task
async def leaves_a_timer() -> None:
    asyncio.get_running_loop().call_later(0.02, logbook.write, "rung")


@task
async def leaves_a_generator() -> None:
    generator = _numbers()
    _kept.append(generator)
    async for _ in generator:
        break


@task
async def breaks_out_of_generator() -> None:
    async for _ in _numbers():
        raise ValueError("on purpose")


@task
async def leaves_stubborn() -> None:
    """Leave a task that does not end when it is asked to, and one that is asked once."""
    _kept.append(asyncio.create_task(_refuse()))
    _kept.append(asyncio.create_task(_tick("tick")))
    await asyncio.sleep(0.01)


@task(timeout=0.2, kill_grace=0.3)
async def leaves_a_thread_behind() -> None:
    await asyncio.to_thread(_work_for_ever)


@task
async def leaves_an_exit() -> None:
    asyncio.get_running_loop().create_task(_exit())
    await asyncio.sleep(0.01)


@task
async def takes_a_while(seconds: float) -> int:
    await asyncio.sleep(seconds)
    return os.getpid()


async def _tick(name: str) -> None:
    while True:
        logbook.write(name)
        await asyncio.sleep(0.005)


async def _numbers() -> AsyncIterator[int]:
    try:
        yield 1
        yield 2
    finally:
        await asyncio.sleep(0)
        logbook.write("generator-closed")


async def _refuse() -> None:
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(1000)


def _work_for_ever() -> None:
    while True:
        logbook.write("thread-works")
        time.sleep(0.005)


async def _exit() -> None:
    sys.exit(3)
