"""One worker process, as its master holds it: talk to it, read what it writes, bury it.

Its end is known from the kernel (its pidfd becomes readable, and its zygote, or the master when
that is gone, reaps it), never from the end of a pipe: a grandchild can hold that open. What it
reported before it died is read after it is dead, and counts.
"""

from __future__ import annotations

import asyncio
import os
import resource  # noqa: F401 (os.wait4 would import it when it is first called, perhaps without a descriptor left)
import signal
import socket
from contextlib import ExitStack
from typing import Literal, Protocol

from litestar_queues import wire
from litestar_queues.cell import Cell
from litestar_queues.master.exit_status import OutOfMemory, in_words
from litestar_queues.master.output import LinePipe
from litestar_queues.master.stacks import StackFile
from litestar_queues.master.zygote import ZygoteProcess

State = Literal["ordered", "booting", "serving", "dead"]
_FRAMES_A_TURN = 256
"""Frames read from one worker before others get their turn."""

_FRAMES_LEFT = 10_000
"""Frames read after its death: more than a channel holds, so that a child of it that goes on
sending cannot keep the master here."""

_HANG_UP_PATIENCE = 0.5
"""Seconds between the end of a channel and the kill of a process that goes on without one."""


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

    def unreaped(self, worker: WorkerProcess) -> None:
        """Hear that it is dead, and that its zygote has not said how."""
        ...

    def died(self, worker: WorkerProcess) -> None:
        """Hear that it is gone; everything it reported has been passed on."""
        ...


