"""A defect of our own ends what it is in, with a word, and is not waited for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from litestar_queues import QueueService
from support import defective, zoo
from support.masters import RunningMaster

pytestmark = pytest.mark.anyio
StartMaster = Callable[..., RunningMaster]


async def test_a_master_whose_writer_has_ended_ends_and_the_next_one_does_its_jobs(
    service: QueueService, start_master: StartMaster, tmp_path: Path
) -> None:
    file = tmp_path / "defect"
    master = start_master(module="support.defective", environment={defective.VARIABLE: str(file)}).until_serving()
    assert (await (await service.enqueue(zoo.good, 1)).wait(30)).status == "completed"
    file.touch()
    result = await service.enqueue(zoo.good, 2)
    assert master.wait() == 75
    assert "has ended by a defect (DefectError('nobody has thought of this'))" in master.log
    start_master().until_serving()
    assert (await result.wait(30)).status == "completed"
