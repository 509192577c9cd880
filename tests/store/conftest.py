"""The stores that the conformance suite runs on; another one joins by an entry in ``FACTORIES``."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from litestar_queues.store import Store, open_store

StoreFactory = Callable[[], Awaitable[Store]]
"""Opens a store object on this test's database, the same one each time."""


def _sqlite(folder: Path) -> StoreFactory:
    async def open() -> Store:
        # The conformance of what is written does not depend on when it is synced; ``tests/store/sqlite``
        # has the tests of durability.
        return await open_store(f"sqlite:///{folder}/queues.db", durability="process")

    return open


FACTORIES: dict[str, Callable[[Path], StoreFactory]] = {"sqlite": _sqlite}


@pytest.fixture(params=sorted(FACTORIES))
def store_factory(request: pytest.FixtureRequest, tmp_path: Path) -> StoreFactory:
    return FACTORIES[request.param](tmp_path)


@pytest.fixture
async def store(store_factory: StoreFactory, anyio_backend: str) -> AsyncIterator[Store]:
    async with await store_factory() as opened:
        yield opened


@pytest.fixture
async def other(store_factory: StoreFactory, anyio_backend: str) -> AsyncIterator[Store]:
    """A second store object on the same database."""
    async with await store_factory() as opened:
        yield opened
