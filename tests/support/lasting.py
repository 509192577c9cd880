"""Tasks that leave something for the next job, and tasks that look what they find. Imported by real workers."""

from __future__ import annotations

import asyncio
import os

from support.runs import task
from support.zoo import good


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
