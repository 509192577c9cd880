"""Start a peer's worker processes, and find, weigh and end everything that they have started."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from pathlib import Path

from work import SPACE, space

_PR_SET_PDEATHSIG = 1


def start(commands: list[list[str]], environment: dict[str, str]) -> list[subprocess.Popen[bytes]]:
    """Start each command; what it prints goes to ``workers.log``, and it dies with the adapter."""
    libc = ctypes.CDLL(None)
    here = str(Path(__file__).parent)
    everything = {**os.environ, "PYTHONPATH": here, **environment}
    with (space() / "workers.log").open("ab") as log:
        return [
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=space(),
                env=everything,
                preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),  # noqa: PLW1509 - one system call
            )
            for command in commands
        ]


def members() -> list[int]:
    """Give the pids of all processes that inherited this run's folder, however deep or orphaned."""
    mark = f"{SPACE}={space()}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def end(started: list[subprocess.Popen[bytes]], patience_s: float = 3.0) -> None:
    """Ask the started processes to stop, then kill whatever of the run is left. Without any, do nothing."""
    if not started:
        return
    for process in started:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + patience_s
    while members() and time.monotonic() < deadline:
        for process in started:
            process.poll()
        time.sleep(0.02)
    for _ in range(100):
        left = members()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in started:
            process.poll()
        if not left:
            return
        time.sleep(0.02)
    raise RuntimeError(f"processes {members()} outlived SIGKILL by two seconds")


def pss_mib(pids: list[int]) -> float:
    """Add up the memory of *pids*, pages that are shared counted once (PSS, MiB)."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total / 1024
