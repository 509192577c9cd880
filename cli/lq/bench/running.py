"""Run one adapter once: start it, read the CPU at its marks, end it whatever happens.

It has a session of its own, a folder of its own, and a limit. One that hangs is killed with all
that it has started, and what is left of one that ended is killed too: a run ends with nothing of it
alive. Of ours, and of the bare limit, what tells why it hung is kept: database, logs and stacks.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from lq import owned
from lq.bench import processes
from lq.bench.adapter import Told
from lq.bench.servers import Servers

# Without a buffer, Python drops what a write to a full pipe has left over: of 25 lines of 370 KB one was
# cut at 192 KiB, with status 0. Without bytecode each process compiles all that it imports.
_NOT_INHERITED = ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE")
_OURS_ALONE = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
_STACKS = {"PYTHONFAULTHANDLER": "1"}
"""Has Python write the stacks of all its threads to standard error when a signal ends it."""
_TO_WRITE_THEM = 0.3
"""Seconds."""
_NANOSECONDS = 9
"""Digits of the time that is divided by: a few messages take less than 50 µs, and that is not none."""
_LAST_WORDS = 2_000
"""Characters of what a failed adapter wrote that are kept."""


class Adapter(Struct, frozen=True):
    """A queue that can be measured, or what stands for one."""

    name: str
    command: tuple[str, ...]
    has_our_python: bool = True
    """It is run by our interpreter and finds what we find; a peer has an environment of its own."""
    servers: frozenset[str] = frozenset()
    """What it keeps its jobs in, of ``servers.NAMES``: it is given a database there, and that CPU is counted."""

    def environment(self) -> dict[str, str]:
        """Return what it inherits."""
        kept = owned.inherited() if self.has_our_python else dict(os.environ)
        for name in (*_NOT_INHERITED, *(() if self.has_our_python else _OURS_ALONE)):
            kept.pop(name, None)
        return kept | _STACKS if self.has_our_python else kept


class Order(Struct, frozen=True):
    """What one run is to do, and for how long at most."""

    scenario: str
    jobs: int
    workers: int
    seconds: float
    limit: float
    """Seconds after which it is killed."""


class Run(Struct, omit_defaults=True):
    """What came of one run. Either it was told, or it was skipped, or it failed."""

    peer: str
    scenario: str
    round: int
    jobs: int = 0
    seconds: float = 0.0
    """Of the measured part."""
    cpu_seconds: float = 0.0
    """Used by all its processes in the measured part."""
    server_cpu_seconds: dict[str, float] = {}
    """Used meanwhile by each server that it uses, for whomever."""
    latencies_ms: list[float] | None = None
    settings: str = ""
    durability: str = ""
    version: str = ""
    extra: dict[str, Any] = {}
    left: int = 0
    """Processes that it left behind, and that were killed."""
    took: float = 0.0
    """Seconds from its start to its end."""
    skipped: str | None = None
    """Why it cannot do this scenario."""
    failed: str | None = None
    """What went wrong."""
    is_hung: bool = False
    """It was killed at its limit."""

    @property
    def is_good(self) -> bool:
        """True when there are figures."""
        return self.skipped is None and self.failed is None


class Reading(Struct, frozen=True):
    """CPU seconds at one moment."""

    tree: float
    servers: dict[str, float]


def run(adapter: Adapter, order: Order, servers: Servers, folder: Path, *, round: int) -> Run:
    """Have *adapter* do *order* in a new folder inside *folder*."""
    began = time.monotonic()
    try:
        own = Path(tempfile.mkdtemp(prefix=f"{adapter.name}-", dir=folder))
        result = _run_in(own, adapter, order, servers, round)
    except (OSError, ValueError, subprocess.SubprocessError) as error:  # its folder, its Python, its database
        result = Run(adapter.name, order.scenario, round, failed=f"it could not be run: {error}")
    result.took = round_to(time.monotonic() - began)
    return result


def _run_in(own: Path, adapter: Adapter, order: Order, servers: Servers, round: int) -> Run:
    try:
        with servers.databases(adapter.servers) as databases:
            result = _Attempt(adapter, order, servers, own, databases).conclude(round)
        if result.is_hung and adapter.has_our_python:
            with contextlib.suppress(OSError):  # then it goes, and the report says that it hung all the same
                own.rename(_kept(own))
        return result
    finally:
        shutil.rmtree(own, ignore_errors=True)


def round_to(value: float, digits: int = 4) -> float:
    """Return *value* without digits that mean nothing."""
    return float(f"{value:.{digits}f}")


def _kept(own: Path) -> Path:
    """Return where the folder of a run that hung is kept: beside that of all runs, which goes."""
    return own.parent.with_name(f"{own.parent.name}-{own.name}-hung")


class _Attempt:
    """One process tree, from its start to its end."""

    def __init__(
        self, adapter: Adapter, order: Order, servers: Servers, folder: Path, databases: dict[str, str]
    ) -> None:
        self._adapter = adapter
        self._order = order
        self._servers = servers
        self._mark = uuid.uuid4().hex
        self._readings: list[Reading] = []
        self._lines: list[str] = []
        self._partial = b""
        self._folder = folder
        self._errors = folder / "stderr"
        options = ("--jobs", str(order.jobs), "--workers", str(order.workers), "--folder", str(folder))
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [*adapter.command, order.scenario, *options, "--seconds", str(order.seconds)],
                cwd=folder,
                env={**adapter.environment(), **databases, processes.MARK: self._mark},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )

    def conclude(self, round: int) -> Run:
        """Follow it to its end, end what is left, and say what came of it."""
        result = Run(self._adapter.name, self._order.scenario, round)
        try:
            is_over = self._follow(time.monotonic() + self._order.limit)
            if not is_over and self._adapter.has_our_python:
                self._have_stacks_written()
        finally:
            # Before it is reaped: its number, and that of its session, cannot be another's until then.
            result.left = processes.kill_tree(self._process.pid, self._mark)
            status = self._process.wait()
            self._close()
        if not is_over:
            result.is_hung = True
            result.failed = f"killed after {self._order.limit:g} s"
            if self._adapter.has_our_python:
                result.failed += f"; its database, logs and stacks are in {_kept(self._folder)}\n{self._said()}"
            else:
                result.failed += self._words()
        else:
            self._judge(result, status)
        return result

    def _have_stacks_written(self) -> None:
        """Note what each process waits for in the kernel, and have workers, master and adapter show their stacks.

        Workers first, by a signal that ends none of them: their master would start others and settle their jobs. The
        adapter before the master: it would tell that this has ended, and not where it stands itself.
        """
        root = self._process.pid
        tree = processes.tree_of(root, self._mark)
        self._note("processes", "".join(f"{processes.describe(each)}\n" for each in tree))
        workers = [each for each in tree if each.name.startswith("lq: worker")]
        for each in workers:
            processes.send(each, signal.SIGUSR1)
        time.sleep(_TO_WRITE_THEM)
        for each in workers:
            self._note(f"stack-{each.pid}", processes.memory_file_of(each, "lq-stack"))
        for each in tree:
            if root in (each.pid, each.parent):
                processes.send(each, signal.SIGABRT)
        time.sleep(_TO_WRITE_THEM)

    def _note(self, name: str, text: str) -> None:
        # A full disk may be why it hangs: what has no room there must not cost us the rest.
        with contextlib.suppress(OSError):
            (self._folder / name).write_text(text)

    def _follow(self, until: float) -> bool:
        """Read what it says until it ends; False when the time is up first."""
        assert self._process.stdout is not None
        output = self._process.stdout.fileno()
        os.set_blocking(output, False)
        # Not the end of its output tells its end: what it has started may hold that open.
        exit = os.pidfd_open(self._process.pid)
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(output, selectors.EVENT_READ)
                selector.register(exit, selectors.EVENT_READ)
                while True:
                    ready = {key.fd for key, _ in selector.select(max(until - time.monotonic(), 0))}
                    if output in ready and not self._read(output):
                        selector.unregister(output)
                    if exit in ready:
                        return True
                    if not ready:
                        return False
        finally:
            os.close(exit)

    def _read(self, output: int) -> bool:
        """Take what is there; False at the end of it."""
        while True:
            try:
                chunk = os.read(output, 1 << 20)
            except BlockingIOError:
                return True
            if not chunk:
                return False
            *lines, self._partial = (self._partial + chunk).split(b"\n")
            for line in lines:
                self._hear(line)

    def _hear(self, line: bytes) -> None:
        text = line.decode(errors="replace").strip()
        if text in ("MARK begin", "MARK end"):
            self._readings.append(self._look())
            assert self._process.stdin is not None
            try:
                self._process.stdin.write(b"\n")
                self._process.stdin.flush()
            except BrokenPipeError:  # it has died at its mark: its status tells
                return
        elif text:
            self._lines.append(text)

    def _look(self) -> Reading:
        tree = processes.cpu_seconds(processes.tree_of(self._process.pid, self._mark))
        return Reading(
            tree,
            {
                each.name: processes.cpu_seconds(processes.named(each.program))
                for each in self._servers.used_by(self._adapter.servers)
            },
        )

    def _judge(self, result: Run, status: int) -> None:
        """Take over what it told, or say why that cannot be taken."""
        if status != 0:
            result.failed = f"ended with status {status}{self._words()}"
            return
        try:
            told = msgspec.json.decode(self._lines[-1] if self._lines else "", type=Told)
        except (msgspec.MsgspecError, ValueError) as error:
            result.failed = f"its last line is not what an adapter says ({error}){self._words()}"
            return
        if told.skipped is not None:
            result.skipped = told.skipped
            return
        if (
            len(self._readings) != 2
            or round_to(told.seconds, _NANOSECONDS) <= 0
            or told.scenario != self._order.scenario
        ):
            result.failed = f"it made {len(self._readings)} marks and measured {told.seconds:g} s of {told.scenario!r}"
            return
        _take_over(result, told, *self._readings)

    def _words(self) -> str:
        """Return the last line of what it said, which tells most, and below it the end of all that."""
        lines = self._said().splitlines()
        return "\n".join([f": {lines[-1]}", *(lines if len(lines) > 1 else [])]) if lines else ""

    def _said(self) -> str:
        said = "\n".join([*self._lines[-5:], self._errors.read_text(errors="replace").strip()]).strip()
        return said[-_LAST_WORDS:]

    def _close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:  # an answer that nobody waits for
                    continue


def _take_over(result: Run, told: Told, begin: Reading, end: Reading) -> None:
    result.jobs, result.seconds = told.jobs, round_to(told.seconds, _NANOSECONDS)
    result.settings, result.durability, result.version = told.settings, told.durability, told.version
    result.extra = told.extra
    if told.latencies_ms is not None:
        result.latencies_ms = [round_to(value, 3) for value in told.latencies_ms]
    result.cpu_seconds = round_to(end.tree - begin.tree)
    result.server_cpu_seconds = {name: round_to(end.servers[name] - used) for name, used in begin.servers.items()}
