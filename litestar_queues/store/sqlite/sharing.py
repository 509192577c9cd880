"""One writer a process and place, whatever the number of stores; and what a fork means for it."""

from __future__ import annotations

import os
import threading

from litestar_queues.store.opening import Durability
from litestar_queues.store.sqlite.location import Location
from litestar_queues.store.sqlite.writer import Writer

_writers: dict[str, Writer] = {}
_lock = threading.Lock()
_left_by_parent: list[Writer] = []
"""Writers of the parent process, kept so that nothing closes their connections: SQLite must not be
carried over a fork, not even to close it."""


def acquire(location: Location, durability: Durability) -> Writer:
    """Return the process's writer for a place, opened; blocks. Each ``acquire`` needs one ``release``."""
    key = str(location.path)
    with _lock:
        writer = _writers.get(key)
        if writer is None:
            writer = Writer(location, durability)
            writer.wait_until_open()
            _writers[key] = writer
        writer.require(durability)
        writer.users += 1
        return writer


def release(location: Location, writer: Writer) -> None:
    """Let go of a writer; the last one to do so ends its thread. Blocks."""
    if writer.pid != os.getpid():
        return
    with _lock:
        writer.users -= 1
        if writer.users == 0:
            _writers.pop(str(location.path), None)
            writer.stop()


def _forget_parents_writers() -> None:
    global _lock
    _lock = threading.Lock()  # another thread of the parent may have held it
    for writer in _writers.values():
        writer.let_go_in_child()
    _left_by_parent.extend(_writers.values())
    _writers.clear()


os.register_at_fork(after_in_child=_forget_parents_writers)
