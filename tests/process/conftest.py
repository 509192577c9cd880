"""Whatever these tests do to the processes, the promises are judged at the end of each."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from litestar_queues.cell import CellFile
from litestar_queues.worker import serving
from support.apps import write_app
from support.checker import judging
from support.masters import RunningMaster
from support.workers import OneWorker


@pytest.fixture(autouse=True)
def judged(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
    """Judge what happened in the test, after its masters have ended and its service is closed."""
    if request.node.get_closest_marker("unjudged"):
        yield
        return
    with judging(tmp_path, tmp_path / "queues.db", dated=not request.node.get_closest_marker("undated")):
        yield


@pytest.fixture
def cells(tmp_path: Path) -> Iterator[CellFile]:
    made = CellFile.create(str(tmp_path / "cells"), 1)
    yield made
    made.close()


@pytest.fixture
def one_worker(cells: CellFile, monkeypatch: pytest.MonkeyPatch) -> Iterator[OneWorker]:
    monkeypatch.setattr(serving, "_unread", lambda descriptor: 0)  # what pytest has there instead is not a pipe
    for name in ("stdout", "stderr"):  # which a worker has for itself, and puts back after each job
        monkeypatch.setattr(sys, name, getattr(sys, name))
    handler = signal.getsignal(signal.SIGUSR2)
    made = OneWorker(cells)
    yield made
    signal.signal(signal.SIGUSR2, handler)
    for end in made.ends:
        end.close()


@pytest.fixture
def slotted_master(
    start_master: Callable[..., RunningMaster], logbook_file: Path, tmp_path: Path, url: str
) -> RunningMaster:
    """One worker with eight slots."""
    arguments = write_app(tmp_path, url, worker="max_concurrency=1, slots=8")
    return start_master(*arguments, serve=None, url=None).until_serving()
