"""What the benchmarks share: real masters on databases of their own, and figures for people."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support import logbook
from support.masters import RunningMaster
from support.waiting import wait_until


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def milliseconds(values: list[float]) -> str:
    p50, p99 = percentile(values, 0.5), percentile(values, 0.99)
    return f"p50 {p50 * 1e3:.2f} ms, p99 {p99 * 1e3:.2f} ms, worst {max(values) * 1e3:.2f} ms ({len(values)} samples)"


@contextlib.contextmanager
def bench(*arguments: str) -> Iterator[tuple[str, RunningMaster, Path]]:
    with tempfile.TemporaryDirectory(prefix="lq-bench-", dir=os.environ.get("LQ_BENCH_DIR")) as folder:
        path = Path(folder)
        os.environ[logbook.VARIABLE] = str(path / "logbook")
        url = f"sqlite:///{path / 'bench.db'}"
        with RunningMaster(path, "--import", "support.zoo", "--log-level", "none", *arguments, url=url) as master:
            master.until_serving()
            wait_until(lambda: _are_idle(master), "the workers have booted")
            yield url, master, path


def _are_idle(master: RunningMaster) -> bool:
    """True once nothing of the master has used any CPU for half a second: everything has booted."""
    before = cpu_of_tree(master)
    time.sleep(0.5)
    return bool(master.workers()) and cpu_of_tree(master) - before < 0.03


def cpu_of_tree(master: RunningMaster) -> float:
    ticks = 0
    for pid in [master.pid, *master.zygotes(), *master.workers()]:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def starts(path: Path, name: str) -> list[list[str]]:
    return [words for words in logbook.read(path / "logbook") if words[2:4] == ["start", name]]
