"""Keep a zygote that can fork workers, and have it fork them.

A zygote that dies takes its workers with it, by the kernel's hand; the next is started at once, or,
when it cannot import the application or dies young again and again, after a growing delay. Reload is
a second zygote beside the first: it takes over when it has imported the new code, and not before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from litestar_queues import wire
from litestar_queues.master.liveness import NodeFiles
from litestar_queues.master.notices import BootProblem, Reloaded, Subscriber, ThreadsLost, WorkerSpoke, ZygoteEnded
from litestar_queues.master.process import WorkerProcess
from litestar_queues.master.timekeeper import OVERSLEPT
from litestar_queues.master.zygote import Launch, ZygoteProcess
from litestar_queues.models import ErrorReport
from litestar_queues.nodes import Catalogue

FIRST_DELAY = 0.1
LONGEST_DELAY = 30.0
MOST_LINES = 1_000
"""Lines of a zygote that are passed on."""
BROKEN_AFTER = 5
"""Failures in a row after which one is sure that it is not chance."""
ANSWER_WITHIN = 5.0
"""Seconds in which a zygote must have forked; one that has not hangs, and is killed."""
READY_WITHIN = 10.0
"""Seconds in which a worker must be ready once it is forked: it does what the application's libraries do after a fork, and
a few lines of ours."""
STEADY_AFTER = 10.0
"""Seconds that a zygote must have served for its death not to count as one in a row."""
REAP_WITHIN = 1.0
"""Seconds in which it should have said how a worker ended that the kernel shows as dead: its jobs wait no longer."""


class Nursery:
    """Owns the zygotes. Whoever orders a worker is told by that worker's own callbacks."""

    def __init__(
        self,
        launch: Launch,
        tell: Subscriber,
        imported_again: Callable[[Catalogue], None],
        bury: Callable[[ZygoteProcess], None],
    ) -> None:
        self.launch = launch
        self.problem: str | None = None
        """Why no worker can be forked, in one sentence; None while one can, or while nothing has failed."""
        self.failures = 0
        self.first_import: asyncio.Future[Catalogue] = asyncio.get_running_loop().create_future()
        self._steady_at = 0.0
        """When the current zygote will have served long enough."""
        self._tell = tell
        self._imported_again = imported_again
        """Told what each import but the first has found: the code may be another."""
        self._bury = bury
        """Told of each zygote that is dead: what its import has started may live on."""
        self._loop = asyncio.get_running_loop()
        self._serial = 0
        self._current: ZygoteProcess | None = None
        self._next: ZygoteProcess | None = None
        """Importing: the first, a replacement, or new code."""
        self._zygotes: set[ZygoteProcess] = set()
        self._unheard: dict[int, str] = {}
        """Names, by serial, of dead workers of whose end their zygotes have not told."""
        self._workers: dict[int, WorkerProcess] = {}
        self._orders: dict[int, tuple[wire.Fork, NodeFiles]] = {}
        """Not sent yet."""
        self._errors: dict[ZygoteProcess, ErrorReport] = {}
        self._retry: asyncio.TimerHandle | None = None
        self._is_closed = False

    @property
    def is_empty(self) -> bool:
        """True when no process of ours is left."""
        return not self._zygotes

    def pids(self) -> set[int]:
        """Return the pids of the zygotes."""
        return {zygote.pid for zygote in self._zygotes}

    def start(self) -> None:
        """Begin to import."""
        self._try()

    def reload(self) -> None:
        """Import the application anew; when that succeeds, workers ordered from then on have the new code.

        A try that waits for its time is made now, and an import that is under way is given up: the code
        may have changed since it began.
        """
        if self._retry is not None:
            self._retry.cancel()
        under_way, self._next = self._next, None
        if under_way is not None:
            self._tell(WorkerSpoke("zygote", f"(pid {under_way.pid}) asked to import anew, it gives up its import"))
            under_way.kill()
        self._try()

    def new_serial(self) -> int:
        """Return a number for a worker that nobody had before."""
        self._serial += 1
        return self._serial

    def order(self, worker: WorkerProcess, fork: wire.Fork, files: NodeFiles) -> None:
        """Have *worker* forked as soon as there is a zygote."""
        self._workers[fork.serial] = worker
        self._orders[fork.serial] = (fork, files)
        self._send_orders()

    def is_current(self, worker: WorkerProcess) -> bool:
        """Say whether *worker* has the newest code."""
        return worker.zygote is None or worker.zygote is self._current

    def forget(self, worker: WorkerProcess) -> None:
        """Let go of a worker that is dead; an old zygote ends with its last one."""
        self._workers.pop(worker.serial, None)
        self._orders.pop(worker.serial, None)
        self._close_old()

    def unreaped(self, worker: WorkerProcess) -> None:
        """Give the zygote of a dead worker time to say how it ended."""
        self._loop.call_later(REAP_WITHIN, self._expect_death, worker)

    def close(self) -> None:
        """Start no more, and let the zygotes end."""
        self._is_closed = True
        if self._retry is not None:
            self._retry.cancel()
        for serial in list(self._orders):
            self._workers[serial].stillborn("was not needed any more")
        for zygote in self._zygotes:
            zygote.close()

    def kill(self) -> None:
        """End the zygotes now."""
        for zygote in self._zygotes:
            zygote.kill()

    # What zygotes tell.

    def imported(self, zygote: ZygoteProcess, catalogue: Catalogue, threads: tuple[str, ...]) -> None:
        """Take a zygote that can fork."""
        if zygote is not self._next:
            zygote.kill()
            return
        before, self._current, self._next = self._current, zygote, None
        self.problem = None
        self._steady_at = self._loop.time() + STEADY_AFTER
        if threads:
            self._tell(ThreadsLost(threads))
        self._send_orders()
        if not self.first_import.done():
            self.first_import.set_result(catalogue)
            return
        if before is not None:
            self._tell(Reloaded(catalogue))
        self._imported_again(catalogue)
        self._close_old()

    def import_failed(self, zygote: ZygoteProcess, error: ErrorReport) -> None:
        """Keep why; the death follows."""
        self._errors[zygote] = error

    def forked(self, zygote: ZygoteProcess, serial: int, pid: int, pidfd: int) -> None:
        """Tell the worker that it lives."""
        worker = self._workers[serial]
        worker.born(pid, pidfd)
        self._expect_ready_soon(worker)

    def fork_failed(self, zygote: ZygoteProcess, serial: int, reason: str) -> None:
        """Tell the worker that it does not."""
        self._workers[serial].stillborn(f"could not be forked: {reason}")

    def exited(self, zygote: ZygoteProcess, exited: wire.Exited) -> None:
        """Tell the worker how it ended."""
        self._unheard.pop(exited.serial, None)
        worker = self._workers.get(exited.serial)
        if worker is not None:
            worker.exited(exited.status, exited.cpu, exited.rss)

    def zygote_wrote(self, zygote: ZygoteProcess, line: str) -> None:
        """Pass on what the import wrote, within reason: a thread of the application's may go on for ever."""
        zygote.lines += 1
        if zygote.lines <= MOST_LINES:
            self._tell(WorkerSpoke("zygote", line))
        elif zygote.lines == MOST_LINES + 1:
            self._tell(WorkerSpoke("zygote", f"(pid {zygote.pid}) has written {MOST_LINES:,} lines; no more are shown"))

    def zygote_died(self, zygote: ZygoteProcess) -> None:
        """Have its workers buried, and start the next."""
        self._zygotes.discard(zygote)
        self._bury(zygote)
        was_importing, was_current = zygote is self._next, zygote is self._current
        if was_importing:
            self._next = None
        if was_current:
            self._current = None
        for worker in list(self._workers.values()):
            if worker.zygote is zygote:
                worker.orphaned()
        if self._is_closed:
            return
        if was_importing:
            self._failed(zygote)
        elif was_current:
            self._replace(zygote)

    # Plumbing.

    def _try(self) -> None:
        self._retry = None
        if self._is_closed or self._next is not None:
            return
        try:
            self._next = ZygoteProcess(self.launch, self)
        except OSError as error:  # no processes, no descriptors, no memory
            self._say_failed(f"a zygote cannot be started: {error}", None)
        else:
            self._zygotes.add(self._next)

    def _replace(self, dead: ZygoteProcess) -> None:
        """Start the next after one that could fork: at once, but later and later where each dies young."""
        self.failures = 0 if self._loop.time() >= self._steady_at else self.failures + 1
        delay = growing_delay(self.failures - 1) if self.failures > 1 else 0.0
        self._tell(ZygoteEnded(dead.pid, dead.exit, delay))
        if delay:
            if self.failures >= BROKEN_AFTER:
                self.problem = f"the zygote {dead.exit}, {self.failures} times in a row"
            self._try_later(delay)
        else:
            self._try()

    def _failed(self, zygote: ZygoteProcess) -> None:
        error = self._errors.pop(zygote, None)
        reason = f"the application cannot be imported: {error}" if error else f"the zygote {zygote.exit} at the import"
        self._say_failed(reason, error)

    def _say_failed(self, reason: str, error: ErrorReport | None) -> None:
        if self._current is not None:  # a reload: the old code goes on
            self._tell(BootProblem(f"reload failed, the old code goes on: {reason}", error, 1, None))
            return
        self.failures += 1
        # One that could be imported, and whose zygote was killed at the next import, is not broken by that.
        if error is not None or not self.first_import.done() or self.failures >= BROKEN_AFTER:
            self.problem = reason
        delay = growing_delay(self.failures)
        self._tell(BootProblem(reason, error, self.failures, delay))
        self._try_later(delay)

    def _try_later(self, delay: float) -> None:
        if self._retry is not None:
            self._retry.cancel()
        self._retry = self._loop.call_later(delay, self._try)

    def _send_orders(self) -> None:
        zygote = self._current
        if zygote is None:
            return
        for serial, (fork, files) in self._orders.items():
            worker = self._workers[serial]
            zygote.order(fork, worker.descriptors(files.cells.descriptor, files.lock))
            worker.ordered_from(zygote)
            self._loop.call_later(ANSWER_WITHIN, self._expect_birth, worker)
        self._orders.clear()

    def _expect_birth(self, worker: WorkerProcess) -> None:
        """Kill a zygote that has not forked, unless it was the master that has not listened meanwhile."""
        zygote = worker.zygote
        if zygote is None or worker.state != "ordered":
            return
        zygote.listen()
        if worker.state == "ordered":
            self._kill_silent(zygote, f"has not forked within {ANSWER_WITHIN:g} s")

    def _expect_ready_soon(self, worker: WorkerProcess) -> None:
        due = self._loop.time() + READY_WITHIN
        self._loop.call_at(due, self._expect_ready, worker, due)

    def _expect_ready(self, worker: WorkerProcess, due: float) -> None:
        """Give up a worker that hangs before it is ready: in what a library of the application does after a fork."""
        if not worker.is_getting_ready():
            return
        has_slept = (self._loop.time() - due) * 1e9 > OVERSLEPT  # stopped, and the worker with it perhaps
        if worker.is_paused or has_slept:
            self._expect_ready_soon(worker)
        else:
            worker.give_up(f"was not ready within {READY_WITHIN:g} s of its fork")

    def _expect_death(self, worker: WorkerProcess) -> None:
        """Go on without the word of a zygote that is silent; it may be stopped, or swapped out, and its workers well."""
        zygote = worker.zygote
        if zygote is None or worker.is_dead:
            return
        zygote.listen()
        if not worker.is_dead:
            self._unheard[worker.serial] = worker.name
            self._loop.call_later(ANSWER_WITHIN - REAP_WITHIN, self._expect_word, zygote, worker.serial)
            worker.unheard()

    def _expect_word(self, zygote: ZygoteProcess, serial: int) -> None:
        if serial in self._unheard:
            zygote.listen()
        name = self._unheard.pop(serial, None)
        if name is not None:
            self._kill_silent(zygote, f"has not reaped {name} within {ANSWER_WITHIN:g} s")

    def _kill_silent(self, zygote: ZygoteProcess, what: str) -> None:
        self._tell(WorkerSpoke("zygote", f"{what}; it is killed"))
        zygote.kill()

    def _close_old(self) -> None:
        """Close the zygotes of old code that have no workers any more."""
        busy = {worker.zygote for worker in self._workers.values()}
        for zygote in self._zygotes - {self._current, self._next}:
            if zygote not in busy:
                zygote.close()


def growing_delay(failures: int) -> float:
    """Return the seconds to wait after *failures* in a row: 0.1, doubled each time, at most 30."""
    return min(FIRST_DELAY * 2.0 ** (min(failures, 20) - 1), LONGEST_DELAY)
