"""One run of ``lq bench`` under what goes wrong: a full disk, a job that fails, hardly anything to measure."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from litestar_queues import QueueConfig, QueueService
from litestar_queues.exceptions import QueueError
from lq.bench import chart, running
from lq.bench.adapter import Work
from lq.bench.machine import Machine
from lq.bench.ours.stage import Stage
from lq.bench.running import Adapter, Order, Run
from lq.bench.servers import Servers
from support.disks import fill_up, small_disk

MACHINE = Machine("2030-01-01", 2, "CPU", "Linux", "3.11", "3.40", "ext4", 0.25, 0.1)
FAST = """
import json, sys
for moment in ("begin", "end"):
    print("MARK", moment, flush=True)
    sys.stdin.readline()
print(json.dumps({"scenario": "drain", "jobs": 100, "seconds": 0.00001}))
"""


def test_a_run_that_hangs_on_a_full_disk_is_told_and_kept(tmp_path: Path) -> None:
    hangs = tmp_path / "hangs.py"
    hangs.write_text("import time\ntime.sleep(600)\n")
    with small_disk(tmp_path, 1) as disk:
        made = disk / "lq-bench-test"
        made.mkdir()
        fill_up(disk / "full")
        result = running.run(
            Adapter("ours", (sys.executable, str(hangs))),
            Order("drain", 1, 1, 1.0, 1.0),
            Servers(wanted=False),
            made,
            round=1,
        )
        assert (result.is_hung, "killed after 1 s" in (result.failed or "")) == (True, True), result.failed
        assert len(list(disk.glob("lq-bench-test-ours-*-hung"))) == 1


def test_a_run_that_gets_no_folder_has_failed_and_ends_no_other(tmp_path: Path) -> None:
    order = Order("drain", 1, 1, 1.0, 1.0)
    result = running.run(Adapter("ours", ("true",)), order, Servers(wanted=False), tmp_path / "gone", round=1)
    assert "could not be run" in (result.failed or "")


async def test_holding_workers_ends_with_the_error_of_the_job_that_was_to_hold_them(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "breaks.py").write_text(
        "from litestar_queues import task\n@task('bench.hold')\ndef hold(flag: str) -> int:\n    raise OSError('no room')\n"
    )
    work = Work("drain", 1, 1, tmp_path, 1.0)
    async with QueueService(QueueConfig(queue_backend=work.url)) as service:
        stage = Stage(work, service, 1)
        stage.start(imports="breaks")
        try:
            with pytest.raises(QueueError, match="1 job failed.*no room"):
                await stage.hold()
        finally:
            stage.stop()


def test_the_chart_of_a_single_job_leaves_out_what_was_not_measured() -> None:
    assert "jobs a second" in chart.draw([Run("ours", "drain", 1, 1, 1.0, 0.1)], MACHINE)


def test_a_measured_part_of_no_time_to_speak_of_has_a_rate(tmp_path: Path) -> None:
    program = tmp_path / "fast.py"
    program.write_text(FAST)
    adapter = Adapter("fast", (sys.executable, str(program)))
    result = running.run(adapter, Order("drain", 1, 1, 1.0, 30.0), Servers(wanted=False), tmp_path, round=1)
    assert result.seconds == 0.00001
