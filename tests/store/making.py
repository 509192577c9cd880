"""Jobs, nodes and settlements in one call, for the tests of stores."""

import asyncio
import itertools
import time
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

from litestar_queues.lifecycle import Outcome, Settlement, Succeeded, settle
from litestar_queues.models import ClaimedJob, NewJob, Receipt
from litestar_queues.nodes import Node
from litestar_queues.store import Store, Want

NOW = 1_800_000_000_000_000
SECOND = 1_000_000
PAYLOAD = '{"args":[],"kwargs":{"naïve":"\\u0000 – \\"quoted\\""}}'
_numbers = itertools.count(1)


def new_job(**changes: Any) -> NewJob:
    """A job that is due; *changes* are fields of ``NewJob``."""
    payload = changes.setdefault("payload", PAYLOAD)
    fields = {
        "id": uuid4(),
        "task": "mail",
        "queue": "default",
        "priority": 0,
        "checksum": zlib.crc32(payload.encode()),
        "created_at": NOW,
        "run_at": NOW,
    }
    return NewJob(**fields | changes)


def new_jobs(count: int, **changes: Any) -> list[NewJob]:
    return [new_job(**changes) for _ in range(count)]


def node(id: str, **changes: Any) -> Node:
    fields = {"host": "here", "pid": 1, "started_at": NOW, "beat_at": NOW}
    return Node(id=id, **fields | changes)


async def claim(
    store: Store, limit: int = 1_000, *, node: str = "node", now: int = NOW, **want: Any
) -> list[ClaimedJob]:
    claims = await store.claim(node, [Want(limit, **want)], now=now)
    return list(claims.jobs[0])


def receipt(now: int = NOW) -> Receipt:
    return Receipt(now + 10, now + 20, "default/1", 4242, 7, 8_000)


def settlement(job: ClaimedJob, outcome: Outcome | None = None, *, now: int = NOW, started: bool = True) -> Settlement:
    return settle(job, outcome or Succeeded('"done"'), receipt(now) if started else None, now=now + 20)


async def status_of(store: Store, reference: UUID | int) -> str | None:
    [job] = await store.get([reference])
    return None if job is None else str(job.status)


@asynccontextmanager
async def within(seconds: float, what: str) -> AsyncIterator[None]:
    """Fail when what happens inside takes longer, and name what was awaited."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise AssertionError(f"after {seconds} s still waiting: {what}") from None


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 10) -> Any:
    """Look until *condition* holds; for what happens in other processes."""
    until = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < until, f"after {seconds} s still waiting: {what}"
        time.sleep(0.002)
    return value
