"""The ``immediate`` backend: a job runs in its caller, at enqueue. For tests and scripts.

Everything is as in a worker (the row, the JSON round trip, the events, the attempts) but the
process: nothing can be killed here, so a timeout is ``asyncio``'s, which a coroutine may ignore and
a synchronous task does not notice. Retries run at once, without their delay, and ``run_after`` is
not waited for.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
from pathlib import Path
from uuid import uuid4

from litestar_queues import wire
from litestar_queues.clock import SECOND, Clock
from litestar_queues.config import QueueConfig
from litestar_queues.events.stored import to_stored
from litestar_queues.lifecycle import (
    Cancelled,
    Outcome,
    Raised,
    Returned,
    Snoozed,
    Succeeded,
    TimedOut,
    Unknown,
    settle,
)
from litestar_queues.models import ClaimedJob, ErrorReport, Node, Receipt, StoredEvent
from litestar_queues.running import Execution
from litestar_queues.store.base import Store, Verdict, Want


class Immediate:
    """Runs jobs in this process, as a node of its own while there is something to run."""

    def __init__(self, store: Store, config: QueueConfig, clock: Clock) -> None:
        self._store = store
        self._config = config
        self._clock = clock
        self._node = uuid4().hex
        self._lock: int | None = None

    async def run(self, number: int, backend: str) -> None:
        """Run job *number* until it has ended."""
        await self._register()
        want = Want(1, backends=(backend,), only=number)
        while True:
            claims = await self._store.claim(self._node, [want], now=self._clock.now())
            if not claims.jobs[0]:
                return
            await self._run_once(claims.jobs[0][0])

    async def close(self) -> None:
        """Stop being a node."""
        if self._lock is not None:
            await self._store.retire(self._node)
            os.close(self._lock)
            self._lock = None
            self._lock_path.unlink(missing_ok=True)

    @property
    def _lock_path(self) -> Path:
        return Path(self._store.folder) / "run" / f"{self._node}.lock"

    async def _register(self) -> None:
        """Show masters that this process lives, by the same lock that they hold."""
        if self._lock is not None:
            return
        self._lock_path.parent.mkdir(mode=0o700, exist_ok=True)
        self._lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        now = self._clock.now()
        node = Node(
            id=self._node,
            host=socket.gethostname(),
            pid=os.getpid(),
            started_at=now,
            beat_at=now,
            app="immediate execution",
        )
        await self._store.beat(node)

    async def _run_once(self, job: ClaimedJob) -> None:
        said = _Kept(job.attempts + 1)
        run = wire.Run(
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
            max_result_bytes=self._config.max_result_bytes,
        )
        execution = Execution(run, sink=said, worker="immediate", clock=self._clock, measure_cpu=False)
        outcome, receipt = await self._outcome(job, execution)
        if said.events:
            await self._store.record(said.events)
        settlement = settle(job, outcome, receipt, now=self._clock.now())
        [verdict] = await self._store.settle([settlement])
        if verdict == Verdict.CANCEL_REQUESTED:
            await self._store.settle([settle(job, Cancelled(), receipt, now=self._clock.now())])

    async def _outcome(self, job: ClaimedJob, execution: Execution) -> tuple[Outcome, Receipt | None]:
        end: wire.Done | wire.Failed | None
        try:
            async with asyncio.timeout(None if job.timeout is None else job.timeout / SECOND):
                end = await execution.run_async()
        except TimeoutError:  # the limit's: what the task raises is in its report
            end = None
        if end is None:
            error = ErrorReport("TimeoutError", f"ran past its timeout of {(job.timeout or 0) / SECOND:g} s")
            return TimedOut(error), execution.receipt()
        return outcome_of(end), end.receipt


class _Kept:
    """The sink of a job that runs here: keeps what it says until it is recorded."""

    def __init__(self, attempt: int) -> None:
        self._attempt = attempt
        self.events: list[StoredEvent] = []

    def say(self, report: wire.Progress | wire.Log | wire.Event) -> None:
        self.events.append(to_stored(report, self._attempt))


def outcome_of(end: wire.Done | wire.Failed) -> Outcome:
    """Return what a run's own report means, when nobody had asked it to stop. Retries come at once."""
    if isinstance(end, wire.Done):
        return Succeeded(end.result)
    match end.kind:
        case "cancelled":
            return Cancelled(end.error)
        case "snoozed":
            return Snoozed(end.delay or 0)
        case "unknown":
            return Unknown(end.error)
        case "interrupted":
            return Returned(str(end.error))
        case _:
            return Raised(end.error, end.retryable, 0)
