"""The contract on SQLite: each method is one function for the writer, or one read."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Self, TypeVar
from uuid import UUID

import msgspec

from litestar_queues.exceptions import StoreError
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
from litestar_queues.store.base import Bell, Change, Claims, Place, Prunable, Pruned, Verdict, Want
from litestar_queues.store.opening import Durability
from litestar_queues.store.sqlite import adding, claiming, pruning, reading, settling, telling
from litestar_queues.store.sqlite.bells import SocketBell
from litestar_queues.store.sqlite.location import Location
from litestar_queues.store.sqlite.reader import Reader
from litestar_queues.store.sqlite.sharing import acquire, release
from litestar_queues.store.sqlite.transaction import Transaction, numbers_of
from litestar_queues.store.sqlite.writer import GROUP, Verb, Writer

T = TypeVar("T")
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class SQLiteStore:
    """A store in one SQLite file; see ``store.base`` for what each method promises."""

    def __init__(self, location: Location, writer: Writer | None) -> None:
        self._location = location
        self._writer = writer
        self._reader = Reader(location)
        self._listeners: frozenset[str] = frozenset()

    @classmethod
    async def open(cls, url: str, *, create: bool = True, durability: Durability = "power") -> Self:
        """Open the store at *url*; see ``open_store``."""
        location = Location.of(url, create=create)
        if not create:
            store = cls(location, None)
            await store._reader.open()
            return store
        location.make()
        opening = asyncio.ensure_future(asyncio.to_thread(acquire, location, durability))
        try:
            writer = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(partial(_release_unwanted, location))
            raise
        except BaseException:
            location.remove_if_temporary()
            raise
        return cls(location, writer)

    @property
    def url(self) -> str:
        """Where it is, absolute."""
        return self._location.url

    @property
    def folder(self) -> str:
        """The folder beside the database, mode 0700."""
        return str(self._location.folder)

    async def close(self) -> None:
        """Let go of the database; the last store of the process at this place ends the writer's thread."""
        writer, self._writer = self._writer, None
        try:
            await self._reader.close()
        finally:
            if writer is not None:
                await asyncio.to_thread(release, self._location, writer)
                self._location.remove_if_temporary()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # The jobs.

    async def add(self, jobs: Sequence[NewJob]) -> list[Added]:
        """Store new jobs, all or none."""
        if any(job.on_duplicate == "raise" for job in jobs):
            return await self._run(partial(adding.add_or_refuse, jobs=jobs), len(jobs))
        return await self._run_each(adding.add, jobs)

    async def get(self, references: Sequence[UUID | int], *, attempts: bool = False) -> list[QueuedTaskRecord | None]:
        """Return jobs by id or number."""
        sql, parameters = reading.jobs(references, attempts=attempts)
        found: dict[UUID | int, QueuedTaskRecord] = {}
        for row in await self._reader.rows(sql, parameters):
            job = reading.record(row)
            found[job.number] = found[job.id] = job
        return [found.get(reference) for reference in references]

    async def claim(self, node: str, wants: Sequence[Want], *, now: int) -> Claims:
        """Give jobs to *node*."""
        asked_at = time.monotonic_ns()
        weight = sum(want.limit for want in wants)
        work = partial(claiming.claim, node=node, wants=wants, now=now, asked_at=asked_at)
        # No promise is kept by a claim: where it is undone by a loss of power, so is every process that could have
        # run the job, which waits again. So a job begins after one sync, that of its enqueue.
        return await self._open_writer().run(work, weight=weight, listeners=self._listeners, synced="after")

    async def settle(self, settlements: Sequence[Settlement]) -> list[Verdict]:
        """Write what became of claimed jobs, fenced."""
        weight = len(settlements) + sum(len(each.successors) for each in settlements)
        return await self._run_each(settling.settle, settlements, weight, vital=True)

    async def record(self, events: Sequence[StoredEvent]) -> None:
        """Keep what running jobs said."""
        await self._run_each(settling.record, events)

    async def events(self, number: int, *, after: int = 0, limit: int = 1000) -> list[StoredEvent]:
        """Return the stored events of a job past position *after*."""
        return [reading.event(row) for row in await self._reader.rows(reading.EVENTS, (number, after, limit))]

    async def changed(self, numbers: Collection[int], *, after: int) -> list[Change]:
        """Return those of *numbers* stamped past *after*."""
        rows = await self._reader.rows(reading.CHANGED, (numbers_of(numbers), after))
        return [Change(number, Status(status), sequence, bool(asked)) for number, status, sequence, asked in rows]

    async def beat(self, node: Node) -> list[int]:
        """Write the node's row; return its running jobs that are to be cancelled."""
        return await self._run(partial(telling.beat, node=node))

    async def adopt(self, node: str, dead: Sequence[str], *, living: Sequence[str]) -> list[ClaimedJob]:
        """Take over the jobs of nodes that are gone."""
        return await self._run(partial(claiming.adopt, node=node, dead=dead, living=living))

    @asynccontextmanager
    async def listen(self, numbers: Collection[int] | None = None) -> AsyncIterator[Bell]:
        """Listen for changes of these jobs, or as a master."""
        bell = SocketBell(self._location.folder / "bells", numbers)
        self._listeners |= {bell.name}
        try:
            yield bell
        finally:
            self._listeners -= {bell.name}
            bell.close()

    # Administration.

    async def find(self, query: Query) -> list[QueuedTaskRecord]:
        """Return the jobs that match *query*."""
        sql, parameters = reading.find(query)
        return [reading.record(row) for row in await self._reader.rows(sql, parameters)]

    async def statistics(self) -> dict[str, QueueStatistics]:
        """Return the counts for each queue."""
        return reading.statistics(await self._reader.rows(reading.STATISTICS))

    async def oldest_waiting(self) -> dict[str, int]:
        """Return when the lowest pending number of each queue fell due."""
        return dict(await self._reader.rows(reading.OLDEST_WAITING))

    async def attempts(self, number: int) -> list[Attempt]:
        """Return the history of a job."""
        [job] = await self.get([number], attempts=True)
        return [] if job is None else list(job.attempts)

    async def cancel(self, numbers: Sequence[int], *, now: int, running: bool = True) -> list[Status | None]:
        """Cancel jobs; return the status each had."""
        return await self._run(partial(settling.cancel, numbers=numbers, now=now, running=running), len(numbers))

    async def prune(
        self,
        kept: Mapping[Status, int | None],
        *,
        now: int,
        after: Place | None = None,
        even_kept: bool = False,
    ) -> Pruned:
        """Delete some of what is over."""
        work = partial(pruning.prune, kept=kept, now=now, after=after, even_kept=even_kept)
        # In a transaction of its own, so that nobody's commit waits for it as well, and not synced: nothing is
        # lost when it is undone. The next commit of anybody syncs it too.
        return await self._open_writer().run(work, weight=GROUP, listeners=self._listeners, synced="later")

    async def prunable(self, kept: Mapping[Status, int | None], *, now: int, even_kept: bool = False) -> Prunable:
        """Count what ``prune`` would do."""
        moments = msgspec.json.encode(pruning.until(kept, now)).decode()
        rows = await self._reader.rows(pruning.PRUNABLE, {"moments": moments, "now": now})
        [(results,)] = await self._reader.rows(pruning.PRUNABLE_RESULTS, (now,))
        return pruning.prunable(rows, results if Status.COMPLETED in kept else 0, even_kept=even_kept)

    async def nodes(self) -> list[Node]:
        """Return the masters that have a row."""
        return [msgspec.json.decode(row, type=Node) for (row,) in await self._reader.rows(reading.NODES)]

    async def retire(self, node: str) -> None:
        """Forget a node that has stopped."""
        await self._run(partial(telling.retire, node=node))

    async def publish(self, node: str, catalogue: Catalogue, *, now: int) -> None:
        """Keep what *node* says of the application."""
        work = partial(telling.publish, node=node, catalogue=catalogue, now=now)
        await self._run(work, len(catalogue.tasks))

    async def catalogue(self) -> Catalogue:
        """Return the tasks and pools that masters have published."""
        return reading.catalogue(await self._reader.rows(reading.CATALOGUE))

    async def _run(self, function: Callable[[Transaction], T], weight: int = 1) -> T:
        return await self._open_writer().run(function, weight=weight, listeners=self._listeners)

    async def _run_each(
        self, verb: Verb[ItemT, ResultT], items: Sequence[ItemT], weight: int | None = None, *, vital: bool = False
    ) -> list[ResultT]:
        weight = len(items) if weight is None else weight
        writer = self._open_writer()
        return await writer.run_each(verb, items, weight=weight, listeners=self._listeners, vital=vital)

    def _open_writer(self) -> Writer:
        if self._writer is None:
            msg = (
                f"the store at {self._location.path} is open for reading only, or closed; open it with open_store(url)"
            )
            raise StoreError(msg)
        return self._writer


def _release_unwanted(location: Location, opening: asyncio.Future[Writer]) -> None:
    """Let go of a writer whose opener was cancelled meanwhile."""
    if not opening.cancelled() and opening.exception() is None:
        # Not on the event loop: it waits for the writer's thread.
        threading.Thread(target=release, args=(location, opening.result())).start()
