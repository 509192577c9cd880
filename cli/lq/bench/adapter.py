"""An adapter's side of the protocol between who measures and who is measured.

An adapter is a program that is called as ``ADAPTER SCENARIO --jobs N --workers W --folder DIR
[--seconds S]``, sets up, does the work, and prints a JSON object as its last line. Before and after
the measured part it prints ``MARK begin`` and ``MARK end`` and waits for a line on its standard
input: then the CPU that its processes have used is read from outside, so that nobody measures
himself. Peers' adapters (``benchmarks/peers``) have the same lines of their own: they run in
environments where this package is not installed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import msgspec
import uvloop


class Work(msgspec.Struct, frozen=True):
    """What an adapter is to do."""

    scenario: str
    jobs: int
    workers: int
    folder: Path
    seconds: float

    @property
    def url(self) -> str:
        """A database in the folder made for this run."""
        return f"sqlite:///{self.folder / 'bench.db'}"


class Told(msgspec.Struct, omit_defaults=True):
    """What an adapter says at the end: the last line of its output."""

    scenario: str
    jobs: int = 0
    seconds: float = 0.0
    latencies_ms: list[float] | None = None
    settings: str = ""
    durability: str = ""
    version: str = ""
    extra: dict[str, Any] = {}
    skipped: str | None = None


class Part:
    """The measured part of a run: a context manager that marks both ends and takes the time.

    ::

        with Part() as part:
            ...
        part.seconds
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = 0.0

    def __enter__(self) -> Self:
        mark("begin")
        self._began = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.seconds = time.monotonic() - self._began
        if kind is None:
            mark("end")


def mark(which: Literal["begin", "end"]) -> None:
    """Say that the measured part begins or ends, and wait until that has been noted."""
    print(f"MARK {which}", flush=True)
    if not sys.stdin.readline():
        sys.exit("who measures has gone")


Measure = Callable[[Work], Awaitable[Told]]


def serve(measures: Mapping[str, Measure], arguments: Sequence[str] | None = None) -> None:
    """Be an adapter that has these measures."""
    parser = argparse.ArgumentParser(description="One run of one scenario; `lq bench` calls it.")
    parser.add_argument("scenario", nargs="?", choices=[*measures, []])
    parser.add_argument("--list", action="store_true", help="print the scenarios as JSON")
    parser.add_argument("--jobs", type=int, default=1_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--seconds", type=float, default=5.0)
    given = parser.parse_args(arguments)
    if given.list or not given.scenario:
        print(msgspec.json.encode(list(measures)).decode())
        return
    work = Work(given.scenario, given.jobs, given.workers, given.folder.absolute(), given.seconds)

    async def run() -> Told:
        return await measures[work.scenario](work)

    told = uvloop.run(run())
    print(msgspec.json.encode(told).decode(), flush=True)
