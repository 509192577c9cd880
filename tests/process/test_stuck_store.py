"""A store that refuses for a while: jobs that wait to be heard meanwhile are not charged for it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from litestar_queues import QueueService, TaskRequest
from support import hard
from support.masters import RunningMaster
from support.waiting import eventually, wait_until

pytestmark = pytest.mark.anyio
TIMEOUT = 3.0


async def test_jobs_that_wait_for_their_words_to_be_read_while_the_store_is_locked_do_not_run_out_of_time(
    service: QueueService, start_master: Callable[..., RunningMaster], tmp_path: Path
) -> None:
    """Four times 9,000 lines: 20,000 wait in the master, which reads no more, and the jobs wait in the middle."""
    master = start_master("--import", "support.hard", "--concurrency", "4").until_serving()
    flood = hard.flood.using(timeout=TIMEOUT, kill_grace=0.5)
    results = await service.enqueue_many([TaskRequest(flood, (9_000,))] * 4)

    async def all_run() -> bool:
        return (await service.get_statistics()).running == 4

    await eventually(all_run, "all run")
    with closing(sqlite3.connect(tmp_path / "queues.db", isolation_level=None, timeout=20)) as other:
        other.execute("BEGIN IMMEDIATE")
        until = time.monotonic() + 2 * TIMEOUT
        wait_until(lambda: time.monotonic() > until, "twice their time is over")
        other.execute("ROLLBACK")
    records = [await result.wait(30) for result in results]
    assert [(record.status, record.result, record.attempt, record.retry_count) for record in records] == [
        ("completed", 9_000, 1, 0)
    ] * 4
    assert "stopping" not in master.log
