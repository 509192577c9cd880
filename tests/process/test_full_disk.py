"""A disk that is full under a master: what has run is recorded, nothing new is accepted, and later all goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from litestar_queues import QueueConfig, QueueService
from litestar_queues.exceptions import StoreFull
from support import history, logbook, zoo
from support.checker import judging
from support.disks import fill_up, small_disk
from support.masters import RunningMaster
from support.waiting import wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.unjudged("the test does it itself: its database is on another disk")]


@pytest.mark.fault(
    "C1", "the disk is full when a job ends", "it is completed; enqueue says StoreFull; later all goes on"
)
async def test_a_job_that_ends_on_a_full_disk_is_completed_and_the_master_goes_on_when_there_is_space(
    start_master: Callable[..., RunningMaster], tmp_path: Path, logbook_file: Path
) -> None:
    with small_disk(tmp_path, 24) as disk, judging(tmp_path, disk / "queues.db"):
        url = f"sqlite:///{disk / 'queues.db'}"
        master = start_master("--concurrency", "1", url=url).until_serving()
        async with QueueService(QueueConfig(queue_backend=url)) as service:
            history.record(service)
            held = await service.enqueue(zoo.until_told, "held", str(tmp_path / "go"))
            wait_until(lambda: logbook.read(logbook_file), "it has started")
            behind = await service.enqueue(zoo.good, 1)
            fill_up(disk / "other")
            (tmp_path / "go").touch()
            assert (await held.wait(30)).status == "completed"
            assert (disk / "queues.db.lq" / "ballast").stat().st_size == 0
            with pytest.raises(StoreFull, match="free some space"):
                await service.enqueue(zoo.good, 2)
            assert (await behind.refresh()).status == "pending"
            (disk / "other").unlink()
            assert await behind.get(30) == 2
            assert await (await service.enqueue(zoo.good, 3)).get(30) == 4
        master.__exit__(None, None, None)
        assert master.process.returncode == 0
    assert "free some space" in master.log
