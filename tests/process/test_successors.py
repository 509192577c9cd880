"""Jobs added with a completion, by real workers: what cannot be added ends the run that asked, and no more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from litestar_queues import QueueService
from support import hard, zoo
from support.masters import RunningMaster

pytestmark = pytest.mark.anyio
StartMaster = Callable[..., RunningMaster]


@pytest.mark.parametrize(
    ("field", "value"), [("priority", 1 << 63), ("run_at", (1 << 64) - 1), ("timeout", -(1 << 63))]
)
async def test_a_forged_successor_is_a_crash_of_its_own_worker_and_the_master_goes_on(
    service: QueueService, start_master: StartMaster, field: str, value: int
) -> None:
    master = start_master("--import", "support.hard", "--concurrency", "1").until_serving()
    forged = await service.enqueue(hard.forge_a_successor, field, value)
    assert (await forged.wait(30)).status == "failed"
    assert await (await service.enqueue(zoo.good, 1)).get(30) == 2
    assert master.process.poll() is None
    assert (await service.get_statistics()).total == 2


@pytest.mark.parametrize(("count", "size", "metadata"), [(1001, 1, False), (70, 250_000, False), (40, 250_000, True)])
async def test_more_than_one_report_can_carry_fails_the_run_with_the_reason_and_adds_nothing(
    service: QueueService, start_master: StartMaster, count: int, size: int, metadata: bool
) -> None:
    start_master("--import", "support.hard", "--concurrency", "1").until_serving()
    record = await (await service.enqueue(hard.add_many, count, size, metadata)).wait(60)
    assert (record.status, record.crashes) == ("failed", 0)
    assert "one run may add" in (record.error or "")
    assert (await service.get_statistics()).total == 1


async def test_as_much_as_one_run_may_add_is_added(
    service: QueueService, start_master: StartMaster, logbook_file: Path
) -> None:
    start_master("--import", "support.hard", "--concurrency", "1", "--queues", "other,default").until_serving()
    record = await (await service.enqueue(hard.add_many, 30, 250_000, False)).wait(60)
    assert record.status == "completed"
    assert (await service.get_statistics()).total == 31
