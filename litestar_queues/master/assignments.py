"""A claimed job at a worker: from the claim to the outcome.

The mapping from what was seen (a report, or a death and the cells) to an outcome is here, and
pure; what the outcome costs is ``lifecycle.settle``'s. Who pays for a death:

* what we killed for one job costs that one alone; its neighbours are returned;
* a death with one job running is that job's;
* a death with several running is charged to nobody, and each of them runs alone next time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from msgspec import Struct

from litestar_queues.cell import Cell, Reason, Shown
from litestar_queues.clock import SECOND
from litestar_queues.lifecycle import (
    Cancelled,
    Crashed,
    Lost,
    Outcome,
    OverMemory,
    Raised,
    Returned,
    Snoozed,
    Succeeded,
    Suspected,
    TimedOut,
    Unknown,
)
from litestar_queues.master import strays
from litestar_queues.master.process import WorkerProcess
from litestar_queues.master.stacks import MAX_STACK, place_in
from litestar_queues.models import ClaimedJob, ErrorReport, Receipt
from litestar_queues.wire import Done, Failed, Run

MAX_LINES = 10_000
"""Lines of raw output (descriptors 1 and 2) of one run that are kept."""
MAX_BYTES = 5 * 1024 * 1024
MEBIBYTE = 1024 * 1024


class Stop(Struct):
    """Why a run is being made to stop, and where it stood."""

    reason: Reason
    stack: str | None = None
    thread: int = 0
    """The thread to look at in *stack*; 0 for the main one."""
    awaits: str | None = None
    """Where its coroutine waited, if it did."""
    blocked: int = 0
    """Microseconds for which it kept the event loop from a neighbour that ran out of time."""

    def place(self, *, is_alone: bool) -> str | None:
        """Return the line that it was at; beside others (not *is_alone*) the main thread may have been at one of theirs."""
        on_thread, waiting = place_in(self.stack, self.thread), place_in(self.awaits)
        return on_thread or waiting if is_alone else waiting or on_thread

    def shown(self) -> str | None:
        """Return all that is known of where it stood."""
        if self.awaits is None:
            return self.stack
        waits = f"Coroutine (most recent await first):\n{self.awaits}"
        return waits if place_in(self.stack) is None else f"{self.stack}\n\n{waits}"


class Assignment:
    """One claimed job, and the worker it is handed to.

    One object from the claim to the end, though it may be taken back and handed to another worker:
    whoever holds it (a ladder, a look for cancel requests) means the claim.
    """

    def __init__(self, job: ClaimedJob) -> None:
        self.job = job
        self._worker: WorkerProcess | None = None
        self.sent = 0
        """When it was handed to the worker, in monotonic nanoseconds."""
        self.expected: float | None = None
        """How long it is likely to take, in microseconds; None when that is not known, or long."""
        self.stop: Stop | None = None
        self.has_ended = False
        self._end: asyncio.Event | None = None  # made when somebody waits: few do, and it costs 2 µs
        self.rss: int | None = None
        """The highest sample so far."""
        self.dropped = 0
        self._lines = 0
        self._bytes = 0

    def __repr__(self) -> str:
        place = self._worker.name if self._worker is not None else "no worker yet"
        return f"<Assignment #{self.job.number} fence {self.job.fence} at {place}>"

    def is_at(self, worker: WorkerProcess) -> bool:
        """True when *worker* had it last."""
        return self._worker is worker

    @property
    def worker(self) -> WorkerProcess:
        """The worker it was handed to last."""
        assert self._worker is not None, "a job that no worker has had is not asked for its worker"
        return self._worker

    def hand_to(self, worker: WorkerProcess, *, sent: int, expected: float | None) -> None:
        """Take note of the worker that gets it."""
        self._worker, self.sent, self.expected = worker, sent, expected

    @property
    def attempt(self) -> int:
        """Which start of the job this is, counted from 1."""
        return self.job.attempts + 1

    def mark_ended(self) -> None:
        """Note that what became of it is known."""
        self.has_ended = True
        if self._end is not None:
            self._end.set()

    async def until_ended(self) -> None:
        """Wait for that."""
        if not self.has_ended:
            self._end = self._end or asyncio.Event()
            await self._end.wait()

    def is_for(self, number: int, fence: int) -> bool:
        """True when number and fence are those of this claim."""
        return (self.job.number, self.job.fence) == (number, fence)

    def shown(self) -> Shown | None:
        """Return what a cell of the worker shows of this claim, begun, running or ended; None before it is begun."""
        for cell in () if self._worker is None else self._worker.cells:
            shown = cell.read()
            if shown.has_started(self.job.number, self.job.fence):
                return shown
        return None

    def cell(self) -> Cell | None:
        """Return the cell that shows this claim."""
        number, fence = self.job.number, self.job.fence
        return next((cell for cell in self.worker.cells if cell.read().has_started(number, fence)), None)

    def sample_memory(self) -> int:
        """Return the resident memory of the worker in bytes, and keep the highest; 0 when it is gone."""
        memory = strays.memory_of(self.worker.pid) or 0
        if memory:
            self.rss = max(self.rss or 0, memory)
        return memory

    def has_room_for(self, line: str) -> bool:
        """Count a line of raw output; false, counted as dropped, once the run has had its share."""
        self._lines += 1
        self._bytes += len(line)
        if self._lines <= MAX_LINES and self._bytes <= MAX_BYTES:
            return True
        self.dropped += 1
        return False

    def to_run(self, max_result_bytes: int) -> Run:
        """Return the command that runs it."""
        job = self.job
        return Run(
            number=job.number,
            fence=job.fence,
            id=job.id,
            task=job.task,
            queue=job.queue,
            attempt=self.attempt,
            payload=job.payload,
            checksum=job.checksum,
            failures=job.failures,
            max_retries=job.max_retries,
            max_result_bytes=max_result_bytes,
            allow_background=job.allow_background,
        )

    def outcome_of_report(self, report: Done | Failed) -> tuple[Outcome, Receipt | None]:
        """Return what a worker's last word about the job means."""
        receipt = self._with_peak(report.receipt)
        if isinstance(report, Done):
            return Succeeded(report.result, report.successors), receipt
        match report.kind:
            case "interrupted" if self.stop is not None:
                return self._stopped(self.stop, None, report.error.traceback), receipt
            case "cancelled":
                return Cancelled(report.error), receipt
            case "snoozed":
                return Snoozed(report.delay or 0), receipt
            case "unknown":
                return Unknown(report.error), None
            case _:
                return Raised(report.error, report.retryable, report.delay), receipt

    def outcome_of_death(self, shown: Shown, *, neighbours: Sequence[Assignment], now: int) -> tuple[Outcome, Receipt]:
        """Return what the death of the worker at *now* (monotonic nanoseconds) means for this run.

        Its cell has *shown* it, beside *neighbours*.
        """
        worker = self.worker
        is_alone = len(worker.cells) == 1
        cpu = max(worker.cpu - shown.cpu, 0) if is_alone else None
        # Of a run too short for a sample, the peak of its process is known: its own, or an earlier job's.
        rss = self.rss or (worker.peak if is_alone else None) or None
        ended_at = shown.started_at + max(now - shown.started, 0) // 1_000
        receipt = Receipt(shown.started_at, ended_at, worker.name, worker.pid, cpu, rss)
        if self.stop is not None:  # however it died, it was asked to
            return self._stopped(self.stop, worker.exit), receipt
        culprit = next((other for other in neighbours if other.stop is not None), None)
        if culprit is not None:
            return Returned(f"its worker was killed because of #{culprit.job.number}"), receipt
        if worker.is_orphan:
            return Lost("the zygote died while the job was running"), receipt
        if neighbours:
            return Suspected(worker.exit, worker.stack.read()), receipt
        return Crashed(worker.exit, worker.stack.read()), receipt

    def stood(self, stack: str) -> None:
        """Take note of where its coroutine waits, now that it is asked to stop."""
        if self.stop is not None:
            self.stop.awaits = stack[:MAX_STACK]

    def _stopped(self, stop: Stop, exit: str | None, trace: str | None = None) -> Outcome:
        """Return what a run came to that was made to stop; *trace* is how it ended, if it did so by itself."""
        match stop.reason:
            case Reason.TIMEOUT:
                return TimedOut(self._timeout_error(stop, trace), stop.shown(), exit)
            case Reason.CANCEL:
                error = ErrorReport("JobCancelled", "cancelled while it was running", trace)
                return Cancelled(error, stop.shown(), exit)
            case Reason.MEMORY:
                return OverMemory(self._memory_error(), stop.shown(), exit)
            case _:
                return Returned("the master was stopped", stop.shown())

    def _timeout_error(self, stop: Stop, trace: str | None) -> ErrorReport:
        place = stop.place(is_alone=len(self.worker.cells) == 1)
        what = f"ran past its timeout of {(self.job.timeout or 0) / SECOND:g} s"
        if stop.blocked:
            what = f"blocked its worker's event loop for {stop.blocked / SECOND:.1f} s, so that a neighbour ran out of time"
        return ErrorReport("TimeoutError", what + (f", at {place}" if place else ""), trace)

    def _memory_error(self) -> ErrorReport:
        used, limit = (self.rss or 0) / MEBIBYTE, (self.job.max_rss or 0) / MEBIBYTE
        return ErrorReport("MemoryLimit", f"used {used:.0f} MiB of memory, above its limit of {limit:.0f} MiB")

    def _with_peak(self, receipt: Receipt | None) -> Receipt | None:
        if receipt is None or self.rss is None or (receipt.rss or 0) >= self.rss:
            return receipt
        return Receipt(receipt.started_at, receipt.ended_at, receipt.worker, receipt.pid, receipt.cpu, self.rss)


def ends_by_death(shown: Mapping[Assignment, Shown], *, now: int) -> list[tuple[Assignment, Outcome, Receipt]]:
    """Return what the death of their worker means for each of the runs that its cells *shown*."""
    ends: list[tuple[Assignment, Outcome, Receipt]] = []
    for each, cell in shown.items():
        neighbours = [other for other in shown if other is not each]
        ends.append((each, *each.outcome_of_death(cell, neighbours=neighbours, now=now)))
    return ends
