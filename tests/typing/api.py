"""Usage that must type-check under ``mypy --strict``, and usage that must not (each ignore is needed)."""

from __future__ import annotations

from typing import assert_type
from uuid import UUID

import litestar_queues
from litestar_queues import INJECTED, QueueService, RetryBackoff, TaskExecutionContext, TaskResult, task
from litestar_queues import tsk as misspelt  # type: ignore[attr-defined]
from litestar_queues.synchronous import SyncQueueService, SyncTaskResult
from litestar_queues.tasks import AsyncTask, Handle


@task
def plain(a: int, b: str = "x") -> list[int]:
    return [a]


@task("typed.coroutine", queue="q", timeout=5)
async def coroutine(a: int) -> str:
    return str(a)


@task("typed.injected", retry_backoff=RetryBackoff(initial_delay=2), retry_on=(OSError, ValueError))
async def injected(path: str, *, _task_context: TaskExecutionContext = INJECTED) -> None:
    await _task_context.log(path)
    assert_type(_task_context.enqueue_on_success(plain, 1, b="y"), UUID)
    _task_context.enqueue_on_success(coroutine.using(queue="other"), 1)
    _task_context.enqueue_on_success("typed.coroutine", 1, priority=3)
    _task_context.enqueue_on_success(plain, 1, queue="other")
    _task_context.enqueue_on_success(5)  # type: ignore[call-overload]


@task(retry_backoff=lambda failures, error: 2.0 * failures)
def with_a_callable() -> int:
    return 1


async def use_options(service: QueueService) -> None:
    slow = coroutine.using(queue="slow", timeout=None, metadata={"by": "me"})
    slow_task: AsyncTask[[int], str] = slow
    handle: Handle[str] = await service.enqueue(slow_task, 1)
    assert_type(await handle.get(timeout=1), str)
    await injected.enqueue("path")
    assert_type(litestar_queues.__version__, str)

    coroutine.using(queue=5)  # type: ignore[arg-type]
    coroutine.using(bogus=5)  # type: ignore[call-arg]
    coroutine.using(retry_on=ValueError)  # type: ignore[call-arg]
    coroutine.using(retry_backoff=lambda failures, error: 1.0)  # type: ignore[arg-type]
    task("t", queue=5)  # type: ignore[call-overload]
    task("t", cron="* * * * *")  # type: ignore[call-overload]
    misspelt()


async def use(service: QueueService) -> None:
    assert_type(plain(1), list[int])
    assert_type(await coroutine(1), str)

    handle = await plain.enqueue(1, b="y")
    assert_type(handle.result, list[int] | None)
    assert_type(await handle.get(), list[int])
    assert_type(await (await coroutine.using(queue="other").enqueue(1)).get(), str)

    result = await service.enqueue(plain, 1, b="y")
    assert_type(result, TaskResult[list[int]])
    assert_type(await service.enqueue(coroutine, 1, queue="other", priority=3), TaskResult[str])

    await plain.enqueue("one")  # type: ignore[arg-type]
    await plain.enqueue(1, c=2)  # type: ignore[call-arg]
    await plain.enqueue()  # type: ignore[call-arg]
    plain("one")  # type: ignore[arg-type]
    coroutine.using(queue="q").enqueue()  # type: ignore[call-arg, unused-coroutine]
    wrong: str = await handle.get()  # type: ignore[assignment]
    assert wrong


def use_from_a_script() -> None:
    with QueueService.sync() as queues:
        assert_type(queues, SyncQueueService)
        assert_type(queues.enqueue(plain, 1, b="y"), SyncTaskResult[list[int]])
        assert_type(queues.enqueue(coroutine, 1).get(timeout=1), str)
        assert_type(queues.enqueue(coroutine, 1, queue="other").result, str | None)

        queues.enqueue(5)  # type: ignore[call-overload]
        queues.open()  # type: ignore[attr-defined]
