"""What becomes of a job when a claim on it ends. All policy is here, and it is pure.

The caller brings the job as it was claimed, the outcome, the receipt and the time; the store
writes the answer as it stands, fenced. The table of costs is DESIGN §4:

=========== ======================= ==========================================================
outcome     costs                   then
=========== ======================= ==========================================================
succeeded   –                       completed
raised      one retry, with backoff scheduled; failed when no retry is left or none is allowed
timed out   one retry, with backoff scheduled; failed when no retry is left
over memory one retry, with backoff scheduled; failed when no retry is left
crashed     one of 3 crashes        pending at once; the third fails the job
suspected   nothing                 pending at once, and its next attempt runs alone
lost        one of 5 losses         pending at once; fails after the fifth
returned    nothing                 pending at once
cancelled   –                       cancelled
snoozed     nothing                 scheduled
unknown     nothing                 scheduled, again every 10 s; failed after 10 minutes of it
=========== ======================= ==========================================================
"""

from __future__ import annotations

import random
from typing import assert_never
from uuid import UUID

import msgspec
from msgspec import Struct

from litestar_queues.clock import SECOND
from litestar_queues.models import TERMINAL, Attempt, ClaimedJob, ErrorReport, NewJob, Receipt, Status

MAX_CRASHES = 3
"""A job that kills its worker this often is failed: it would empty the pool for ever."""
MAX_LOSSES = 5
"""A job may be running this often when its master dies before it is failed as the likely cause."""
UNKNOWN_SHORTEST = SECOND // 10
"""How soon a job with an unknown task is tried again at first: another master may know it."""
UNKNOWN_LONGEST = 10 * SECOND
"""How soon at last, after waits that double: a rolling deploy takes about this long."""
UNKNOWN_LIMIT = 600 * SECOND
"""How long a task may stay unknown before its job is failed."""

LONGEST_BACKOFF = 366 * 24 * 3600.0
"""Seconds; a longer delay is a mistake in the unit."""


class RetryBackoff(Struct, frozen=True):
    """How long to wait before the retry after the n-th failure.

    ``initial_delay * multiplier ** (n - 1)`` seconds, at most ``max_delay``, then spread by
    ``jitter`` (a share: 0.1 is ±10 %) so that jobs which failed together do not return together.
    """

    initial_delay: float = 1.0
    multiplier: float = 2.0
    max_delay: float = 3600.0
    jitter: float = 0.1

    def __post_init__(self) -> None:
        delays = 0 <= self.initial_delay <= LONGEST_BACKOFF and 0 <= self.max_delay <= LONGEST_BACKOFF
        if not (delays and 1 <= self.multiplier <= 1000 and 0 <= self.jitter <= 1):
            msg = f"{self} is not a backoff: delays are 0 s to a year, multiplier 1 to 1000, jitter 0 to 1"
            raise ValueError(msg)

    def delay(self, failures: int, seed: UUID | int = 0) -> int:
        """Return the wait in microseconds after *failures* failures; the same seed waits the same."""
        exponent = min(failures - 1, 64)  # 2 ** 64 is past any max_delay, and 1000 ** 64 still a float
        seconds = min(self.initial_delay * self.multiplier**exponent, self.max_delay)
        spread = random.Random(f"{seed}:{failures}").uniform(-self.jitter, self.jitter)  # noqa: S311 (not a secret)
        return round(min(seconds * (1 + spread), self.max_delay) * SECOND)


DEFAULT_BACKOFF = RetryBackoff()


class Succeeded(Struct, frozen=True, tag="succeeded"):
    """The function returned; *result* is its value as JSON, *successors* are to be added with the completion."""

    result: str
    successors: tuple[NewJob, ...] = ()


class Raised(Struct, frozen=True, tag="raised"):
    """The function raised, or its call could not be made."""

    error: ErrorReport
    retryable: bool = True
    delay: int | None = None
    """Microseconds until the retry, where the task's own backoff decided; None asks the job's."""


class TimedOut(Struct, frozen=True, tag="timed_out"):
    """It ran past its timeout and was stopped."""

    error: ErrorReport
    stack: str | None = None
    exit: str | None = None


