"""A disk of its own for a test, small enough to be full."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, mebibytes: int) -> Iterator[Path]:
    """Mount a file system of that size in *folder*; the test is skipped where that is not allowed."""
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", disk]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("NOT TESTED: a full disk (a small one cannot be mounted here)")
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


def fill_up(file: Path) -> None:
    """Write *file* until nothing is left of its disk."""
    with file.open("ab", buffering=0) as writer:
        for size in (64 * 1024, 4096, 1):
            try:
                while True:
                    writer.write(b"x" * size)
            except OSError:  # no room for so many bytes
                continue
