"""One worker process, as its master holds it: spawn it, talk to it, read what it writes, bury it.

Its end is known from the kernel (a pidfd becomes readable and ``wait4`` tells how), never from
the end of a pipe: a grandchild can hold that open. What it reported before it died is read
after it is dead, and counts.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from typing import Literal, Protocol

import msgspec
from msgspec import Struct

from litestar_queues import wire
from litestar_queues.cell import Cell
from litestar_queues.master import strays
from litestar_queues.master.output import LinePipe
from litestar_queues.master.stacks import StackFile

State = Literal["booting", "ready", "serving", "dead"]
_FRAMES_A_TURN = 256
"""Frames read from one worker before others get their turn."""

_FRAMES_LEFT = 10_000
"""Frames read after its death: more than a channel holds, so that a child of it that goes on
sending cannot keep the master here."""

_HANG_UP_PATIENCE = 0.5
"""Seconds between the end of a channel and the kill of a process that goes on without one."""


class Launch(Struct, frozen=True):
    """What a worker needs to know to boot."""

    app: str | None
    imports: tuple[str, ...]
    folder: str
    node: str
    url: str | None = None
    """Given to the application by environment, so that a task enqueues where the master serves."""


class Owner(Protocol):
    """Who is told what happens to a worker process."""

    def reported(self, worker: WorkerProcess, report: wire.Report) -> None:
        """Take *report*, in the order of sending."""
        ...

    def wrote(self, worker: WorkerProcess, stream: str, line: str) -> None:
        """Take a *line* that reached descriptor 1 or 2."""
        ...

    def violated(self, worker: WorkerProcess, reason: str) -> None:
        """Hear that what came was not a frame, or that the channel was closed while it lives."""
        ...

    def died(self, worker: WorkerProcess) -> None:
        """Hear that it is gone; everything it reported has been passed on."""
        ...


class WorkerProcess:
    """A worker process and all the descriptors that belong to it."""

    def __init__(self, launch: Launch, serial: int, owner: Owner) -> None:
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self.cookie = f"{launch.node}.{serial}."
        self.name = f"spare-{serial}"
        self.state: State = "booting"
        self.is_dead = False
        self.cell: Cell | None = None
        self.served = 0
        self.killed_by_us = False
        self.exit = ""
        self.cpu = 0
        """CPU time in microseconds, once it is dead."""
        self.stack = StackFile()
        self._channel, far = wire.pair()
        out_read, out_write = os.pipe2(os.O_CLOEXEC)
        err_read, err_write = os.pipe2(os.O_CLOEXEC)
        try:
            self._process = _spawn(launch, self.cookie, far, self.stack.descriptor, out_write, err_write)
        except BaseException:
            self._channel.close()
            self.stack.close()
            os.close(out_read)
            os.close(err_read)
            raise
        finally:
            far.close()
            os.close(out_write)
            os.close(err_write)
        self.pid = self._process.pid
        self._pidfd = os.pidfd_open(self.pid)
        self._pipes = (
            LinePipe(out_read, lambda line: owner.wrote(self, "stdout", line)),
            LinePipe(err_read, lambda line: owner.wrote(self, "stderr", line)),
        )
        self._loop.add_reader(self._pidfd, self._bury)
        self._channel_is_read = False
        self.resume()

    def __repr__(self) -> str:
        return f"<WorkerProcess {self.name} pid {self.pid} {self.state}>"

    def start(self, start: wire.Start, cell: Cell, cells: int, lock: int) -> None:
        """Make a ready worker serve: give it its name, its cell and the node's lock."""
        cell.clear()
        self.cell = cell
        self.name = start.name
        self.state = "serving"
        self._send(start, (cells, lock))

    def send(self, run: wire.Run) -> None:
        """Hand it a job."""
        self._send(run)

    def _send(self, command: wire.Command, descriptors: tuple[int, ...] = ()) -> None:
        """Send *command*. A worker that is gone takes it silently; its death says what became of it."""
        try:
            wire.send(self._channel, command, descriptors)
        except wire.ChannelClosed:
            return

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens when it is gone."""
        if self.state != "dead":
            signal.pidfd_send_signal(self._pidfd, number)

    def kill(self) -> None:
        """End it and its session now; ``died`` follows."""
        if self.state == "dead":
            return
        self.killed_by_us = True
        try:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        except ProcessLookupError:
            return  # reaped: it is being buried
        _kill_group(self.pid)

    def retire(self) -> None:
        """Let it end by itself: close the channel, which it is waiting on."""
        self.pause()
        self._channel.close()

    def pause(self) -> None:
        """Stop reading its reports: it will wait in the kernel when the channel is full."""
        if self._channel_is_read:
            self._loop.remove_reader(self._channel)
            self._channel_is_read = False

    def resume(self) -> None:
        """Read its reports."""
        if not self._channel_is_read and self.state != "dead" and self._channel.fileno() >= 0:
            self._loop.add_reader(self._channel, self._read)
            self._channel_is_read = True

    def drain_output(self) -> None:
        """Pass on what it has written to descriptors 1 and 2 so far."""
        for pipe in self._pipes:
            pipe.drain()

    def finish_lines(self) -> None:
        """Pass on the last line, where it has no end."""
        for pipe in self._pipes:
            pipe.finish_line()

    def _read(self) -> None:
        for _ in range(_FRAMES_A_TURN):
            if not self._channel_is_read or not self._read_one():
                return

    def _read_one(self) -> bool:
        try:
            report = wire.receive_report(self._channel)
        except BlockingIOError:
            return False
        except wire.ChannelClosed:
            self.pause()
            # The end of a dying process too: its death is on its way, and says more.
            self._loop.call_later(_HANG_UP_PATIENCE, self._hung_up)
            return False
        except wire.FrameError as error:
            self.pause()
            self._owner.violated(self, str(error))
            return False
        self._owner.reported(self, report)
        return True

    def _hung_up(self) -> None:
        if self.state != "dead":
            self._owner.violated(self, "closed its channel and lives on")

    def _bury(self) -> None:
        """Reap it, pass on what it had said, and let go of what belonged to it."""
        self._loop.remove_reader(self._pidfd)
        _kill_group(self.pid)  # before it is reaped: until then the number is surely its own
        _, status, usage = os.wait4(self.pid, 0)
        self.cpu = round((usage.ru_utime + usage.ru_stime) * 1_000_000)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self.exit = _in_words(status, self.killed_by_us)
        self._read_the_rest()
        self.state = "dead"
        self.is_dead = True
        self.pause()
        for pipe in self._pipes:
            pipe.drain()
            pipe.close()
        self._channel.close()
        os.close(self._pidfd)
        self._owner.died(self)
        self.stack.close()

    def _read_the_rest(self) -> None:
        """Read what it sent before it died, even while reading is paused."""
        if self._channel.fileno() < 0:
            return
        for _ in range(_FRAMES_LEFT):
            try:
                report = wire.receive_report(self._channel)
            except (BlockingIOError, wire.ChannelClosed, wire.FrameError):
                return
            self._owner.reported(self, report)


def _spawn(
    launch: Launch, cookie: str, channel: socket.socket, stack: int, out: int, err: int
) -> subprocess.Popen[bytes]:
    boot = wire.Boot(
        channel=channel.fileno(),
        stack=stack,
        parent=os.getpid(),
        app=launch.app,
        imports=launch.imports,
        folder=launch.folder,
    )
    environment = {**os.environ, strays.COOKIE: cookie, "PYTHONUNBUFFERED": "1"}
    if launch.url is not None:
        environment["LITESTAR_QUEUES_URL"] = launch.url
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "litestar_queues.worker", msgspec.json.encode(boot).decode()],
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=err,
        pass_fds=(boot.channel, boot.stack),
        start_new_session=True,
        env=environment,
    )


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _in_words(status: int, by_us: bool) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exited with status {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    if name == "SIGKILL" and not by_us:
        return "was killed by SIGKILL (from outside: by hand, or out of memory)"
    return f"was killed by {name}"