class Crashed(Struct, frozen=True, tag="crashed"):
    """Its worker process died under it."""

    exit: str
    stack: str | None = None


class Suspected(Struct, frozen=True, tag="suspected"):
    """Its worker died with several jobs running, and nobody knows whose fault it was."""

    exit: str
    stack: str | None = None


class OverMemory(Struct, frozen=True, tag="over_memory"):
    """It went above its ``max_rss`` and was killed."""

    error: ErrorReport
    stack: str | None = None
    exit: str | None = None


class Lost(Struct, frozen=True, tag="lost"):
    """Its master or zygote died while it ran."""

    reason: str = "the master died while the job was running"


class Returned(Struct, frozen=True, tag="returned"):
    """It was given back: not started, drained, or hit by what we did to a neighbour."""

    reason: str = ""
    stack: str | None = None


class Cancelled(Struct, frozen=True, tag="cancelled"):
    """Cancel was asked and it has ended, or the task itself asked."""

    error: ErrorReport | None = None
    stack: str | None = None
    exit: str | None = None


class Snoozed(Struct, frozen=True, tag="snoozed"):
    """The task asked to be run again after *delay* microseconds."""

    delay: int


class Unknown(Struct, frozen=True, tag="unknown"):
    """The worker knows no task of this name."""

    error: ErrorReport


Outcome = (
    Succeeded | Raised | TimedOut | OverMemory | Crashed | Suspected | Lost | Returned | Cancelled | Snoozed | Unknown
)


class Settlement(Struct, frozen=True, kw_only=True):
    """The change of a row that follows from an outcome; the store writes it where the fence matches."""

    number: int
    fence: int
    queue: str
    status: Status
    run_at: int
    settled_at: int
    ended_at: int | None
    """When the job has ended: with its last run, where there was one."""
    attempts: int
    failures: int
    crashes: int
    losses: int
    unknown_since: int | None = None
    result: str | None = None
    error: ErrorReport | None = None
    receipt: Receipt | None = None
    successors: tuple[NewJob, ...] = ()
    """Jobs to add where, and only where, this is written."""
    suspect: bool = False
    """The next attempt is to run alone."""
    attempt: Attempt | None = None
    """The row of history to add; None when nothing started, or a first attempt simply succeeded."""


def settle(job: ClaimedJob, outcome: Outcome, receipt: Receipt | None = None, *, now: int) -> Settlement:
    """Say what becomes of *job*, whose claim has just come to *outcome*.

    *receipt* is None when the function was never started: then no attempt is counted.
    *now* is wall time in microseconds.
    """
    change = _Change(job, outcome, receipt, now)
    match outcome:
        case Succeeded(result, successors):
            return change.to(Status.COMPLETED, result=result, successors=successors)
        case Raised(error, retryable, delay):
            return change.retry(error, retryable=retryable, delay=delay)
        case TimedOut(error) | OverMemory(error):
            return change.retry(error, retryable=True, delay=None)
        case Crashed(exit):
            return change.crash(exit)
        case Lost(reason):
            return change.lose(reason)
        case Returned() | Suspected():
            return change.to(Status.PENDING)
        case Cancelled(error):
            return change.to(Status.CANCELLED, error=error)
        case Snoozed(delay):
            return change.after(delay)
        case Unknown(error):
            return change.strand(error)
        case _:
            assert_never(outcome)


