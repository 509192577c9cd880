"""What can go wrong, as a tree.

::

    QueueError
    ├── QueueConfigurationError     a setting is missing, unknown or contradicts another
    ├── TaskDefinitionError         @task cannot make a task of this function
    ├── UnknownTaskError            no registered task has this name
    ├── DuplicateJobError           a live job holds the key, and on_duplicate="raise"
    ├── PayloadError                a value is too large or cannot make the round trip
    ├── StoreError                  the store cannot do what was asked
    │   ├── StoreMissing            there is no database there
    │   ├── StoreFull               the disk is full
    │   ├── StoreLocked             another program holds the write lock
    │   ├── StoreReadOnly           the file or its folder cannot be written
    │   ├── StoreCorrupt            the file is damaged, replaced, or not a queue database
    │   ├── StoreStopped            this process writes to it no more: its writer has ended by a defect
    │   └── StoreTooNew             a newer release wrote it
    ├── JobNotFound                 no job has this number or id
    │   └── JobGone                 it was there, and has been pruned
    ├── ResultGone                  the job is there; its result was kept for less long
    └── JobEnded                    the job ended without a value
        ├── TaskFailed
        ├── TaskCancelled
        └── TaskExpired

    Raised inside tasks, to say what is to become of the job:

    NonRetryableError               fail now, whatever retries are left
    JobCancelledError               end as cancelled
    Snooze                          run again later, at no cost
    JobInterrupted (BaseException)  raised *in* a task by the worker: time is up, or it is cancelled

Every message is one sentence with the fact and the remedy; the facts are attributes too.
Nothing here is ever looked up by a stored name: stored errors are text.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import NoReturn

_YEAR = 366 * 24 * 3600


class QueueError(Exception):
    """The root of what this package raises on purpose."""


class QueueConfigurationError(QueueError):
    """A setting is missing, unknown, or contradicts another; the message names it."""


class TaskDefinitionError(QueueError):
    """``@task`` cannot make a task of this function with these options."""


class UnknownTaskError(QueueError):
    """No registered task has this name."""

    def __init__(self, name: str, known: Iterable[str] = ()) -> None:
        self.name = name
        self.known = sorted(known)
        super().__init__(f"no task is named {name!r} ({_known(name, self.known)}); is its module imported?")


class DuplicateJobError(QueueError):
    """A live job holds the key already, and ``on_duplicate="raise"`` was asked for."""

    def __init__(self, task_name: str, key: str, number: int) -> None:
        self.task_name = task_name
        self.key = key
        self.number = number
        super().__init__(
            f"job #{number} of {task_name!r} holds the key {key!r} until it ends; "
            'wait for it, or enqueue with on_duplicate="reuse"'
        )


class PayloadError(QueueError):
    """A value is too large, or JSON would not bring it back as it is."""


class StoreError(QueueError):
    """The store cannot do what was asked; nothing was half done."""


class StoreMissing(StoreError):
    """There is no database at this place; reading never creates one."""


class StoreFull(StoreError):
    """The disk is full; what the caller asked for was not stored."""


class StoreLocked(StoreError):
    """Another program has held the database's write lock for longer than the deadline."""


class StoreReadOnly(StoreError):
    """The database file or its folder cannot be written by this user."""


class StoreCorrupt(StoreError):
    """The file is damaged, was replaced under us, or is not a queue database."""


class StoreStopped(StoreError):
    """What writes in this process has ended by a defect of its own; what was under way may be stored or not."""


class StoreTooNew(StoreError):
    """A newer release wrote this database."""


FINAL_REFUSALS = (StoreCorrupt, StoreStopped)
"""What a store that has been opened refuses for good: the process is to be started again."""


class JobNotFound(QueueError):
    """No job has this number or id."""


class JobGone(JobNotFound):
    """The job was there and has been pruned."""


class ResultGone(QueueError):
    """The job has completed and is there, but its result has been dropped: its ``result_retention`` is over."""

    def __init__(self, number: int, task_name: str) -> None:
        self.number = number
        self.task_name = task_name
        super().__init__(
            f"the result of job #{number} ({task_name}) was kept until its result_retention was over, and is gone; "
            "read it sooner, or give the task a longer result_retention"
        )


class JobEnded(QueueError):
    """The job ended without a value to return."""

    def __init__(self, message: str, *, task_name: str, job_id: str, traceback: str | None = None) -> None:
        self.task_name = task_name
        self.job_id = job_id
        self.traceback = traceback
        super().__init__(message)


class TaskFailed(JobEnded):
    """The job failed; ``traceback`` holds the text stored with its last attempt."""


class TaskCancelled(JobEnded):
    """The job was cancelled before it completed."""


class TaskExpired(JobEnded):
    """The job was not started before its ``expires_at``."""


class NonRetryableError(Exception):
    """Raise it in a task to fail the job now, whatever retries are left."""


class JobCancelledError(Exception):
    """Raise it in a task to end the job as cancelled."""


class Snooze(Exception):
    """Raise it in a task to run the job again after *seconds* (at most a year); it costs no retry."""

    def __init__(self, seconds: float) -> None:
        if not 0 <= seconds <= _YEAR:  # false for NaN too
            msg = f"Snooze takes seconds from 0 to {_YEAR} (a year), not {seconds!r}"
            raise ValueError(msg)
        self.seconds = seconds
        super().__init__(f"again in {seconds:g} s")


class JobInterrupted(BaseException):
    """Raised in a synchronous task by its worker: the time is up, or the job is cancelled.

    Derives from ``BaseException`` so that ``except Exception`` in a task does not swallow it.
    A task that clears up and re-raises ends in time; one that does not is killed after
    ``kill_grace``. ``reason`` is ``"timeout"``, ``"cancel"`` or ``"drain"``.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def non_retryable(message: str) -> NoReturn:
    """Fail the running job now, with *message*, whatever retries are left."""
    raise NonRetryableError(message)


def job_cancelled(message: str = "cancelled by the task") -> NoReturn:
    """End the running job as cancelled."""
    raise JobCancelledError(message)


def _known(name: str, known: list[str]) -> str:
    if not known:
        return "none are registered"
    near = get_close_matches(name, known, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    listed = ", ".join(known[:5])
    return f"known: {listed}{', …' if len(known) > 5 else ''}"