class WorkerProcess:
    """A worker process and all the descriptors that belong to it."""

    def __init__(
        self, serial: int, cookie: str, name: str, cells: tuple[Cell, ...], owner: Owner, memory: OutOfMemory
    ) -> None:
        self._owner = owner
        self._memory = memory
        self._loop = asyncio.get_running_loop()
        self.serial = serial
        self.cookie = cookie
        self.name = name
        self.cells = cells
        self.state: State = "ordered"
        self.pid = 0
        self.zygote: ZygoteProcess | None = None
        self.served = 0
        self.exit = ""
        self.lines = 0
        """Written while it ran no job."""
        self.is_orphan = False
        """Its zygote is gone, so it is dead or dying, and the master reaps it."""
        self.is_released = False
        """Its last job was allowed to leave processes behind."""
        self.killed_by_us = False
        self._failure = ""
        """Why it was given up before it was ready."""
        self.cpu = 0
        """CPU time in microseconds, once it is dead."""
        self.peak = 0
        """The most resident memory it ever had, in bytes, once it is dead."""
        self.looking = asyncio.Lock()
        """Held while its stack is looked at."""
        with ExitStack() as made:  # where one cannot be made, none is left
            self.stack = StackFile()
            made.callback(self.stack.close)
            self._reports, self._far_reports = _pair(made)
            self._jobs, self._far_jobs = _pair(made)
            out_read, self._out_write = _pipe(made)
            err_read, self._err_write = _pipe(made)
            made.pop_all()
        self._reports.setblocking(False)
        self._pidfd = -1
        self._is_unreaped = False
        self._early: wire.Ready | None = None
        """Said before the zygote has told of the birth: they are two channels."""
        self._pipes = (
            LinePipe(out_read, lambda line: owner.wrote(self, "stdout", line), self._read),
            LinePipe(err_read, lambda line: owner.wrote(self, "stderr", line), self._read),
        )
        self._is_read = False
        self._rests = False
        """Read now and then only."""
        self._is_retired = False
        self.has_lost_job = False
        """A job was taken out of its queue, and could not be read: no descriptor was left for what held it."""
        self.resume()

    def __repr__(self) -> str:
        return f"<WorkerProcess {self.name} pid {self.pid} {self.state}>"

    @property
    def is_dead(self) -> bool:
        """True once it has been buried."""
        return self.state == "dead"

    # Birth.

    def descriptors(self, cells: int, lock: int) -> list[int]:
        """Return what goes with the order to fork it: see ``wire.WORKER_DESCRIPTORS``."""
        ends = (self._far_reports.fileno(), self._far_jobs.fileno())
        return [*ends, self.stack.descriptor, self._out_write, self._err_write, cells, lock]

    def ordered_from(self, zygote: ZygoteProcess) -> None:
        """Let go of the ends that are the worker's, but for that of the queue: what waits there can be taken back."""
        self.zygote = zygote
        self._close_far_ends()

    def born(self, pid: int, pidfd: int) -> None:
        """Take note that it runs."""
        self.pid = pid
        self._pidfd = pidfd
        self.state = "booting"
        self._loop.add_reader(pidfd, self._ended)
        if self.killed_by_us:
            self.kill()
        elif self._early is not None:
            self._owner.reported(self, self._early)

    def is_getting_ready(self) -> bool:
        """Say whether it was forked and is not ready; reads first what it has said, unless reading is paused."""
        self._read()
        return self.state == "booting"

    def give_up(self, reason: str) -> None:
        """Kill it, because it does not get ready; that is a failure of its pool."""
        self.kill()
        self.killed_by_us, self._failure = False, reason

    def stillborn(self, reason: str) -> None:
        """Take note that it never came to be."""
        if self.pid == 0 and not self.is_dead:
            self.exit = reason
            self._let_go()

    # Jobs.

    def send(self, run: wire.Run) -> bool:
        """Put a job into its queue; false when that is full. A dead worker takes it: its death brings it back.

        Raises ``FrameError`` for one that cannot be sent, and ``FrameRefused`` for one that cannot now.
        """
        try:
            wire.send(self._jobs, run, flags=wire.DONT_WAIT)
        except BlockingIOError:
            return False
        return True

    def take_back(self) -> list[int]:
        """Take what waits out of its queue, and return the numbers; those it has begun are not among them."""
        taken: list[int] = []
        while self._far_jobs.fileno() >= 0:
            try:
                taken.append(wire.receive_run(self._far_jobs, wire.DONT_WAIT).number)
            except (BlockingIOError, wire.ChannelClosed):
                break
            except wire.FrameError:
                self.has_lost_job = True
        return taken

    # Signals.

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens when it is gone."""
        if self.pid == 0 or self.is_dead:
            return
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            return  # reaped: it is being buried

    def kill(self) -> None:
        """End it and its session now; ``died`` follows."""
        self.killed_by_us = True
        if self.pid and not self.is_dead:
            if not self.is_released:  # what its last job was allowed to leave may be in its group
                _kill_group(self.pid)
            self.signal(signal.SIGKILL)

    def retire(self) -> None:
        """Let it end by itself once it has done what it has: close its queue."""
        if not self._is_retired and not self.is_dead:
            self._is_retired = True
            self._jobs.shutdown(socket.SHUT_WR)

    # Reading.

    @property
    def is_paused(self) -> bool:
        """True while its reports are not read."""
        return not self._is_read

    def pause(self) -> None:
        """Stop reading its reports: it will wait in the kernel when the channel is full."""
        if self._is_read:
            self._loop.remove_reader(self._reports)
            self._is_read = False

    def resume(self) -> None:
        """Read its reports."""
        if not self._is_read and not self.is_dead and self._reports.fileno() >= 0:
            self._loop.add_reader(self._reports, self._read)
            self._is_read = True
            self._rests = False

    def rest(self) -> None:
        """Let its reports wait until ``collect``: for a while, none of them is worth waking up for."""
        if self._is_read and not self._rests:
            self._loop.remove_reader(self._reports)
            self._rests = True

    def collect(self) -> None:
        """Read what waits, and listen again."""
        if self._rests:
            self._rests = False
            if self._is_read:
                self._loop.add_reader(self._reports, self._read)
                self._read()

    def take_last_lines(self) -> list[tuple[str, str]]:
        """Return the last line it wrote to each stream, where that has no end, and forget it."""
        lines = zip(("stdout", "stderr"), (pipe.take_last_line() for pipe in self._pipes), strict=True)
        return [(stream, line) for stream, line in lines if line is not None]

    def _read(self) -> None:
        for _ in range(_FRAMES_A_TURN):
            if not self._is_read or not self._read_one():
                return

    def _read_one(self) -> bool:
        try:
            report = wire.receive_report(self._reports)
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
        if isinstance(report, wire.Ready) and self.state == "ordered":
            self._early = report
        else:
            self._owner.reported(self, report)
        return True

    def _hung_up(self) -> None:
        if not self.is_dead and not self._is_unreaped and not self._is_retired:
            self._owner.violated(self, "closed its channel and lives on")

    # Death.

    def exited(self, status: int, cpu: int, peak: int) -> None:
        """Take note that its zygote has reaped it."""
        if not self.is_dead:
            self.exit = self._failure or in_words(
                status, by_us=self.killed_by_us, out_of_memory=self._memory.has_struck
            )
            self.cpu, self.peak = cpu, peak
            self._bury()

    def unheard(self) -> None:
        """Take note that its zygote says nothing of its end, which the kernel has shown."""
        if not self.is_dead:
            self.exit = "ended; its zygote has not said how"
            self._bury()

    def orphaned(self) -> None:
        """Take note that its zygote is gone: it dies too, and is reaped here."""
        self.is_orphan = True
        if self._is_unreaped:
            self._reap_here()
        elif self.pid == 0:
            self.stillborn("was never forked: its zygote is gone")

    def _ended(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self._is_unreaped = True
        if self.is_orphan:
            self._reap_here()
        else:
            self._owner.unreaped(self)

    def _reap_here(self) -> None:
        try:
            _, status, usage = os.wait4(self.pid, 0)
        except ChildProcessError:  # the zygote had reaped it, and died before it could say so
            self.exit = "died with its zygote"
            self._bury()
        else:
            cpu = round((usage.ru_utime + usage.ru_stime) * 1_000_000)
            self.exited(status, cpu, usage.ru_maxrss * 1024)

    def _bury(self) -> None:
        """Pass on what it had said, and let go of what belonged to it."""
        if not self._is_unreaped:
            self._loop.remove_reader(self._pidfd)
        self._read_the_rest()
        for pipe in self._pipes:
            pipe.drain()
        self._let_go()

    def _let_go(self) -> None:
        self.pause()
        self.state = "dead"
        for pipe in self._pipes:
            if self.is_released:
                pipe.discard()
            else:
                pipe.close()
        self._owner.died(self)
        self._reports.close()
        self._jobs.close()
        self._far_jobs.close()
        self._close_far_ends()
        if self._pidfd >= 0:
            os.close(self._pidfd)
        self.stack.close()

    def _close_far_ends(self) -> None:
        if self._out_write >= 0:
            self._far_reports.close()
            os.close(self._out_write)
            os.close(self._err_write)
            self._out_write = self._err_write = -1

    def _read_the_rest(self) -> None:
        """Read what it sent before it died, even while reading is paused."""
        for _ in range(_FRAMES_LEFT):
            try:
                report = wire.receive_report(self._reports)
            except (BlockingIOError, wire.ChannelClosed, wire.FrameError):
                return
            self._owner.reported(self, report)


def _pair(made: ExitStack) -> tuple[socket.socket, socket.socket]:
    near, far = wire.pair()
    made.callback(near.close)
    made.callback(far.close)
    return near, far


def _pipe(made: ExitStack) -> tuple[int, int]:
    read, write = os.pipe2(os.O_CLOEXEC)
    made.callback(os.close, read)
    made.callback(os.close, write)
    return read, write


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
