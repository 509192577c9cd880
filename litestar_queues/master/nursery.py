"""Make worker processes, and keep one spare that has imported the application.

A fresh interpreter with an application takes 0.4 s and more, so the replacement of a worker is
made before it is needed. The first one made also tells what the application offers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from litestar_queues import wire
from litestar_queues.master.notices import BootProblem, Subscriber
from litestar_queues.master.process import Launch, Owner, WorkerProcess
from litestar_queues.models import ErrorReport

SPARES = 1
"""Workers kept ready beyond those asked for."""
FIRST_DELAY = 0.1
LONGEST_DELAY = 30.0


class Nursery:
    """Boots workers for whoever asks; one that fails to boot is tried again after a growing delay."""

    def __init__(
        self, launch: Launch, owner: Owner, deliver: Callable[[WorkerProcess], None], tell: Subscriber
    ) -> None:
        self.launch = launch
        self.problem: str | None = None
        """Why workers cannot start, in one sentence; None once one has started."""
        self._owner = owner
        self._deliver = deliver
        self._tell = tell
        self._serial = 0
        self._wanted = 0
        self._failures = 0
        self._booting: set[WorkerProcess] = set()
        self._spares: deque[WorkerProcess] = deque()
        self._errors: dict[WorkerProcess, ErrorReport] = {}
        self._retry: asyncio.TimerHandle | None = None
        self._is_closed = False

    @property
    def processes(self) -> list[WorkerProcess]:
        """Those that are booting or wait as spares."""
        return [*self._booting, *self._spares]

    def ask(self, count: int) -> None:
        """Ask for *count* more workers; each is delivered when it is ready."""
        self._wanted += count
        while self._wanted and self._spares:
            self._wanted -= 1
            self._deliver(self._spares.popleft())
        self.fill()

    def fill(self) -> None:
        """Boot what is missing, unless a retry is waiting for its time."""
        if self._is_closed or self._retry is not None:
            return
        while len(self._booting) + len(self._spares) < self._wanted + SPARES:
            self._serial += 1
            try:
                self._booting.add(WorkerProcess(self.launch, self._serial, self._owner))
            except OSError as error:  # no processes, no descriptors, no memory
                self._failed(f"a worker process cannot be started: {error}", None)
                return

    def ready(self, worker: WorkerProcess) -> None:
        """Take a worker that has booted."""
        self._booting.discard(worker)
        self._failures = 0
        self.problem = None
        worker.state = "ready"
        if self._wanted:
            self._wanted -= 1
            self._deliver(worker)
        else:
            self._spares.append(worker)

    def boot_failed(self, worker: WorkerProcess, report: wire.BootFailed) -> None:
        """Keep why a worker cannot boot; its death follows."""
        self._errors[worker] = report.error

    def died(self, worker: WorkerProcess) -> bool:
        """Hear of a death; return whether the worker was still ours."""
        if worker in self._spares:
            self._spares.remove(worker)
            self.fill()
            return True
        if worker not in self._booting:
            return False
        self._booting.discard(worker)
        error = self._errors.pop(worker, None)
        if self._is_closed:
            return True
        what = str(error) if error else f"the worker {worker.exit} before it was ready"
        self._failed(f"the application cannot be imported: {what}" if error else what, error)
        return True

    def close(self) -> None:
        """Boot no more, and let go of those that nobody got."""
        self._is_closed = True
        if self._retry is not None:
            self._retry.cancel()
        for worker in self.processes:
            worker.kill()

    def _failed(self, reason: str, error: ErrorReport | None) -> None:
        self._failures += 1
        self.problem = reason
        delay = min(FIRST_DELAY * 2 ** (self._failures - 1), LONGEST_DELAY)
        self._tell(BootProblem(reason, error, self._failures, delay))
        if not self._is_closed and self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(delay, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        self.fill()
