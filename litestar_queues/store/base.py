"""What a store is. These docstrings are the specification; the conformance suite tests them.

A store keeps jobs, and nothing in it decides: ``lifecycle.settle`` says what becomes of a job,
the store writes that. Every method is one transaction (or one read), takes a batch, and has
happened wholly or not at all when it returns or raises. A caller that is cancelled cancels
nothing: the transaction goes on, and its result is dropped.

Rules that hold for every method:

* **Durable.** When a writing method returns, the change survives ``kill -9`` of any process and,
  at the default durability, loss of power (``prune`` only the first; ``claim`` the second a moment later).
* **Fenced.** A write about a claimed job happens only where number, fence and status ``running``
  match. The first writer wins and the loser is told.
* **One sequence.** Every transaction takes the next number of one store-wide sequence and stamps
  what it changes with it.
* **Counted.** The counts by queue and status change in the same transaction as the jobs.
* **The doorbell is a hint.** A write wakes those who listen, watchers when it is committed, masters
  as soon as a claim that they make will see it; a lost bell costs time, never a job.
* **Time is given.** Methods that need the time take ``now`` (microseconds, wall clock), and decide by
  it; a store reads no wall clock of its own. (PostgreSQL, with several machines, uses the
  database's.) A claim is dated when its transaction begins: ``now`` and what the caller waited for
  that, by the monotonic clock. So the dates of several masters' claims stand in the order of the claims.

Errors: ``StoreFull``, ``StoreLocked``, ``StoreReadOnly``, ``StoreCorrupt``, ``StoreMissing``,
``StoreTooNew``, ``StoreStopped``, each a ``StoreError``. After an error at commit the outcome is unknown to the
caller; ``add`` may be repeated with the same ids, ``settle`` with the same fences.

A store is used from any event loop and any thread of the process that opened it: results arrive
on the caller's loop. A forked child must not use its parent's store; opening anew is safe.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from types import TracebackType
from typing import Protocol, Self
from uuid import UUID

from msgspec import Struct

from litestar_queues.lifecycle import Settlement
from litestar_queues.models import (
    Added,
    Attempt,
    ClaimedJob,
    NewJob,
    Query,
    QueuedTaskRecord,
    QueueStatistics,
    Status,
    StoredEvent,
)
from litestar_queues.nodes import Catalogue, Node


class Want(Struct, frozen=True):
    """What one pool asks for in a claim."""

    limit: int
    """Jobs at most; fewer where their arguments are large, so that a claim never takes long, but one at least."""
    queues: tuple[str, ...] | None = None
    """These queues, or None for every queue."""
    excluded: tuple[str, ...] = ()
    """Queues left out when *queues* is None."""
    backends: tuple[str, ...] = ("local",)
    only: int | None = None
    """This one job number, if it may be claimed at all; its ``run_at`` is then ignored."""
    above: int | None = None
    """Jobs of a higher priority than this alone: no more is wanted."""


class Claims(Struct, frozen=True):
    """What a claim brought."""

    jobs: tuple[tuple[ClaimedJob, ...], ...]
    """One tuple for each ``Want``, in its order; inside it by priority, then number."""
    next_due: int | None = None
    """When the earliest scheduled job falls due (microseconds); None when none is scheduled."""


class Verdict(StrEnum):
    """What a store says of one settlement."""

    SETTLED = "settled"
    STALE = "stale"
    """The job is no longer running under this fence; nothing was written."""
    CANCEL_REQUESTED = "cancel_requested"
    """Cancel was asked, and the settlement would have let the job live on; nothing was written.
    Settle it as cancelled."""


class Change(Struct, frozen=True):
    """A job that has changed, as ``changed`` tells it."""

    number: int
    status: Status
    sequence: int
    cancel_requested: bool = False


Place = Mapping[Status, tuple[int, int]]
"""How far ``prune`` has come, by status; only the store knows what it means."""


class Pruned(Struct, frozen=True):
    """What one call of ``prune`` did."""

    jobs: dict[Status, int]
    """How many jobs went, by how they had ended."""
    results: int
    """How many jobs lost their result, and stayed."""
    place: Place
    """Where the next call is to go on."""
    has_more: bool
    """There is more to do: call again."""
    took: int
    """Microseconds for which it kept other writers from writing."""


class Prunable(Struct, frozen=True):
    """What ``prune`` would do, called until nothing is left."""

    jobs: dict[Status, int]
    """How many jobs would go, by how they ended."""
    spared: dict[Status, int]
    """How many stay only because they have a longer retention of their own."""
    results: int
    """How many jobs would lose their result, and stay."""


class Bell(Protocol):
    """Wakes one listener when something it listens to may have changed."""

    async def wait(self, timeout: float) -> bool:
        """Return True once somebody has rung since the last call; False after *timeout* seconds, or once woken by ``ring``."""
        ...

    def ring(self) -> None:
        """Wake the listener from inside its own event loop: nothing has changed in the store."""
        ...


class JobStore(Protocol):
    """The hot path: what enqueuers, masters and waiters do."""

    async def add(self, jobs: Sequence[NewJob]) -> list[Added]:
        """Store new jobs, all or none, and say what became of each, in order.

        Idempotent by id: a job whose id is stored already is not added again, and its entry is
        returned. A job whose ``run_at`` is past ``created_at`` is added as scheduled, else as
        pending. While a live job (scheduled, pending, running) of the same ``key_scope`` holds
        the key: ``reuse`` returns the live job, deduplicated; ``replace`` also gives it this
        payload, priority, ``run_at`` and ``expires_at`` if it has not started; ``raise`` marks the entry as
        refused, and then nothing of the batch is added. One that is overdue by the new job's
        ``created_at`` expires, and holds no key. A key taken with ``key_forever`` counts as held after
        its job has ended, also when that has been pruned: the entry then has the status it had. A pruned
        job without such a key is forgotten, its id too.
        """
        ...

    async def get(self, references: Sequence[UUID | int], *, attempts: bool = False) -> list[QueuedTaskRecord | None]:
        """Return jobs by id or number, in order; None for one that is not there.

        With *attempts*, each record carries its history; a first attempt that succeeded, which
        leaves no row, is told from the job's own.
        """
        ...

    async def claim(self, node: str, wants: Sequence[Want], *, now: int) -> Claims:
        """Give jobs to *node*: pending becomes running, and the fence rises by one.

        First, in the same transaction: scheduled jobs that are due become pending (up to a bound
        per call), those that wait past their ``expires_at`` become expired, for a first run or a retry,
        and those with a cancel request become cancelled. Paused queues give nothing. Highest priority
        first, then lowest number, over all the queues of a want together.
        """
        ...

    async def settle(self, settlements: Sequence[Settlement]) -> list[Verdict]:
        """Write what became of claimed jobs, fenced, and say of each whether it was written.

        The *successors* of one that was written are added in the same transaction, as ``add`` would:
        both or neither. Those of one that was not written are not.
        """
        ...

    async def record(self, events: Sequence[StoredEvent]) -> None:
        """Keep what running jobs said, in this order. Events of a job that is gone are dropped."""
        ...

    async def events(self, number: int, *, after: int = 0, limit: int = 1000) -> list[StoredEvent]:
        """Return the stored events of a job past position *after*, in order."""
        ...

    async def changed(self, numbers: Collection[int], *, after: int) -> list[Change]:
        """Return those of *numbers* stamped past *after*, with where they stand."""
        ...

    async def beat(self, node: Node) -> list[int]:
        """Write the node's row, and return the numbers of its running jobs for which cancel was asked."""
        ...

    async def adopt(self, node: str, dead: Sequence[str], *, living: Sequence[str]) -> list[ClaimedJob]:
        """Take over running jobs whose node is dead or unknown, fence raised, and forget the dead nodes.

        *dead* nodes are known to be gone; jobs of any node that is neither in *living* nor has a
        row are taken too: nothing may run for ever. Calling it again returns nothing new.
        """
        ...

    def listen(self, numbers: Collection[int] | None = None) -> AbstractAsyncContextManager[Bell]:
        """Listen on the running event loop, for changes of these jobs, or as a master (None).

        A master is woken by whatever may give it something to do (added, due, cancelled jobs); a
        watcher by commits that change the jobs it names, at most every 5 ms. *numbers* is read
        when the context is entered. A listener is not woken by its own store object's commits.
        """
        ...


