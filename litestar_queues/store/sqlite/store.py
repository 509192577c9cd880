"""The contract on SQLite: each method is one function for the writer, or one read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import UUID

import msgspec

from litestar_queues.exceptions import StoreError
from litestar_queues.lifecycle import Settlement
from litestar_queues.models import (
    Added,
    Attempt,
    Catalogue,
    ClaimedJob,
    NewJob,
    Node,
    PoolEntry,
    Query,
    QueuedTaskRecord,
    QueueStatistics,
    Status,
    StoredEvent,
    TaskEntry,
)
from litestar_queues.store.base import Bell, Change, Claims, Verdict, Want
from litestar_queues.store.opening import Durability
from litestar_queues.store.sqlite import adding, claiming, reading, settling, telling
from litestar_queues.store.sqlite.bells import SocketBell
from litestar_queues.store.sqlite.location import Location
from litestar_queues.store.sqlite.reader import Reader
from litestar_queues.store.sqlite.writer import Transaction, Writer, acquire, release

T = TypeVar("T")


class SQLiteStore:
    """A store in one SQLite file; see ``store.base`` for what each method promises."""

    def __init__(self, location: Location, writer: Writer | None) -> None:
        self._location = location
        self._writer_or_none = writer
        self._reader = Reader(location)
        self._listeners: set[SocketBell] = set()
        self._listener_names: frozenset[str] = frozenset()

    @classmethod
    async def open(cls, url: str, *, create: bool = True, durability: Durability = "power") -> Self:
        """Open the store at *url*; see ``open_store``."""
        location = Location.of(url)
        if not create:
            store = cls(location, None)
            await store._reader.open()
            return store
        location.make()
        store = cls(location, await asyncio.to_thread(acquire, location, durability))
        await store._reader.open()
        return store

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
        await self._reader.close()
        if self._writer_or_none is not None:
            writer, self._writer_or_none = self._writer_or_none, None
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
        return await self._write(partial(adding.add, jobs=jobs), len(jobs))

    async def get(self, references: Sequence[UUID | int], *, attempts: bool = False) -> list[QueuedTaskRecord | None]:
        """Return jobs by id or number."""
        rows = await self._job_rows(references)
        found: list[QueuedTaskRecord | None] = []
        for reference in references:
            row = rows.get(reference if isinstance(reference, int) else str(reference))
            found.append(None if row is None else await self._record(row, attempts=attempts))
        return found

    async def claim(self, node: str, wants: Sequence[Want], *, now: int) -> Claims:
        """Give jobs to *node*."""
        weight = sum(want.limit for want in wants)
        return await self._write(partial(claiming.claim, node=node, wants=wants, now=now), weight)

    async def settle(self, settlements: Sequence[Settlement]) -> list[Verdict]:
        """Write what became of claimed jobs, fenced."""
        return await self._write(partial(settling.settle, settlements=settlements), len(settlements))

    async def record(self, events: Sequence[StoredEvent]) -> None:
        """Keep what running jobs said."""
        await self._write(partial(settling.record, events=events), len(events))

    async def events(self, number: int, *, after: int = 0, limit: int = 1000) -> list[StoredEvent]:
        """Return the stored events of a job past position *after*."""
        return [reading.event(row) for row in await self._reader.rows(reading.EVENTS, (number, after, limit))]

    async def changed(self, numbers: Collection[int], *, after: int) -> list[Change]:
        """Return those of *numbers* stamped past *after*."""
        rows = await self._reader.rows(reading.CHANGED, (json.dumps(list(numbers)), after))
        return [Change(number, Status(status), sequence, bool(asked)) for number, status, sequence, asked in rows]

    async def beat(self, node: Node) -> list[int]:
        """Write the node's row; return its running jobs that are to be cancelled."""
        return await self._write(partial(telling.beat, node=node))

    async def adopt(self, node: str, dead: Sequence[str], *, living: Sequence[str]) -> list[ClaimedJob]:
        """Take over the jobs of nodes that are gone."""
        return await self._write(partial(claiming.adopt, node=node, dead=dead, living=living))

    @asynccontextmanager
    async def listen(self, numbers: Collection[int] | None = None) -> AsyncIterator[Bell]:
        """Listen for changes of these jobs, or as a master."""
        try:
            bell = SocketBell(self._location.folder / "bells", numbers)
        except OSError as error:
            msg = f"no bell can be hung in {self._location.folder} ({error.strerror}); give this user the right to write there"
            raise StoreError(msg) from error
        self._set_listeners(self._listeners | {bell})
        try:
            yield bell
        finally:
            self._set_listeners(self._listeners - {bell})
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
        """Return when the oldest pending job of each queue fell due."""
        return dict(await self._reader.rows(reading.OLDEST_WAITING))

    async def attempts(self, number: int) -> list[Attempt]:
        """Return the history of a job."""
        [job] = await self.get([number], attempts=True)
        return [] if job is None else list(job.attempts)

    async def cancel(self, numbers: Sequence[int], *, now: int, running: bool = True) -> list[Status | None]:
        """Cancel jobs; return the status each had."""
        work = partial(settling.cancel, numbers=numbers, now=now, running=running)
        return await self._write(work, len(numbers))

    async def nodes(self) -> list[Node]:
        """Return the masters that have a row."""
        return [msgspec.json.decode(row, type=Node) for (row,) in await self._reader.rows(reading.NODES)]

    async def retire(self, node: str) -> None:
        """Forget a node that has stopped."""
        await self._write(partial(telling.retire, node=node))

    async def publish(self, node: str, catalogue: Catalogue, *, now: int) -> None:
        """Keep what *node* says of the application."""
        work = partial(telling.publish, node=node, catalogue=catalogue, now=now)
        await self._write(work, len(catalogue.tasks))

    async def catalogue(self) -> Catalogue:
        """Return the tasks and pools that masters have published."""
        entries: dict[str, list[str]] = {"task": [], "pool": [], "app": []}
        for kind, entry in await self._reader.rows(reading.CATALOGUE):
            entries[kind].append(entry)
        rest = msgspec.json.decode(entries["app"][0], type=Catalogue) if entries["app"] else Catalogue()
        return msgspec.structs.replace(
            rest,
            tasks=tuple(msgspec.json.decode(entry, type=TaskEntry) for entry in entries["task"]),
            pools=tuple(msgspec.json.decode(entry, type=PoolEntry) for entry in entries["pool"]),
        )

    async def _write(self, work: Callable[[Transaction], T], weight: int = 1) -> T:
        if self._writer_or_none is None:
            msg = (
                f"the store at {self._location.path} is open for reading only, or closed; open it with open_store(url)"
            )
            raise StoreError(msg)
        return await self._writer_or_none.run(work, weight=weight, listeners=self._listener_names)

    def _set_listeners(self, listeners: set[SocketBell]) -> None:
        self._listeners = listeners
        self._listener_names = frozenset(bell.name for bell in listeners)

    async def _job_rows(self, references: Sequence[UUID | int]) -> dict[int | str, tuple[Any, ...]]:
        numbers = [reference for reference in references if isinstance(reference, int)]
        ids = [str(reference) for reference in references if isinstance(reference, UUID)]
        rows: dict[int | str, tuple[Any, ...]] = {}
        if numbers:
            rows |= {row[0]: row for row in await self._reader.rows(reading.BY_NUMBER, (json.dumps(numbers),))}
        if ids:
            rows |= {row[1]: row for row in await self._reader.rows(reading.BY_ID, (json.dumps(ids),))}
        return rows

    async def _record(self, row: tuple[Any, ...], *, attempts: bool) -> QueuedTaskRecord:
        if not attempts:
            return reading.record(row)
        stored = await self._reader.rows(reading.ATTEMPTS, (row[0],))
        return reading.record(row, reading.history(row, stored))
