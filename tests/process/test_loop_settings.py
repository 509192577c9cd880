"""What a coroutine sets on its worker's loop, and what it leaves there, is over with its job; so is what it raises there."""

from __future__ import annotations

import asyncio
import resource
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Thread, Timer
from typing import Any

import pytest

from litestar_queues import task, wire
from support.workers import OneWorker

_heard: list[object] = []
_steps: list[int] = []
_kept: list[object] = []


@task("settings.next")
async def following(number: int) -> str:
    """Do what any coroutine may do: start tasks, call in a thread, have an error heard of."""
    asyncio.get_running_loop().call_exception_handler({"message": "the next one's"})
    steps = len(_steps)
    async with asyncio.TaskGroup() as group:
        made = group.create_task(asyncio.to_thread(lambda: "good"), name="named")
    await asyncio.sleep(0.05)
    return made.result() if len(_steps) == steps else "somebody runs beside it"


@task("settings.factory")
async def factory(number: int) -> None:
    # As it was written before tasks had contexts.
    asyncio.get_running_loop().set_task_factory(lambda loop, coroutine: asyncio.Task(coroutine, loop=loop))


@task("settings.executor")
async def executor(number: int) -> None:
    with ThreadPoolExecutor(1) as pool:
        asyncio.get_running_loop().set_default_executor(pool)
        await asyncio.to_thread(int)


@task("settings.shutdown")
async def shutdown(number: int) -> None:
    await asyncio.to_thread(int)
    await asyncio.get_running_loop().shutdown_default_executor()


@task("settings.handler")
async def handler(number: int) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda loop, error: _heard.append(error))


async def _goes_on() -> None:
    for step in range(1_000):
        _steps.append(step)
        await asyncio.sleep(0.001)


@task("settings.starts_later")
async def starts_later(number: int) -> None:
    coroutine = _goes_on()
    _kept.append(coroutine)  # never awaited, and not to be warned of here
    asyncio.get_running_loop().call_later(0.01, asyncio.ensure_future, coroutine)


class Proxy:
    """Has every attribute, as the proxies of remote calls do."""

    def __getattr__(self, name: str) -> Proxy:
        return Proxy()

    def __call__(self, *arguments: object) -> None:
        return None


@task("settings.proxy")
async def proxy(number: int) -> None:
    asyncio.get_running_loop().call_later(60, Proxy())


@task("settings.thread_exits")
async def thread_exits(number: int) -> None:
    timer = Timer(0.02, asyncio.get_running_loop().call_soon_threadsafe, (sys.exit, "not the next one's"))
    timer.start()
    _kept.append(timer)


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    for each in _kept:
        if isinstance(each, Timer):
            each.join()
        elif asyncio.iscoroutine(each):
            each.close()
    for kept in (_heard, _steps, _kept):
        kept.clear()


def ends(reports: list[wire.Report]) -> list[str]:
    """Return what became of each job, in a word or two."""
    found = [report for report in reports if isinstance(report, wire.Done | wire.Failed)]
    return [str(end.result) if isinstance(end, wire.Done) else f"{end.kind} {end.error.type}" for end in found]


@pytest.mark.parametrize(
    "name", ["factory", "executor", "shutdown", "handler", "starts_later", "proxy", "thread_exits"]
)
def test_the_next_job_meets_nothing_of_it(one_worker: OneWorker, name: str) -> None:
    reports = one_worker.serve(f"settings.{name}", "settings.next", "settings.next")
    assert ends(reports) == ["null", '"good"', '"good"']
    assert not _heard


def test_a_job_may_shut_its_executor_down_and_call_again(one_worker: OneWorker) -> None:
    assert ends(one_worker.serve("settings.shutdown", "settings.shutdown", "settings.next"))[2] == '"good"'


class EvilError(Exception):
    """One that exits when its text is asked for."""

    def __str__(self) -> str:
        raise SystemExit("no text")


def _exit(*_: object) -> Any:
    raise SystemExit("no delay")


@task("settings.evil")
async def evil(number: int) -> None:
    raise EvilError


@task("settings.evil_function")
def evil_function(number: int) -> None:
    raise EvilError


@task("settings.backoff", retries=1, retry_backoff=_exit)
async def backoff(number: int) -> None:
    raise ValueError


@task("settings.backoff_of_function", retries=1, retry_backoff=_exit)
def backoff_of_function(number: int) -> None:
    raise ValueError


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("evil", "EvilError"),
        ("evil_function", "EvilError"),
        ("backoff", "ValueError"),
        ("backoff_of_function", "ValueError"),
    ],
)
def test_what_exits_while_an_error_is_written_down_ends_no_worker(one_worker: OneWorker, name: str, end: str) -> None:
    assert ends(one_worker.serve(f"settings.{name}", "settings.next")) == [f"raised {end}", '"good"']


class Careless:
    """Raises for names that it does not know, and not ``AttributeError``."""

    def __await__(self) -> Any:
        return self

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> None:
        return None  # not yet

    def __getattr__(self, name: str) -> Any:
        raise KeyError(name) if name.startswith(("cr_", "gi_", "ag_")) else AttributeError(name)


@task("settings.careless")
async def careless(number: int) -> None:
    await Careless()


def test_a_request_to_stop_reaches_a_coroutine_at_whose_wait_nobody_can_look(one_worker: OneWorker) -> None:
    asking = Thread(target=one_worker.ask_to_stop, args=(1,))
    asking.start()
    reports = one_worker.serve("settings.careless", "settings.next")
    asking.join()
    assert ends(reports) == ["interrupted CancelledError", '"good"']


@task("settings.uses_up_descriptors", retries=0)
async def uses_up_descriptors(number: int) -> str:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    _kept.append(limits)
    return "x" * 300_000


def test_a_result_that_the_system_does_not_let_through_is_told_and_the_worker_replaced(one_worker: OneWorker) -> None:
    try:
        reports = one_worker.serve("settings.uses_up_descriptors")
    finally:
        for limits in _kept:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)  # type: ignore[arg-type]  # what the task has kept
    [end] = [report for report in reports if isinstance(report, wire.Done | wire.Failed)]
    assert isinstance(end, wire.Failed)
    assert "cannot be sent: the system refuses" in end.error.message
    assert end.is_last
