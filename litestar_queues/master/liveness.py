"""Who lives on this host is proved, not guessed.

A master holds a lock on a file of its own, and its workers inherit it: while the lock is taken,
one of them may be running a job; when it can be taken, all are gone and their jobs can be run
again at once. Holders that outlive a dead master are strays: they are killed first.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Self

import msgspec
from msgspec import Struct

from litestar_queues.cell import CellFile
from litestar_queues.lifecycle import Lost, Outcome, Raised, Returned
from litestar_queues.master import strays
from litestar_queues.models import ClaimedJob, ErrorReport, Receipt
from litestar_queues.nodes import Node


class Holder(Struct):
    """Which process made a lock file: its pid, and when that was started (clock ticks since boot)."""

    pid: int
    started: int
    namespace: str = ""
    """Of process numbers: in another container the pid means another process, or none."""


class NodeFiles:
    """The lock and the cells of this master, and which processes may outlive it, as files in the store's folder."""

    def __init__(self, folder: Path, node: str, slots: int) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock_path = folder / f"{node}.lock"
        self._cells_path = folder / f"{node}.cells"
        self._released_path = folder / f"{node}.released"
        self.lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        holder = Holder(os.getpid(), strays.started_at(os.getpid()) or 0, _namespace())
        os.write(self.lock, msgspec.json.encode(holder))
        self.cells = CellFile.create(str(self._cells_path), slots)

    def release(self, cookie: str) -> None:
        """Note that what carries *cookie* may live on, also when this master is gone."""
        with self._released_path.open("a", encoding="ascii") as file:
            file.write(f"{cookie}\n")

    @classmethod
    def create(cls, store_folder: str, node: str, slots: int) -> Self:
        """Make the files of *node*, with *slots* cells."""
        return cls(_run_folder(store_folder), node, slots)

    def remove(self) -> None:
        """Let go of the lock and remove the files: the node has stopped in good order."""
        self.cells.close()
        self._cells_path.unlink(missing_ok=True)
        self._released_path.unlink(missing_ok=True)
        self._lock_path.unlink(missing_ok=True)
        os.close(self.lock)


def is_alive(store_folder: str, node: str) -> bool:
    """Say whether *node*'s master lives; if only strays of it do, kill them and say no.

    Blocks for as long as killed processes take to die; call it on a thread.
    """
    path = _run_folder(store_folder) / f"{node}.lock"
    if _is_free(path):
        return False
    holder = _holder(path)
    if holder is None or holder.namespace not in ("", _namespace()):
        return True  # whoever holds it is not seen from here
    if strays.started_at(holder.pid) == holder.started:
        return True
    status = path.stat()
    lock = (status.st_dev, status.st_ino)
    released = _released(store_folder, node)
    strays.sweep(cookie=f"{node}.", lock=lock, released=released)
    # What was allowed to live on may hold the lock for ever, and runs no job. But if nobody is seen to
    # hold it, it is somebody whom we cannot see.
    return bool(strays.carriers(lock=lock, released=released)) or not (strays.carriers(lock=lock) or _is_free(path))


def is_locked(store_folder: str, node: str) -> bool:
    """Say whether anything of *node* lives, and do nothing about it."""
    return not _is_free(_run_folder(store_folder) / f"{node}.lock")


def sweep_node(store_folder: str, node: str) -> list[int]:
    """Kill what the jobs of a dead node left running, though it let go of the lock."""
    return strays.sweep(cookie=f"{node}.", released=_released(store_folder, node))


def forget(store_folder: str, node: str) -> None:
    """Remove the files of a node that is gone."""
    for ending in ("lock", "cells", "released"):
        (_run_folder(store_folder) / f"{node}.{ending}").unlink(missing_ok=True)


def starts_of(store_folder: str, nodes: list[str]) -> dict[tuple[int, int], int]:
    """Return what dead nodes have begun of late: wall time by number and fence."""
    folder = _run_folder(store_folder)
    return {claim: at for node in nodes for claim, at in CellFile.starts(str(folder / f"{node}.cells")).items()}


def outcome_at_caller(job: ClaimedJob, *, now: int) -> tuple[Outcome, Receipt]:
    """Return what became of a job that ran in its caller, which is gone: nobody else can run it."""
    message = f"the process that ran it at once (backend {job.backend!r}) died; enqueue it again"
    return Raised(ErrorReport("CallerLost", message), retryable=False), Receipt(job.created_at, now)


def outcome_at_master(started_at: int | None, *, now: int) -> tuple[Outcome, Receipt | None]:
    """Return what became of a dead master's job: lost if its function was started, else merely returned."""
    if started_at is None:
        return Returned("its master died before the job was started"), None
    return Lost(), Receipt(started_at, max(now, started_at))


def dead_nodes(store_folder: str, nodes: list[Node], own: str) -> tuple[list[str], list[str]]:
    """Sort *nodes* into the dead and the living; *own* lives. Blocks; call it on a thread."""
    living = [node.id for node in nodes if node.id == own or is_alive(store_folder, node.id)]
    dead = [node.id for node in nodes if node.id not in living]
    for node in dead:
        sweep_node(store_folder, node)
    return dead, living


def _released(store_folder: str, node: str) -> frozenset[str]:
    """Return the cookies of a node's workers whose last job was allowed to leave processes behind."""
    try:
        lines = (_run_folder(store_folder) / f"{node}.released").read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return frozenset()
    return frozenset(line for line in lines if line)


def _run_folder(store_folder: str) -> Path:
    return Path(store_folder) / "run"


def _is_free(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        # Shared: of several that look at the same moment, none takes another for the holder.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:  # a hardened container
        return ""


def _holder(path: Path) -> Holder | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Holder)
    except (OSError, msgspec.DecodeError):
        return None
