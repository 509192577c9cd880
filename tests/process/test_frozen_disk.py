"""A disk that does not answer for a while: what waits for it is deaf to every signal, and is not to be taken for dead."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from litestar_queues import QueueConfig, QueueService, TaskRequest
from support import hard, history, logbook, zoo
from support.checker import judging
from support.disks import ext4_disk, frozen
from support.masters import RunningMaster
from support.waiting import eventually, wait_until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not os.environ.get("LQ_LONG"), reason="NOT TESTED: a frozen disk (LQ_LONG=1, as root)"),
]
StartMaster = Callable[..., RunningMaster]
SIGKILL = 1 << 8
"""Its bit among the signals that wait to be delivered."""


def stalled_threads(pid: int) -> list[str]:
    """Return the threads of a process that wait in the kernel for a disk."""
    return [
        thread
        for thread in os.listdir(f"/proc/{pid}/task")
        if Path(f"/proc/{pid}/task/{thread}/stat").read_text().rpartition(")")[2].split()[0] == "D"
    ]


def is_being_killed(pid: int) -> bool:
    lines = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    return bool((int(lines["SigPnd"], 16) | int(lines["ShdPnd"], 16)) & SIGKILL)


@pytest.mark.unjudged("the test does it itself: its database is on another disk")
@pytest.mark.fault("C19", "a disk that stalls for ten seconds", "no run twice, no result lost; all goes on afterwards")
async def test_a_disk_that_stalls_costs_time_and_nothing_else(
    start_master: StartMaster, tmp_path: Path, logbook_file: Path
) -> None:
    with ext4_disk(tmp_path) as disk, judging(tmp_path, disk / "queues.db"):
        url = f"sqlite:///{disk / 'queues.db'}"
        master = start_master("--concurrency", "2", url=url).until_serving()
        async with QueueService(QueueConfig(queue_backend=url)) as service:
            history.record(service)
            results = await service.enqueue_many([TaskRequest(zoo.recorded, (f"j{n}", 0.01)) for n in range(100)])
            with frozen(disk):
                thaw_at = time.monotonic() + 10
                late = asyncio.ensure_future(service.enqueue(zoo.recorded, "late"))

                async def is_over() -> bool:
                    return bool(stalled_threads(master.pid)) and time.monotonic() > thaw_at

                await eventually(is_over, "the master waits for the disk")
                assert not late.done()
            for result in [*results, await late]:
                assert (await result.wait(60)).status == "completed"
        master.__exit__(None, None, None)
        assert master.process.returncode == 0, master.log


@pytest.mark.fault(
    "A34", "a job that waits in the kernel, past its timeout and SIGKILL", "not run again until it is gone"
)
async def test_a_process_that_cannot_be_killed_is_not_taken_for_dead(
    service: QueueService, start_master: StartMaster, tmp_path: Path, logbook_file: Path
) -> None:
    with ext4_disk(tmp_path) as disk:
        master = start_master("--import", "support.hard", "--concurrency", "2").until_serving()
        with frozen(disk):
            result = await service.enqueue(hard.write_file, str(disk / "file"))
            [worker] = wait_until(lambda: [pid for pid in master.workers() if stalled_threads(pid)], "it waits")
            wait_until(lambda: is_being_killed(worker), "it has been killed, in vain")
            assert [await (await service.enqueue(zoo.good, n)).get(30) for n in range(50)] == list(range(1, 51))
            assert (await result.refresh()).status == "running"
            assert len(logbook.read(logbook_file)) == 1
        assert [attempt.outcome for attempt in (await result.wait(30)).attempts] == ["timed_out", "succeeded"]
        master.__exit__(None, None, None)
