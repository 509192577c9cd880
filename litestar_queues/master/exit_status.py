"""How a process ended, in words, with the likely reason where the kernel tells one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path


class OutOfMemory:
    """Counts what the kernel's out-of-memory killer has done, on this host and in this container."""

    def __init__(self) -> None:
        self._files = [Path("/proc/vmstat"), *_cgroup_files()]
        self._before = self._last = self._count()

    def sample(self) -> None:
        """Forget what it did before the last sample; for whoever keeps the time."""
        self._before, self._last = self._last, self._count()

    def has_struck(self) -> bool:
        """Say whether it has killed anything since the sample before the last one."""
        return self._count() > self._before

    def _count(self) -> int:
        return sum(_kills_in(file) for file in self._files)


def in_words(status: int, *, by_us: bool = False, out_of_memory: Callable[[], bool] = lambda: False) -> str:
    """Return what a wait status means, as a verb phrase: ``was killed by SIGSEGV``.

    A SIGKILL that is not *by_us* came from outside: by hand, or from the kernel, *out_of_memory*. That is
    asked only then: it reads files, which takes half a millisecond.
    """
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exited with status {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    if name == "SIGKILL" and not by_us:
        why = "by the kernel: the machine or the container is out of memory" if out_of_memory() else "from outside"
        return f"was killed by SIGKILL ({why})"
    return f"was killed by {name}"


def _cgroup_files() -> list[Path]:
    """Return where this process's control groups (version 2, and 1) count such kills."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    files: list[Path] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            files.append(Path(f"/sys/fs/cgroup{path}/memory.events"))
        elif "memory" in controllers.split(","):
            files.append(Path(f"/sys/fs/cgroup/memory{path}/memory.oom_control"))
    return [file for file in files if file.exists()]


def _kills_in(file: Path) -> int:
    try:
        text = file.read_text(encoding="ascii")
    except OSError:
        return 0
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill" and value.strip().isdigit():
            return int(value)
    return 0
