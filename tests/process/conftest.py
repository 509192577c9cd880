"""Whatever these tests do to the processes, the promises are judged at the end of each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.checker import judging


@pytest.fixture(autouse=True)
def judged(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
    """Judge what happened in the test, after its masters have ended and its service is closed."""
    if request.node.get_closest_marker("unjudged"):
        yield
        return
    with judging(tmp_path, tmp_path / "queues.db", dated=not request.node.get_closest_marker("undated")):
        yield
