"""A system that refuses to send something now: the master lives, the job is not charged, and nothing spins."""

from __future__ import annotations

import errno
import os
import resource
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from uuid import UUID

import pytest

from litestar_queues import QueueService, wire
from litestar_queues.cell import CellFile
from litestar_queues.clock import SystemClock
from litestar_queues.master.dispatch import Dispatch
from litestar_queues.master.exit_status import OutOfMemory
from litestar_queues.master.lanes import Lane
from litestar_queues.master.process import WorkerProcess
from support import zoo
from support.apps import write_app
from support.masters import RunningMaster
from support.waiting import wait_until

pytestmark = pytest.mark.anyio
StartMaster = Callable[..., RunningMaster]
LARGE = "x" * 150_000
"""Arguments that travel as a file."""
ORDERS_REFUSED = """
import errno, os
from litestar_queues import framing
send = framing._send_descriptors
def refuse(channel, body, descriptors, flags):
    if len(descriptors) > 1 and not os.path.exists("go"):
        raise OSError(errno.ETOOMANYREFS, os.strerror(errno.ETOOMANYREFS))
    send(channel, body, descriptors, flags)
framing._send_descriptors = refuse
from lq.__main__ import main
main()
"""


def descriptors_of(master: RunningMaster, soft: int) -> int:
    """Set the limit of a master's open descriptors; return what it was."""
    before, highest = resource.prlimit(master.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(master.pid, resource.RLIMIT_NOFILE, (soft, highest))
    return before


def fence_of(folder: Path, number: int) -> int:
    """Return how often a job has been claimed."""
    with closing(sqlite3.connect(folder / "queues.db")) as database:
        [fence] = database.execute("SELECT fence FROM lq_job WHERE number = ?", (number,)).fetchone()
    return int(fence)


@pytest.mark.parametrize("is_alone", [False, True])
async def test_a_job_for_which_the_master_has_no_descriptor_is_put_off_until_it_has_one(
    service: QueueService, start_master: StartMaster, tmp_path: Path, url: str, is_alone: bool
) -> None:
    arguments = write_app(tmp_path, url, worker=f"max_concurrency=1, slots={1 + is_alone}")
    master = start_master(*arguments, serve=None, url=None).until_serving()
    assert await (await service.enqueue(zoo.good, 1)).get(30) == 2
    before = descriptors_of(master, 8)
    task = zoo.good_async.using(max_rss="4GiB") if is_alone else zoo.good_async
    large = await service.enqueue(task, LARGE)
    wait_until(
        lambda: f"#{large.number} cannot be sent to it, and is put off: the system refuses" in master.log, "it says so"
    )
    for number in range(30):  # others go on, and each of them is a claim of its own
        assert await (await service.enqueue(zoo.good, number)).get(30) == number + 1
    assert fence_of(tmp_path, large.number) <= 3, "it is not claimed with each of them"
    descriptors_of(master, before)
    record = await large.wait(30)
    assert (record.status, record.attempt, record.retry_count, record.crashes) == ("completed", 1, 0, 0)


async def test_a_worker_whose_order_the_system_refuses_to_send_is_ordered_later(
    service: QueueService, start_master: StartMaster, tmp_path: Path
) -> None:
    (tmp_path / "refusing.py").write_text(ORDERS_REFUSED)
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    master = start_master("--concurrency", "1", module="refusing", environment={"PYTHONPATH": path}).until_serving()
    what = f"could not be forked: the system refuses to send it now: [Errno {errno.ETOOMANYREFS}]"
    wait_until(lambda: what in master.log, "it says so")
    (tmp_path / "go").touch()
    record = await (await service.enqueue(zoo.good, 1)).wait(30)
    assert (record.status, record.attempt) == ("completed", 1)


class Owner:
    """Who is told of a worker's death."""

    def died(self, worker: WorkerProcess) -> None:
        return


def ignore(*told: object) -> None:
    return


async def test_a_worker_from_which_a_job_cannot_be_taken_back_gets_no_others_so_that_it_ends(cells: CellFile) -> None:
    worker = WorkerProcess(1, "cookie", "default/1", (cells.cell(0),), Owner(), OutOfMemory())  # type: ignore[arg-type]  # it is told no more
    for number, payload in enumerate(("", LARGE, ""), 1):
        run = wire.Run(number, 1, UUID(int=number), "t", "default", 1, payload, 0, 0, 0, 1_000)
        assert worker.send(run)
    assert not worker.has_lost_job
    lowest = os.dup(0)
    os.close(lowest)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    taken = worker.take_back()
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert taken == [1, 3]
    lane = Lane(worker, slots=1, max_jobs=None)
    Dispatch((), SystemClock(), 1_000, ignore, ignore, ignore, ignore)._taken_back(lane)
    assert not lane.has_room()
    worker.stillborn("never born")
