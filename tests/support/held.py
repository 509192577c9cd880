"""What processes hold, by kind: what must be the same again after any amount of work."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from pathlib import Path


def held_by(pid: int) -> list[str]:
    """Return the kinds of descriptors that a process holds: files by name, sockets and pipes as such."""
    kinds: list[str] = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:  # it was the moment's
            continue
        kinds.append(target.partition(":[")[0])
    return sorted(kinds)


def mapped_by(pid: int) -> Counter[str]:
    """Return how often a process has mapped each file that is shared memory or the queue's own."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    names = [line.split(maxsplit=5)[5] for line in lines if len(line.split(maxsplit=5)) == 6]
    return Counter(name for name in names if name.startswith(("/dev/shm", "/memfd:")) or ".lq/" in name)


def threads_of(pid: int) -> int:
    """Return how many threads a process has."""
    return len(os.listdir(f"/proc/{pid}/task"))


def loose_files(*folders: Path) -> set[str]:
    """Return the files in *folders*, in shared memory, and those of ours in the folder for temporary ones."""
    found = {str(path) for folder in folders for path in folder.rglob("*")}
    found |= {str(path) for path in Path("/dev/shm").glob("*")}
    return found | {str(path) for path in Path(tempfile.gettempdir()).glob("*lq*")}
