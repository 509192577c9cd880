"""What the tests of the service share: a store of their own, services on it, and a worker in words."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from litestar_queues.clock import SystemClock
from litestar_queues.config import QueueConfig
from litestar_queues.lifecycle import Cancelled, Outcome, Succeeded, settle
from litestar_queues.models import ClaimedJob, Receipt
from litestar_queues.service import QueueService
from litestar_queues.store.base import Store, Want
from litestar_queues.store.opening import open_store

Within = Callable[[float, str], AbstractAsyncContextManager[None]]


@pytest.fixture
def config(url: str) -> QueueConfig:
    return QueueConfig(queue_backend=url, execution_backends={"cloudrun": "local"}, durability="process")


@pytest.fixture
async def service(config: QueueConfig) -> AsyncIterator[QueueService]:
    async with QueueService(config) as opened:
        yield opened


@pytest.fixture
async def immediate(url: str) -> AsyncIterator[QueueService]:
    config = QueueConfig(queue_backend=url, execution_backend="immediate", durability="process")
    async with QueueService(config) as opened:
        yield opened


class Elsewhere:
    """Another process with the same store, which claims jobs and settles them as it is told."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._clock = SystemClock()

    async def claim(self, limit: int = 10_000) -> list[ClaimedJob]:
        claims = await self.store.claim("elsewhere", [Want(limit)], now=self._clock.now())
        return list(claims.jobs[0])

    async def settle(self, jobs: list[ClaimedJob], outcome: Outcome) -> None:
        now = self._clock.now()
        receipt = Receipt(now, now, "elsewhere/1", 1)
        await self.store.settle([settle(job, outcome, receipt, now=now) for job in jobs])

    async def complete(self, result: str = "null") -> None:
        await self.settle(await self.claim(), Succeeded(result))

    async def cancel(self, jobs: list[ClaimedJob]) -> None:
        await self.settle(jobs, Cancelled())


@pytest.fixture
async def elsewhere(url: str) -> AsyncIterator[Elsewhere]:
    async with await open_store(url, durability="process") as store:
        yield Elsewhere(store)


@asynccontextmanager
async def _within(seconds: float, what: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise AssertionError(f"not within {seconds:g} s: {what}") from error


@pytest.fixture
def within() -> Within:
    """``async with within(2, "the end of the job")`` fails by that name when it takes longer."""
    return _within
