"""Tasks that leave something for the next job, and tasks that look what they find. Imported by real workers."""

from __future__ import annotations

import asyncio
import os
from contextvars import ContextVar

from support.runs import task
from support.zoo import good

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
