"""What the benchmarks share: real masters on databases of their own, and figures for people."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from lq.bench.figures import percentile
from lq.bench.processes import wait_until_idle
from support import logbook
from support.masters import RunningMaster
from support.waiting import wait_until


def milliseconds(values: list[float]) -> str:
    p50, p99 = percentile(sorted(values), 0.5), percentile(sorted(values), 0.99)
    return f"p50 {p50 * 1e3:.2f} ms, p99 {p99 * 1e3:.2f} ms, worst {max(values) * 1e3:.2f} ms ({len(values)} samples)"


@contextlib.contextmanager
def bench(*arguments: str) -> Iterator[tuple[str, RunningMaster, Path]]:
    with tempfile.TemporaryDirectory(prefix="lq-bench-", dir=os.environ.get("LQ_BENCH_DIR")) as folder:
        path = Path(folder)
        os.environ[logbook.VARIABLE] = str(path / "logbook")
        url = f"sqlite:///{path / 'bench.db'}"
        with RunningMaster(path, "--import", "support.zoo", "--log-level", "none", *arguments, url=url) as master:
            master.until_serving()
            wait_until(master.workers, "there are workers")
            wait_until_idle(master.pid)
            yield url, master, path


def starts(path: Path, name: str) -> list[list[str]]:
    return [words for words in logbook.read(path / "logbook") if words[2:4] == ["start", name]]
