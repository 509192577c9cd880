"""The ``immediate`` backend: a job runs in its caller, at enqueue. For tests and scripts.

Everything is as in a worker (the row, the JSON round trip, events, attempts, retries) but the
process and the waiting: ``run_after``, ``scheduled_at`` and the delay of a retry are ignored, and
what the job prints or logs with ``logging`` stays the caller's.

Nothing can be killed here. A coroutine that runs out of time, or whose caller is cancelled, is
cancelled, and may ignore it; a synchronous task blocks the caller's event loop to its end. Should
this process die, masters see it by the same lock that they hold themselves.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from litestar_queues import wire
from litestar_queues.clock import SECOND, Clock
from litestar_queues.config import QueueConfig
from litestar_queues.enqueuer import Enqueuer, current_enqueuer
from litestar_queues.events.stored import to_stored
from litestar_queues.lifecycle import Cancelled, Outcome, Raised, Settlement, Snoozed, Succeeded, TimedOut, settle
from litestar_queues.models import TERMINAL, Added, ClaimedJob, ErrorReport, NewJob, Receipt, StoredEvent
from litestar_queues.nodes import Node
from litestar_queues.running import Execution
from litestar_queues.store.base import Store, Verdict, Want

MAX_EVENTS = 10_000
"""Events of one run that are kept; what is said past it is counted."""
MAX_SNOOZES = 100
"""Times that a job may snooze here: nobody waits in between, so more of them is a loop."""
MAX_GENERATIONS = 1_000
"""Jobs of a chain, each added by the one before with its completion: more of them is a loop too."""


class Immediate:
    """Runs jobs in this process, as a node of its own from the first one on."""

    def __init__(self, store: Store, config: QueueConfig, clock: Clock, enqueuer: Enqueuer) -> None:
        self.store = store
        self.config = config
        self.clock = clock
        self.enqueuer = enqueuer
        self.node = uuid4().hex
        self._lock: int | None = None
        self._taking = threading.Lock()
        """Of two threads whose first jobs come together, one takes the lock; the other would wait for it for ever."""
        self._is_known = False

    def serves(self, job: NewJob) -> bool:
        """Say whether *job* is to run here."""
        return self.config.kind_of(job.backend) == "immediate"

    async def add(self, jobs: Sequence[NewJob]) -> list[Added]:
        """Add *jobs* in one transaction, and run those of this backend to their end, in order.

        When the caller is cancelled, the job that runs is cancelled, and those that have not run are
        too: nobody else would ever run them.
        """
        work = _Work(self)
        # On a task of its own: a cancellation must reach the job's code, never a transaction.
        whole = asyncio.ensure_future(work.add_and_run(jobs))
        try:
            return await asyncio.shield(whole)
        except asyncio.CancelledError:
            work.stop()
            await asyncio.wait([whole])
            raise

    async def show_alive(self) -> None:
        """Let masters know that this process lives, before it claims anything."""
        if self._is_known:
            return
        with self._taking:
            if self._lock is None:
                self._lock = self._take_lock()
        now, host = self.clock.now(), socket.gethostname()
        row = Node(
            id=self.node, host=host, pid=os.getpid(), started_at=now, beat_at=now, kind="caller", app="immediate"
        )
        await self.store.beat(row)
        self._is_known = True

    def _take_lock(self) -> int:
        self._lock_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The file stays empty: masters kill what holds the lock of a holder that is named and
        # dead, and an application's forked children hold this one.
        lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        return lock

    async def close(self) -> None:
        """Stop being a node."""
        lock, self._lock = self._lock, None
        if lock is None:
            return
        try:
            if self._is_known:
                await self.store.retire(self.node)
        finally:
            self._lock_path.unlink(missing_ok=True)
            os.close(lock)

    @property
    def _lock_path(self) -> Path:
        return Path(self.store.folder) / "run" / f"{self.node}.lock"


class _Work:
    """One call of ``Immediate.add``."""

    def __init__(self, immediate: Immediate) -> None:
        self._immediate = immediate
        self._store = immediate.store
        self._clock = immediate.clock
        self._attempt: asyncio.Task[wire.Done | wire.Failed] | None = None
        self._is_stopped = False
        self._to_run: deque[_Turn] = deque()

    def stop(self) -> None:
        """Cancel the run, and begin no other."""
        self._is_stopped = True
        if self._attempt is not None:
            self._attempt.cancel()

    async def add_and_run(self, jobs: Sequence[NewJob]) -> list[Added]:
        await self._immediate.show_alive()
        added = await self._store.add(jobs)
        if any(entry.refused for entry in added):
            return added
        for job, entry in zip(jobs, added, strict=True):
            if self._immediate.serves(job) and not entry.deduplicated:
                self._to_run.append(_Turn(entry.number, job.backend))
        while self._to_run:
            await self._run(self._to_run.popleft())
        return added

    async def _run(self, turn: _Turn) -> None:
        """Run a job until it has ended."""
        want = Want(1, backends=(turn.backend,), only=turn.number)
        snoozes = 0
        while not self._is_stopped:
            claims = await self._store.claim(self._immediate.node, [want], now=self._clock.now())
            if not claims.jobs[0]:
                return  # cancelled or expired before it could run
            settlement = await self._run_once(claims.jobs[0][0], turn, snoozes)
            if settlement is None:
                return
            if settlement.status in TERMINAL:
                await self._follow(settlement.successors, turn.generation + 1)
                return
            snoozes += settlement.error is None  # nothing but a snooze lives on without an error
        await self._store.cancel([turn.number], now=self._clock.now())

    async def _follow(self, jobs: Sequence[NewJob], generation: int) -> None:
        """See to what was added with a completion, where it runs in its caller, which is this."""
        here = [job for job in jobs if self._immediate.serves(job)]
        if not here:
            return
        for job, record in zip(here, await self._store.get([job.id for job in here]), strict=True):
            if record is not None:  # None: another live job holds its key
                self._to_run.append(_Turn(record.number, job.backend, generation))

    async def _run_once(self, job: ClaimedJob, turn: _Turn, snoozes: int) -> Settlement | None:
        """Run one attempt and settle it; None when somebody else has settled the job."""
        said = _Said(job.attempts + 1)
        execution = Execution(
            _to_run(job, self._immediate.config.max_result_bytes),
            sink=said,
            worker="immediate",
            clock=self._clock,
            measure_cpu=False,
        )
        outcome, receipt = await self._outcome(job, execution)
        outcome = self._bounded(outcome, turn, snoozes)
        said.close(job, self._clock.now())
        if said.events:
            await self._store.record(said.events)
        return await self._settle(job, outcome, receipt)

    def _bounded(self, outcome: Outcome, turn: _Turn, snoozes: int) -> Outcome:
        """Return *outcome*, or a failure instead of one that would hold the caller for ever."""
        match outcome:
            case Snoozed() if snoozes >= MAX_SNOOZES:
                message = f"snoozed {MAX_SNOOZES} times; the immediate backend runs it again at once, and gives up"
                return Raised(ErrorReport("Snooze", message), retryable=False)
            case Succeeded(_, jobs) if turn.generation >= MAX_GENERATIONS and any(map(self._immediate.serves, jobs)):
                message = (
                    f"would add another job after {MAX_GENERATIONS}, each added by the one before; "
                    "the immediate backend runs them at once, and gives up"
                )
                return Raised(ErrorReport("QueueError", message), retryable=False)
            case _:
                return outcome

    async def _settle(self, job: ClaimedJob, outcome: Outcome, receipt: Receipt | None) -> Settlement | None:
        settlement = settle(job, outcome, receipt, now=self._clock.now())
        [verdict] = await self._store.settle([settlement])
        if verdict == Verdict.CANCEL_REQUESTED:
            return await self._settle(job, Cancelled(settlement.error), receipt)
        return settlement if verdict == Verdict.SETTLED else None

    async def _outcome(self, job: ClaimedJob, execution: Execution) -> tuple[Outcome, Receipt | None]:
        if self._is_stopped:  # while it was claimed
            return _cancelled_by_caller(), None
        timeout = None if job.timeout is None else job.timeout / SECOND
        self._attempt = attempt = asyncio.create_task(self._call(execution))
        done, _ = await asyncio.wait([attempt], timeout=timeout)
        if not done:
            attempt.cancel()
            await asyncio.wait([attempt])
        report = None if attempt.cancelled() else attempt.result()
        receipt = execution.receipt() if report is None else report.receipt
        if isinstance(report, wire.Done):
            return Succeeded(report.result, report.successors), receipt
        if self._is_stopped:
            return _cancelled_by_caller(), receipt
        if not done:
            return TimedOut(ErrorReport("TimeoutError", f"ran past its timeout of {timeout:g} s")), receipt
        return _outcome_of(report), receipt

    async def _call(self, execution: Execution) -> wire.Done | wire.Failed:
        current_enqueuer.set(self._immediate.enqueuer)  # in this task's own context
        return await execution.run_async()


class _Turn(NamedTuple):
    """A job that is to run here."""

    number: int
    backend: str
    generation: int = 1
    """Which of a chain of jobs it is, each added by the one before with its completion."""


class _Said:
    """The sink of a job that runs here: keeps what it says until it is recorded."""

    def __init__(self, attempt: int) -> None:
        self._attempt = attempt
        self._dropped = 0
        self.events: list[StoredEvent] = []

    def say(self, report: wire.Progress | wire.Log | wire.Event) -> None:
        if len(self.events) < MAX_EVENTS:
            self.events.append(to_stored(report, self._attempt))
        else:
            self._dropped += 1

    def close(self, job: ClaimedJob, now: int) -> None:
        """Say how much was dropped."""
        if self._dropped:
            text = f"{self._dropped} more were dropped: the job said more than is kept"
            self.events.append(to_stored(wire.Log(job.number, job.fence, now, "warning", text, None), self._attempt))


def _to_run(job: ClaimedJob, max_result_bytes: int) -> wire.Run:
    return wire.Run(
        number=job.number,
        fence=job.fence,
        id=job.id,
        task=job.task,
        queue=job.queue,
        attempt=job.attempts + 1,
        payload=job.payload,
        checksum=job.checksum,
        failures=job.failures,
        max_retries=job.max_retries,
        max_result_bytes=max_result_bytes,
    )


def _outcome_of(report: wire.Failed | None) -> Outcome:
    """Return what a run's own report means, when nobody had asked it to stop. Retries come at once."""
    match report:
        case wire.Failed(kind="cancelled"):
            return Cancelled(report.error)
        case wire.Failed(kind="snoozed"):
            return Snoozed(report.delay or 0)
        case wire.Failed(kind="unknown"):  # unregistered since the enqueue: no other process will run it
            return Raised(report.error, retryable=False)
        case wire.Failed():
            return Raised(report.error, report.retryable, 0)
        case None:  # the task's code has cancelled itself
            return Raised(ErrorReport("CancelledError", "the task cancelled itself"))


def _cancelled_by_caller() -> Cancelled:
    return Cancelled(ErrorReport("CancelledError", "its caller was cancelled"))