class _Change:
    """One settlement in the making: the counters as they were, and what to add."""

    def __init__(self, job: ClaimedJob, outcome: Outcome, receipt: Receipt | None, now: int) -> None:
        self.job = job
        self.outcome = outcome
        self.receipt = receipt
        self.now = now

    def to(
        self,
        status: Status,
        *,
        result: str | None = None,
        error: ErrorReport | None = None,
        run_at: int | None = None,
        successors: tuple[NewJob, ...] = (),
        spent: tuple[int, int, int] = (0, 0, 0),
        unknown_since: int | None = None,
    ) -> Settlement:
        job = self.job
        failures, crashes, losses = spent
        return Settlement(
            number=job.number,
            fence=job.fence,
            queue=job.queue,
            status=status,
            run_at=job.run_at if run_at is None else run_at,
            settled_at=self.now,
            ended_at=self._end() if status in TERMINAL else None,
            attempts=job.attempts + (self.receipt is not None),
            failures=job.failures + failures,
            crashes=job.crashes + crashes,
            losses=job.losses + losses,
            unknown_since=unknown_since,
            result=result,
            error=error,
            receipt=self.receipt,
            successors=successors,
            suspect=self._is_suspect(),
            attempt=self._history(error),
        )

    def _end(self) -> int:
        return self.now if self.receipt is None else self.receipt.ended_at

    def after(self, delay: int, **change: object) -> Settlement:
        if delay <= 0:
            return self.to(Status.PENDING, **change)  # type: ignore[arg-type]  # passed through to `to`
        return self.to(Status.SCHEDULED, run_at=self.now + delay, **change)  # type: ignore[arg-type]  # likewise

    def retry(self, error: ErrorReport, *, retryable: bool, delay: int | None) -> Settlement:
        spent = (1, 0, 0)
        if not retryable or self.job.failures >= self.job.max_retries:
            return self.to(Status.FAILED, error=error, spent=spent)
        if delay is None:
            delay = backoff_of(self.job).delay(self.job.failures + 1, self.job.id)
        return self.after(delay, error=error, spent=spent)

    def crash(self, exit: str) -> Settlement:
        crashes = self.job.crashes + 1
        message = f"the worker process {exit} while running the job (crash {crashes} of {MAX_CRASHES})"
        error = ErrorReport("WorkerCrashed", message)
        status = Status.FAILED if crashes >= MAX_CRASHES else Status.PENDING
        return self.to(status, error=error, spent=(0, 1, 0))

    def lose(self, reason: str) -> Settlement:
        losses = self.job.losses + 1
        error = ErrorReport("WorkerLost", f"{reason} (loss {losses}; {MAX_LOSSES} are allowed)")
        status = Status.FAILED if losses > MAX_LOSSES else Status.PENDING
        return self.to(status, error=error, spent=(0, 0, 1))

    def strand(self, error: ErrorReport) -> Settlement:
        since = self.now if self.job.unknown_since is None else self.job.unknown_since
        if self.now - since >= UNKNOWN_LIMIT:
            return self.to(Status.FAILED, error=error)
        delay = min(max(self.now - since, UNKNOWN_SHORTEST), UNKNOWN_LONGEST)
        return self.after(delay, error=error, unknown_since=since)

    def _is_suspect(self) -> bool:
        """Say whether the next attempt is to run alone: until one has, nothing is known."""
        return isinstance(self.outcome, Suspected) or (self.job.suspect and self.receipt is None)

    def _history(self, error: ErrorReport | None) -> Attempt | None:
        simply_succeeded = isinstance(self.outcome, Succeeded) and self.job.attempts == 0
        if self.receipt is None or simply_succeeded:
            return None
        return Attempt(
            attempt=self.job.attempts + 1,
            fence=self.job.fence,
            outcome=self.outcome.__struct_config__.tag,  # type: ignore[arg-type]  # our tags are strings
            receipt=self.receipt,
            error=_suspicion(self.outcome.exit) if isinstance(self.outcome, Suspected) else error,
            stack=getattr(self.outcome, "stack", None),
            exit=getattr(self.outcome, "exit", None),
        )


def _suspicion(exit: str) -> ErrorReport:
    message = f"the worker process {exit} while it ran several jobs; nobody is charged, and this one runs alone next"
    return ErrorReport("WorkerCrashed", message)


def backoff_of(job: ClaimedJob) -> RetryBackoff:
    """Return the declarative backoff stored with *job*; the default where the stored one cannot be."""
    if job.backoff is None:
        return DEFAULT_BACKOFF
    try:
        return msgspec.json.decode(job.backoff, type=RetryBackoff)
    except msgspec.DecodeError:  # a damaged row must not end the master that settles it
        return DEFAULT_BACKOFF
