"""A defect of our own ends what it is in, with a word, and is not waited for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from litestar_queues import QueueService
from support import defective, zoo
from support.apps import write_app
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


BREAKS_ONCE = """
import os, pathlib
from litestar_queues.store.sqlite.bells import Ringer

pay = Ringer.pay

def pay_or_fail(ringer):
    try:
        pathlib.Path("defect").unlink()
    except FileNotFoundError:
        return pay(ringer)
    raise RuntimeError("nobody has thought of this")

Ringer.pay = pay_or_fail
"""


async def test_a_worker_whose_own_writer_has_ended_opens_another_for_the_next_job(
    service: QueueService, start_master: StartMaster, tmp_path: Path, url: str
) -> None:
    start_master(*write_app(tmp_path, url, before=BREAKS_ONCE), serve=None, url=None).until_serving()
    assert (await (await service.enqueue(zoo.enqueues_more, 1)).wait(30)).status == "completed"
    (tmp_path / "defect").touch()
    records = [await (await service.enqueue(zoo.enqueues_more, 1)).wait(30) for _ in range(4)]
    failed = [record for record in records if record.status == "failed"]
    assert len(failed) <= 1, "one may meet it"
    assert all("StoreStopped" in str(record.error) for record in failed)
    assert records[-1].status == "completed"
    assert not (tmp_path / "defect").exists(), "it has happened"
