"""Usage that must type-check under ``mypy --strict``, and usage that must not (each ignore is needed)."""

from __future__ import annotations

from typing import assert_type

from litestar_queues import QueueService, TaskResult, task


@task
def plain(a: int, b: str = "x") -> list[int]:
    return [a]


@task("typed.coroutine", queue="q", timeout=5)
async def coroutine(a: int) -> str:
    return str(a)


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
