"""The work that every peer is given, and how the worker's side tells the adapter what it has done.

Both sides share one folder in memory (``LQ_PEER_SPACE``): a job that ends appends one byte to
``done``, a job whose pickup is timed appends a line to ``stamps``. An append of a few bytes costs
about a microsecond, needs no lock between processes, and can be counted by one ``stat``.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import time
from pathlib import Path

SPACE = "LQ_PEER_SPACE"
SLOTS = "LQ_PEER_SLOTS"
WORK_S = 0.005


def space() -> Path:
    return Path(os.environ[SPACE])


def slots() -> int:
    """How many jobs at a time this worker process is asked to run."""
    return int(os.environ[SLOTS])


@functools.cache
def _opened(name: str) -> int:
    return os.open(space() / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def add(name: str, entry: bytes = b".") -> None:
    os.write(_opened(name), entry)


def hold() -> None:
    """Say that this worker has booted, and wait until it may start to work."""
    add("ready")
    gate = space() / "gate"
    while not gate.exists():
        if os.getppid() == 1:
            raise SystemExit("the benchmark is gone")
        time.sleep(0.001)


def noop() -> bool:
    add("done")
    return True  # some queues keep no result that is None


def nap() -> bool:
    time.sleep(WORK_S)
    return noop()


def burn() -> bool:
    """Use 5 ms of CPU time, however long that takes on a busy machine."""
    until = time.thread_time() + WORK_S
    while time.thread_time() < until:
        pass
    return noop()


def stamp(token: int) -> bool:
    add("stamps", b"%d %d\n" % (token, time.monotonic_ns()))
    return True


def echo(text: str) -> str:
    return text


async def anoop() -> bool:
    return noop()


async def anap() -> bool:
    await asyncio.sleep(WORK_S)
    return noop()


async def aburn() -> bool:
    return burn()


async def astamp(token: int) -> bool:
    return stamp(token)


async def aecho(text: str) -> str:
    return text


BLOCKING = {"noop": noop, "nap": nap, "burn": burn, "stamp": stamp, "echo": echo}
ASYNC = {"noop": anoop, "nap": anap, "burn": aburn, "stamp": astamp, "echo": aecho}


def how_many(name: str) -> int:
    """Count the one-byte entries of *name* so far."""
    with contextlib.suppress(FileNotFoundError):
        return os.stat(space() / name).st_size
    return 0


def stamps() -> dict[int, int]:
    """Give the time (ns, CLOCK_MONOTONIC) at which each stamped job started."""
    with contextlib.suppress(FileNotFoundError):
        lines = (space() / "stamps").read_text().splitlines()
        return {int(token): int(at) for token, at in (line.split() for line in lines)}
    return {}
