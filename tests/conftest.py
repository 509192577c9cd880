"""Fixtures for all tests: a store of one's own, an open service, masters that are cleaned up after."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from litestar_queues import QueueConfig, QueueService
from support import history, logbook
from support.masters import RunningMaster

# A shell's background job ignores SIGINT, what nohup starts SIGHUP, and so would every process that the tests start.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, usual)
# Hundreds of interpreters are started here: without cached bytecode each compiles the package again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def seed(request: pytest.FixtureRequest) -> int:
    """Seed ``random`` and print the seed, so that a failure can be had again: LQ_TEST_SEED=…"""
    value = int(os.environ.get("LQ_TEST_SEED", random.SystemRandom().randrange(2**32)))
    random.seed(value)
    print(f"LQ_TEST_SEED={value}")
    return value


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'queues.db'}"


@pytest.fixture
def logbook_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tasks' own log; masters started in the test get it by environment."""
    path = tmp_path / "logbook"
    monkeypatch.setenv(logbook.VARIABLE, str(path))
    return path


@pytest.fixture
async def service(url: str, anyio_backend: str) -> AsyncIterator[QueueService]:
    async with QueueService(QueueConfig(queue_backend=url)) as service:
        yield history.record(service)


@pytest.fixture
def start_master(tmp_path: Path, url: str) -> Iterator[Callable[..., RunningMaster]]:
    """Start ``lq worker`` on this test's store, serving ``support.zoo`` unless told otherwise."""
    with ExitStack() as stack:

        def start(*arguments: str, serve: str | None = "support.zoo", **options: object) -> RunningMaster:
            what = ["--import", serve] if serve else []
            options.setdefault("url", url)
            return stack.enter_context(RunningMaster(tmp_path, *what, *arguments, **options))  # type: ignore[arg-type]

        yield start
