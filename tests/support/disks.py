"""A disk of its own for a test, small enough to be full."""

from __future__ import annotations

import os
import shutil
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


@contextmanager
def ext4_disk(folder: Path) -> Iterator[Path]:
    """Mount a file system that can be frozen; the test is skipped where that is not allowed."""
    image, disk = folder / "image", folder / "disk"
    disk.mkdir()
    with image.open("wb") as file:
        file.truncate(64 * 1024 * 1024)
    steps = (["mkfs.ext4", "-q", "-F", image], ["mount", "-o", "loop", image, disk])
    tools = all(shutil.which(tool) for tool in ("mkfs.ext4", "fsfreeze"))
    if os.getuid() != 0 or not tools or any(subprocess.run(step, capture_output=True).returncode for step in steps):
        pytest.skip("NOT TESTED: a frozen disk (a file system of one's own cannot be mounted here)")
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


@contextmanager
def frozen(disk: Path) -> Iterator[None]:
    """Let nobody write to *disk*: whoever tries waits in the kernel, deaf to SIGKILL, until it is thawed."""
    # Whatever becomes of this process, nothing waits for ever.
    guard = subprocess.Popen(["sh", "-c", f"sleep 60; exec fsfreeze -u {disk}"], stderr=subprocess.DEVNULL)
    try:
        subprocess.run(["fsfreeze", "-f", disk], check=True)
        try:
            yield
        finally:
            subprocess.run(["fsfreeze", "-u", disk], check=True)
    finally:
        guard.kill()
        guard.wait()
