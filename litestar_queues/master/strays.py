"""Find and end the processes that a worker's job left behind.

A descendant is told by one of three signs: the worker's session, the worker's cookie in its
environment, or an open descriptor of the node's lock. ``fork``, ``Popen(start_new_session=True)``
and a double fork keep at least one of them. Limit: code that changes the session, cleans its
environment *and* closes all descriptors.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Iterator

from litestar_queues.wire import COOKIE

_ROUNDS = 20
"""A process may fork while it is looked for; a tree that still grows after so many rounds is reported."""

_DYING = 0.1
"""Seconds to wait for one killed process to be gone before the next look."""


def sweep(
    *,
    session: int | None = None,
    cookie: str | None = None,
    lock: tuple[int, int] | None = None,
    released: frozenset[str] = frozenset(),
    below: int | None = None,
) -> list[int]:
    """Kill every process that carries one of the signs, and return their pids.

    *session* is a worker's pid (it leads its session), *cookie* the beginning of the environment
    variable's value, *lock* device and inode of a node's lock file. A process with a cookie in
    *released* is spared; the caller never kills itself. Looks again until nothing is found.

    *below* is a living process that adopts orphans and has started all of them: only what is below it is
    looked at. Every process of the machine costs 30 µs; where there are 116, that was half of what
    the death of a worker costs the master.
    """

    def is_ours(pid: int) -> bool:
        return _carries(pid, session, cookie, lock) and not _is_released(pid, released)

    killed: list[int] = []
    for _ in range(_ROUNDS):
        fresh = [pid for pid in _candidates(below) if is_ours(pid) and _kill(pid, is_ours)]
        if not fresh:
            break
        killed += [pid for pid in fresh if pid not in killed]
    return killed


def carriers(*, lock: tuple[int, int], released: frozenset[str] = frozenset()) -> list[int]:
    """Return the processes that hold *lock* open, but for those with a cookie in *released*."""
    return [pid for pid in _processes() if _carries(pid, None, None, lock) and not _is_released(pid, released)]


def state_of(pid: int) -> str | None:
    """Return the state letter of a process (``R``, ``S``, ``D``, ``T``, ``Z``), or None when it is gone."""
    fields = _stat(pid)
    return fields[0] if fields else None


def memory_of(pid: int) -> int | None:
    """Return the resident memory of a process in bytes, or None when it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return None


def started_at(pid: int) -> int | None:
    """Return when a process was started, in clock ticks since boot: with the pid, who it is."""
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def orphans(known: set[int]) -> Iterator[int]:
    """Yield the dead children of this process that are not in *known*: what it got as subreaper."""
    own = os.getpid()
    try:
        children = _children(own)
    except OSError:
        return
    for pid in children:
        if pid not in known and state_of(pid) == "Z":
            yield pid


def _candidates(below: int | None) -> list[int]:
    if below is not None:
        try:
            return _descendants(below)
        except OSError:  # one of them has just ended, or the kernel does not list children
            pass
    return _processes()


def _descendants(pid: int) -> list[int]:
    found = _children(pid)
    for each in found:  # it grows meanwhile
        found += _children(each)
    return found


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
            found += map(int, file.read().split())
    return found


def _processes() -> list[int]:
    own = os.getpid()
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != own]


def _carries(pid: int, session: int | None, cookie: str | None, lock: tuple[int, int] | None) -> bool:
    fields = _stat(pid)
    if fields is None or fields[0] in "ZX":
        return False
    if session is not None and int(fields[3]) == session:
        return True
    if cookie is not None and _has_cookie(pid, cookie):
        return True
    return lock is not None and _holds(pid, lock)


def _has_cookie(pid: int, cookie: str) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            environment = file.read()
    except OSError:
        return False
    sign = f"{COOKIE}={cookie}".encode()
    return environment.startswith(sign) or b"\0" + sign in environment


def _is_released(pid: int, released: frozenset[str]) -> bool:
    return any(_has_cookie(pid, cookie) for cookie in released)


def _holds(pid: int, lock: tuple[int, int]) -> bool:
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)
    except OSError:
        return False
    for name in names:
        try:
            status = os.stat(f"{folder}/{name}")
        except OSError:
            continue
        if (status.st_dev, status.st_ino) == lock and _is_locked_through(pid, name):
            return True
    return False


def _is_locked_through(pid: int, descriptor: str) -> bool:
    """Say whether a process holds a lock for writing through *descriptor*.

    Inherited from the master it does; one that has only opened the file to see whether it is locked does not.
    """
    try:
        with open(f"/proc/{pid}/fdinfo/{descriptor}", encoding="ascii") as file:
            return any(line.startswith("lock:") and "FLOCK" in line and "WRITE" in line for line in file)
    except OSError:
        return False


def _kill(pid: int, still: Callable[[int], bool]) -> bool:
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        # The pid may have come to mean another process since it was looked at.
        if not still(pid):
            return False
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        select.select([descriptor], [], [], _DYING)  # readable once it is dead
    except (ProcessLookupError, PermissionError):  # gone, or another user's by setuid: not ours to end
        return False
    finally:
        os.close(descriptor)
    return True


def _stat(pid: int) -> list[str] | None:
    """Return the fields of ``/proc/PID/stat`` from the state on (its name may hold anything)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return None
