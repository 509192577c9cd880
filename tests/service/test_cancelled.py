"""Every call of a service, cancelled at its k-th await, for every k: half of nothing is done, and no lock is left."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Coroutine, Generator
from contextlib import closing
from typing import Any

import pytest

from litestar_queues import QueueConfig, QueueService, TaskRequest, TaskResult
from litestar_queues.tasks import task

pytestmark = pytest.mark.anyio
Call = Callable[[QueueService, TaskResult[Any]], Coroutine[Any, Any, Any]]


@task("cancelled.add")
async def add(number: int) -> int:
    return number + 1


class CancelledAt:
    """Awaits a coroutine, and cancels the task that does so just when it waits for the *at*-th time."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], at: int) -> None:
        self._coroutine = coroutine
        self._at = at
        self.awaits = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self._coroutine.__await__()
        go_on, value = inner.send, None
        while True:
            try:
                waits_for = go_on(value)
            except StopIteration as end:
                return end.value
            self.awaits += 1
            if self.awaits == self._at:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            try:
                value = yield waits_for
                go_on = inner.send
            except BaseException as error:
                go_on, value = inner.throw, error  # type: ignore[assignment]


async def is_cancelled(call: Coroutine[Any, Any, Any], at: int) -> bool:
    """Cancel *call* at its *at*-th await; return False when it did not wait so often."""
    swept = CancelledAt(call, at)

    async def go() -> None:
        await swept

    try:
        await asyncio.create_task(go())
    except asyncio.CancelledError:
        return True
    return swept.awaits >= at


def assert_no_lock_is_left(url: str) -> None:
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"), timeout=5, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")


CALLS: dict[str, Call] = {
    "enqueue": lambda service, _: service.enqueue(add, 1, queue="swept"),
    "enqueue by name": lambda service, _: service.enqueue("cancelled.add", 1, queue="swept"),
    "enqueue_many": lambda service, _: service.enqueue_many([TaskRequest(add, (1,), options={"queue": "swept"})] * 5),
    "get_task": lambda service, result: service.get_task(result.id),
    "get_result": lambda service, result: service.get_result(result.id),
    "list_tasks": lambda service, _: service.list_tasks(),
    "get_statistics": lambda service, _: service.get_statistics(),
    "task_events": lambda service, result: service.task_events(result.id),
    "refresh": lambda _, result: result.refresh(),
    "events": lambda _, result: result.events(),
    "wait": lambda _, result: result.wait(5),
    "get": lambda _, result: result.get(5),
    "cancel_task": lambda service, result: service.cancel_task(result.id),
    "cancel": lambda _, result: result.cancel(),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.fault(
    "C13", "each call of a service, cancelled at its k-th await, for every k", "no lock left, nothing half done"
)
async def test_a_call_cancelled_anywhere_leaves_a_service_that_serves(
    service: QueueService, elsewhere: Any, url: str, name: str
) -> None:
    ended = await service.enqueue(add, 1)
    await elsewhere.complete("2")
    at = 0
    swept = True
    while swept:
        at += 1
        assert at < 200
        swept = await is_cancelled(CALLS[name](service, ended), at)
        assert_no_lock_is_left(url)
        async with asyncio.timeout(10):
            assert await ended.get() == 2
            statistics = await service.get_statistics("swept")
        assert statistics.pending % (5 if name == "enqueue_many" else 1) == 0, "all or none"
        assert statistics.pending <= at * 5
    assert at > 1, "it was cancelled at least once"


async def test_a_wait_for_a_job_that_goes_on_leaves_no_watch_behind(service: QueueService, elsewhere: Any) -> None:
    result = await service.enqueue(add, 1)
    at = 1

    async def sweep() -> None:
        nonlocal at
        while await is_cancelled(result.wait(0.05), at):
            at += 1

    with pytest.raises(TimeoutError):  # once it is not cancelled any more
        await sweep()
    assert at > 2
    await elsewhere.complete("2")
    async with asyncio.timeout(10):
        assert await result.get() == 2


@pytest.mark.parametrize("what", ["open", "close"])
@pytest.mark.fault("C13", "opening and closing, cancelled at the k-th await, for every k", "no thread of it is left")
async def test_opening_and_closing_cancelled_anywhere_leave_nothing_behind(config: QueueConfig, what: str) -> None:
    async def use(at: int) -> bool:
        service = QueueService(config)
        if what == "close":
            await service.open()
            await (await service.enqueue(add, 1)).refresh()
            return await is_cancelled(service.close(), at)
        was_cancelled = await is_cancelled(service.open(), at)
        await service.close()
        return was_cancelled

    at = 1
    while await use(at):
        await _until(lambda: not any("litestar-queues" in thread.name for thread in threading.enumerate()))
        async with QueueService(config) as again:
            assert await again.enqueue(add, at)
        at += 1
        assert at < 200
    assert at > 1


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)
