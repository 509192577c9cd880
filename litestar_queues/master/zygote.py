"""The zygote as its master holds it: start it, have it fork, hear from it how workers ended."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
from typing import Protocol

import msgspec
from msgspec import Struct

from litestar_queues import wire
from litestar_queues.master.exit_status import in_words
from litestar_queues.master.output import LinePipe
from litestar_queues.models import ErrorReport
from litestar_queues.nodes import Catalogue

END_WITHIN = 4.0
"""Seconds that a zygote gets to end its workers and itself, before it is killed."""
SERIAL_WIDTH = 8
"""Digits of a serial in a cookie: all cookies of a node are equally long, so that a fork can write its own over it."""


class Launch(Struct, frozen=True):
    """What a zygote needs to know to boot."""

    app: str | None
    imports: tuple[str, ...]
    folder: str
    node: str
    url: str | None = None
    """Given to the application by environment, so that a task enqueues where the master serves."""
    descriptors: tuple[int, int] | None = None
    """The limits of open descriptors, soft and hard, that it and the workers are to have; None for the master's."""

    def cookie(self, serial: int) -> str:
        """Return what marks the process with this serial, and what it starts."""
        return f"{self.node}.{serial:0{SERIAL_WIDTH}}."


class ZygoteOwner(Protocol):
    """Who is told what happens to a zygote."""

    def imported(self, zygote: ZygoteProcess, catalogue: Catalogue, threads: tuple[str, ...]) -> None:
        """Hear that it can fork."""
        ...

    def import_failed(self, zygote: ZygoteProcess, error: ErrorReport) -> None:
        """Hear why it cannot; its death follows."""
        ...

    def forked(self, zygote: ZygoteProcess, serial: int, pid: int, pidfd: int) -> None:
        """Take a new worker; *pidfd* is the listener's to close."""
        ...

    def fork_failed(self, zygote: ZygoteProcess, serial: int, reason: str) -> None:
        """Hear that there is no new worker."""
        ...

    def exited(self, zygote: ZygoteProcess, exited: wire.Exited) -> None:
        """Hear that a worker is dead, and how."""
        ...

    def zygote_wrote(self, zygote: ZygoteProcess, line: str) -> None:
        """Take a line that it, or the import, wrote."""
        ...

    def zygote_died(self, zygote: ZygoteProcess) -> None:
        """Hear that it is gone; everything it reported has been passed on."""
        ...


class ZygoteProcess:
    """A zygote and the descriptors that belong to it."""

    def __init__(self, launch: Launch, owner: ZygoteOwner) -> None:
        self._owner = owner
        self.name = "zygote"
        self.cookie = None
        """What its import has started is told by the session: the next zygote has the same cookie."""
        self._loop = asyncio.get_running_loop()
        self.is_ready = False
        self.is_dead = False
        self.exit = ""
        self.lines = 0
        """Written so far."""
        self._control, far = wire.pair()
        out_read, out_write = os.pipe2(os.O_CLOEXEC)
        try:
            self._process = _spawn(launch, far.fileno(), out_write)
        except BaseException:
            self._control.close()
            os.close(out_read)
            raise
        finally:
            far.close()
            os.close(out_write)
        self.pid = self._process.pid
        self._pidfd = os.pidfd_open(self.pid)
        self._output = LinePipe(out_read, lambda line: owner.zygote_wrote(self, line))
        self._control.setblocking(False)
        self._is_hung_up = False
        self._loop.add_reader(self._control, self._read)
        self._loop.add_reader(self._pidfd, self._bury)

    def __repr__(self) -> str:
        return f"<ZygoteProcess pid {self.pid}{' ready' if self.is_ready else ''}{' dead' if self.is_dead else ''}>"

    def order(self, fork: wire.Fork, descriptors: list[int]) -> None:
        """Ask for a worker; ``forked``, ``fork_failed`` or ``zygote_died`` follows."""
        try:
            wire.send(self._control, fork, descriptors)
        except wire.ChannelClosed:
            return  # its death is on its way
        except BlockingIOError:  # it has not read a thousand orders: it hangs
            self.kill()
        except wire.FrameRefused as error:
            self._loop.call_soon(self._refused, fork.serial, str(error))  # when who asks has taken note of the order

    def _refused(self, serial: int, reason: str) -> None:
        if not self.is_dead:  # else its death has told
            self._owner.fork_failed(self, serial, reason)

    def listen(self) -> None:
        """Take what it has said by now."""
        self._read()

    def close(self) -> None:
        """Let it end: it kills its workers and what belongs to them first."""
        if not self._is_hung_up:
            self._hang_up()
            self._control.close()
            self._loop.call_later(END_WITHIN, self.kill)

    def kill(self) -> None:
        """End it now, and with it, by the kernel's hand, its workers."""
        if self.is_dead:
            return
        try:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        except ProcessLookupError:
            return  # reaped: it is being buried

    def _hang_up(self) -> None:
        if not self._is_hung_up:
            self._loop.remove_reader(self._control)
            self._is_hung_up = True

    def _read(self) -> None:
        while not self._is_hung_up:
            try:
                report, descriptors = wire.receive_from_zygote(self._control)
            except BlockingIOError:
                return
            except wire.ChannelClosed:
                self._hang_up()  # its death follows
                return
            except wire.FrameError as error:
                self._hang_up()
                self._owner.zygote_wrote(self, f"protocol error: {error}")
                self.kill()
                return
            self._take(report, descriptors)

    def _take(self, report: wire.ZygoteReport, descriptors: list[int]) -> None:
        owner = self._owner
        match report:
            case wire.Imported(catalogue, threads):
                self.is_ready = True
                owner.imported(self, catalogue, threads)
            case wire.ImportFailed(error):
                owner.import_failed(self, error)
            case wire.Forked(serial, pid) if len(descriptors) == 1:
                owner.forked(self, serial, pid, descriptors.pop())
            case wire.ForkFailed(serial, reason):
                owner.fork_failed(self, serial, reason)
            case wire.Exited():
                owner.exited(self, report)
            case _:
                self.kill()
        for descriptor in descriptors:
            os.close(descriptor)

    def _bury(self) -> None:
        self._loop.remove_reader(self._pidfd)
        try:
            _, status = os.waitpid(self.pid, 0)
        except ChildProcessError:  # whoever started this process has it reap its children by itself (SIGCHLD ignored)
            self._process.returncode = 0
            self.exit = "ended; how is not known"
        else:
            self._process.returncode = os.waitstatus_to_exitcode(status)
            self.exit = in_words(status)
        self._read()
        self.is_dead = True
        self._output.drain()
        self._output.close()
        self._hang_up()
        self._control.close()
        os.close(self._pidfd)
        self._owner.zygote_died(self)


def _spawn(launch: Launch, control: int, output: int) -> subprocess.Popen[bytes]:
    boot = wire.Boot(control, os.getpid(), launch.app, launch.imports, launch.folder)
    environment = {**os.environ, wire.COOKIE: launch.cookie(0), "PYTHONUNBUFFERED": "1"}
    if launch.url is not None:
        environment["LITESTAR_QUEUES_URL"] = launch.url
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "litestar_queues.worker", msgspec.json.encode(boot).decode()],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=(control,),
        start_new_session=True,
        env=environment,
    )
    if launch.descriptors is not None:  # ours are raised, and jobs may not want to meet high numbers (select)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, launch.descriptors)
    return process
