"""Processes that a job leaves behind.

A worker is a subreaper: whatever its jobs start, and however often that forks, stays below it. So
"is anything left" is one system call (0.5 µs), and only a job that did leave something costs a
walk through ``/proc``.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from litestar_queues.wire import COOKIE

PATIENCE = 2.0
"""Seconds that killed processes get to be gone; one in an uninterruptible call is reported and left."""
_LOOK_EVERY = 0.001
_HELPER = "from multiprocessing.resource_tracker import main"


def has_children() -> bool:
    """Say whether this process has a child, dead or alive."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def end_all() -> list[str]:
    """Kill and reap every descendant, and return those that were alive, as ``PID command``.

    Spared is Python's own helper, which keeps count of shared memory for the whole process: killed, it
    would be started anew by the next job, and complain of what it has forgotten.
    """
    own = os.getpid()
    found: dict[int, str] = {}
    give_up = time.monotonic() + PATIENCE
    while reap_dead() and time.monotonic() < give_up:
        victims = [pid for pid in _descendants(own) if not _is_helper(pid)]
        if not victims:
            break
        for pid in victims:
            found.setdefault(pid, f"{pid} {_command_of(pid)}")
            _kill(pid)
        time.sleep(_LOOK_EVERY)
    return list(found.values())


def reap_dead() -> bool:
    """Reap children that are dead, and return whether one is alive."""
    _reap()
    return has_children()


def children_of(pid: int) -> set[int]:
    """Return the children of a process, those of all its threads."""
    found: set[int] = set()
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            found.update(map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text(encoding="ascii").split()))
    except OSError:  # it, or one of its threads, is gone: nothing of it is left to be listed
        return found
    return found


def cookie_of(pid: int) -> str:
    """Return the cookie that a process carries; empty for none."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return ""
    sign = f"{COOKIE}=".encode()
    for entry in environment.split(b"\0"):
        if entry.startswith(sign):
            return entry.removeprefix(sign).decode(errors="replace")
    return ""


def _descendants(pid: int) -> set[int]:
    found: set[int] = set()
    fresh = children_of(pid)
    while fresh:
        found |= fresh
        fresh = {child for each in fresh for child in children_of(each)} - found
    return {pid for pid in found if not _is_dead(pid)}


def _is_helper(pid: int) -> bool:
    """Say whether a process keeps count of shared memory: this one's, which its command may not show yet, or a child's."""
    tracker = sys.modules.get("multiprocessing.resource_tracker")
    own = getattr(getattr(tracker, "_resource_tracker", None), "_pid", None)
    return pid == own or _HELPER in _command_of(pid)


def _reap() -> None:
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # gone, or another user's by setuid: not ours to end
        return


def _is_dead(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def _command_of(pid: int) -> str:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
    except OSError:
        return ""
    return command.decode(errors="backslashreplace").strip()
