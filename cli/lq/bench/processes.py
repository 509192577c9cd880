"""The processes of a run, found and read from outside: what CPU they have used, what memory they hold.

From ``/proc`` and not from a cgroup: that works for every user, and inside containers, where few
may make a cgroup. The CPU time of a tree is the sum over its living members of their own time
(``utime + stime``) and of that of children that they have reaped (``cutime + cstime``). Nothing is
counted twice: a child that lives is in no parent's sum, and one that was reaped has left the list.
What is missed: children whose parent ignores SIGCHLD, and those that left the tree and were reaped
by init. Resolution: a clock tick (10 ms) for each process.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from pathlib import Path

from msgspec import Struct

MARK = "LQ_BENCH_MARK"
"""Environment variable whose value is the same in all processes of a run."""
_TICK = os.sysconf("SC_CLK_TCK")
_SETTLED = 0.5
"""Seconds."""


class Process(Struct, frozen=True):
    """One line of ``/proc/PID/stat``."""

    pid: int
    name: str
    state: str
    parent: int
    session: int
    ticks: int
    """Its own CPU time, and that of its reaped children."""


def all_processes() -> dict[int, Process]:
    """Return the processes that can be seen."""
    found = (_read(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return {process.pid: process for process in found if process is not None}


def tree_of(root: int, mark: str | None = None) -> list[Process]:
    """Return the living processes that descend from *root*, are in its session, or carry *mark*; root first.

    Parents are read before their children: one that is reaped meanwhile is then missing from the sum,
    where else it would be counted twice.
    """
    processes = all_processes()
    members = {
        pid for pid, each in processes.items() if pid == root or each.session == root or (mark and _carries(pid, mark))
    }
    children: dict[int, list[int]] = {}
    for process in processes.values():
        children.setdefault(process.parent, []).append(process.pid)
    waiting = list(members)
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child not in members:
                members.add(child)
                waiting.append(child)
    members.discard(os.getpid())
    return [processes[pid] for pid in sorted(members, key=lambda pid: (pid != root, pid)) if pid in processes]


def named(name: str) -> list[Process]:
    """Return the processes of a program: a server that was there before the run."""
    return [process for process in all_processes().values() if process.name == name]


def cpu_seconds(processes: list[Process]) -> float:
    """Return the CPU time of *processes* and of their reaped children."""
    return sum(process.ticks for process in processes) / _TICK


def describe(process: Process) -> str:
    """Return a line on *process*: who it is, what it has used, and where in the kernel it waits."""
    wait = ""
    with contextlib.suppress(OSError):  # it has ended, or the kernel does not tell
        wait = Path(f"/proc/{process.pid}/wchan").read_text()
    return (
        f"{process.pid} of {process.parent} {process.name!r} state {process.state}, {process.ticks / _TICK:g} s of CPU, "
        f"waits in {wait or 'an unknown place'}"
    )


class Memory(Struct, frozen=True):
    """Memory of some processes together, in MiB."""

    rss: float
    pss: float
    """Each page that several share is counted once."""


def memory_of(pids: list[int]) -> Memory:
    """Return what these processes hold now."""
    totals = {"Rss": 0, "Pss": 0}
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                name, _, rest = line.partition(":")
                if name in totals:
                    totals[name] += int(rest.split()[0])
    return Memory(rss=totals["Rss"] / 1024, pss=totals["Pss"] / 1024)


def wait_until_idle(root: int, *, limit: float = 30.0) -> None:
    """Return once the tree below *root* has used hardly any CPU for half a second: everything has booted."""
    until = time.monotonic() + limit
    before = cpu_seconds(tree_of(root))
    while time.monotonic() < until:
        time.sleep(_SETTLED)
        now = cpu_seconds(tree_of(root))
        if now - before < 0.03:
            return
        before = now


def kill_tree(root: int, mark: str, *, limit: float = 5.0) -> int:
    """Kill whatever is left of a run; return how many processes that were."""
    killed: set[int] = set()
    until = time.monotonic() + limit
    while left := [process.pid for process in tree_of(root, mark) if process.state not in "ZX"]:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        killed.update(left)
        if time.monotonic() > until:  # one that is in an uninterruptible call cannot be ended by anyone
            break
        time.sleep(0.01)
    return len(killed)


def send(process: Process, number: signal.Signals) -> None:
    """Send a signal to *process*, if it is there and ours; one that ends it leaves no core behind."""
    with contextlib.suppress(OSError):
        resource.prlimit(process.pid, resource.RLIMIT_CORE, (0, 0))
        os.kill(process.pid, number)


def memory_file_of(process: Process, name: str) -> str:
    """Return what is in the memory file *name* that *process* holds; nothing where it holds none."""
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{process.pid}/fd").iterdir():
            if os.readlink(link).startswith(f"/memfd:{name}"):
                return link.read_text(errors="replace")
    return ""


def _read(pid: int) -> Process | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:  # it has ended meanwhile
        return None
    head, _, rest = text.rpartition(")")
    fields = rest.split()
    ticks = sum(map(int, fields[11:15]))
    return Process(pid, head.partition("(")[2], fields[0], int(fields[1]), int(fields[3]), ticks)


def _carries(pid: int, mark: str) -> bool:
    try:
        return f"{MARK}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # it has ended, or is another user's
        return False
