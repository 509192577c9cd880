"""The machine that it was measured on, as far as it decides the figures."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct

from litestar_queues.exceptions import QueueConfigurationError

_SYNCS = 50


class Machine(Struct, frozen=True):
    """What a reader of figures should know first."""

    at: str
    cpus: int
    cpu: str
    kernel: str
    python: str
    sqlite: str
    filesystem: str
    sync_ms: float
    """Milliseconds that a write of 4 KiB and its sync take, by the median: the price of a durable commit."""
    load: float
    """Processes that ran before the bench began, over the last minute: what else the machine does."""


def look(folder: Path) -> Machine:
    """Return the machine, with the disk that holds *folder*; ``QueueConfigurationError`` where nothing can be written."""
    try:
        sync_ms = _sync_ms(folder)
    except OSError as error:
        raise unusable(folder.parent, error) from error
    return Machine(
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        cpus=len(os.sched_getaffinity(0)),
        cpu=_cpu(),
        kernel=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        sqlite=sqlite3.sqlite_version,
        filesystem=filesystem_of(folder),
        sync_ms=sync_ms,
        load=round(os.getloadavg()[0], 2),
    )


def unusable(folder: Path, error: OSError) -> QueueConfigurationError:
    """Return what is to be said of a folder in which nothing can be written."""
    return QueueConfigurationError(
        f"nothing can be measured in {folder}: {error.strerror}; name another with --folder, or make room there"
    )


def filesystem_of(folder: Path) -> str:
    """Return the type of the filesystem that holds *folder*: ``ext4``, ``tmpfs``."""
    where = str(folder.resolve())
    best, kind = "", "unknown"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount, name = line.split()[:3]
        is_above = mount == "/" or where == mount or where.startswith(mount + "/")
        if is_above and len(mount) >= len(best):
            best, kind = mount, name
    return kind


def _sync_ms(folder: Path) -> float:
    took: list[float] = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(_SYNCS):
            at = time.perf_counter()
            os.write(file.fileno(), b"x" * 4096)
            os.fdatasync(file.fileno())
            took.append((time.perf_counter() - at) * 1e3)
    return round(statistics.median(took), 3)


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