class Administration(Protocol):
    """What people and housekeeping do."""

    async def find(self, query: Query) -> list[QueuedTaskRecord]:
        """Return the jobs that match *query*, without their attempts."""
        ...

    async def statistics(self) -> dict[str, QueueStatistics]:
        """Return the counts for each queue that is known."""
        ...

    async def oldest_waiting(self) -> dict[str, int]:
        """Return, for each queue with pending jobs, when its lowest pending number fell due (microseconds)."""
        ...

    async def attempts(self, number: int) -> list[Attempt]:
        """Return the history of a job, first attempt first."""
        ...

    async def cancel(self, numbers: Sequence[int], *, now: int, running: bool = True) -> list[Status | None]:
        """Cancel jobs, and return the status each had; None for one that is not there.

        One that has not started is cancelled at once. A running one (with *running*) is marked, and
        its master is rung; it ends as cancelled unless it completes first.
        """
        ...

    async def prune(
        self,
        kept: Mapping[Status, int | None],
        *,
        now: int,
        after: Place | None = None,
        even_kept: bool = False,
    ) -> Pruned:
        """Delete some of the jobs that ended long enough ago, with their attempts and events; say what is left.

        *kept* says for how many microseconds after its end a job stays, by how it ended; for ever where
        that is None, and for a status that is not in it. A job with a ``retention`` of its own goes by
        that, where its status is in *kept* at all; with *even_kept* it goes by *kept* like the others.
        A job whose ``result_retention`` is over loses its result and stays.

        One call is one short transaction: it touches a bounded number of rows, those that ended first,
        and nobody waits long behind it. A job on which too much hangs for that loses its events,
        oldest first, over several calls, and goes when they have gone. Call again while ``has_more``,
        each time with the ``place`` of the last answer as *after*: jobs that are kept longer are then
        walked over once and not each time. Without *after*, the walk begins anew.

        Several callers at once do no harm. What is pruned need not survive loss of power: then it is
        there again, and goes again. Numbers are never given anew.
        """
        ...

    async def prunable(self, kept: Mapping[Status, int | None], *, now: int, even_kept: bool = False) -> Prunable:
        """Count what ``prune`` would do; reads only. A ``StoreError`` says so where the file is too old to tell."""
        ...

    async def nodes(self) -> list[Node]:
        """Return the masters that have a row, alive or not."""
        ...

    async def retire(self, node: str) -> None:
        """Forget a node that has stopped in good order and holds no jobs."""
        ...

    async def publish(self, node: str, catalogue: Catalogue, *, now: int) -> None:
        """Keep what *node* says of the application; the catalogue shows the newest entry per task."""
        ...

    async def catalogue(self) -> Catalogue:
        """Return the tasks and pools that masters have published."""
        ...


class Store(JobStore, Administration, Protocol):
    """A store, open from ``open_store`` until ``close``."""

    @property
    def url(self) -> str:
        """Where it is, absolute, without a password."""
        ...

    @property
    def folder(self) -> str:
        """A folder of this store on this host, mode 0700, for locks and cells."""
        ...

    async def close(self) -> None:
        """Let go of it. The last close in the process ends the writer's thread."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
