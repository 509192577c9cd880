"""Two masters find the same node dead: what it had begun is known to the one that takes its jobs over."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Self

import pytest

from litestar_queues.clock import SystemClock
from litestar_queues.lifecycle import Lost, Outcome, Raised, Returned
from litestar_queues.master.liveness import NodeFiles
from litestar_queues.master.watch import Watch
from litestar_queues.models import ClaimedJob, Receipt
from litestar_queues.store import Store, open_store
from store.making import NOW, claim, new_jobs, node

pytestmark = [pytest.mark.anyio, pytest.mark.unjudged("no master runs, and what is taken over is not settled")]


class Taker:
    """A master as far as adopting needs one: it keeps what it is given."""

    def __init__(self, store: Any, name: str) -> None:
        self.taken: dict[int, Outcome] = {}
        self.files = NodeFiles.create(store.folder, name, 1)
        self.watch = Watch(store, name, SystemClock(), self, lambda notice: None)  # type: ignore[arg-type] # see above

    @classmethod
    async def living(cls, store: Any, name: str) -> Self:
        await store.beat(node(name))
        return cls(store, name)

    def settle_adopted(self, job: ClaimedJob, outcome: Outcome, receipt: Receipt | None) -> None:
        self.taken[job.number] = outcome


class Paced:
    """A store whose ``adopt`` waits for what comes before it, and for what comes after."""

    def __init__(self, store: Store, before: Callable[[], Awaitable[Any]], after: Callable[[], Awaitable[Any]]) -> None:
        self._store, self._before, self._after = store, before, after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def adopt(self, node: str, dead: Sequence[str], *, living: Sequence[str]) -> list[ClaimedJob]:
        await self._before()
        jobs = await self._store.adopt(node, dead, living=living)
        await self._after()
        return jobs


async def leave_behind(store: Store) -> tuple[int, int]:
    """Leave what a master does that was killed when the first of its two jobs had begun; return their numbers."""
    files = NodeFiles.create(store.folder, "dead", 1)
    await store.beat(node("dead"))
    await store.add(new_jobs(2))
    begun, waiting = await claim(store, node="dead")
    files.cells.cell(0).begin(begun.number, begun.fence, started=1, started_at=NOW + 7, cpu=0)
    files.cells.close()
    os.close(files.lock)
    return begun.number, waiting.number


@pytest.mark.fault("B17", "two masters find one node dead, and the loser removes its files", "its starts are attempts")
async def test_what_a_dead_node_had_begun_is_known_though_another_master_removes_its_files(tmp_path: Path) -> None:
    has_found, is_taken = asyncio.Event(), asyncio.Event()
    async with await open_store(f"sqlite:///{tmp_path / 'queues.db'}") as store:
        begun, waiting = await leave_behind(store)

        async def loser_waits() -> None:
            has_found.set()
            await is_taken.wait()

        async def loser_goes_on() -> None:
            is_taken.set()
            await losing
            assert list(Path(store.folder, "run").glob("dead.*")) == [], "it has removed the files"

        async def nothing() -> None: ...

        loser = await Taker.living(Paced(store, loser_waits, nothing), "loser")
        winner = await Taker.living(Paced(store, has_found.wait, loser_goes_on), "winner")
        losing = asyncio.ensure_future(loser.watch.adopt())
        await winner.watch.adopt()
        for taker in (loser, winner):
            taker.files.remove()
    assert loser.taken == {}
    assert {number: type(outcome) for number, outcome in winner.taken.items()} == {begun: Lost, waiting: Returned}


@pytest.mark.parametrize(("kind", "outcome"), [("master", Returned), ("caller", Raised)])
async def test_what_a_dead_one_had_claimed_is_for_others_unless_it_ran_in_its_caller(
    tmp_path: Path, kind: str, outcome: type[Outcome]
) -> None:
    async with await open_store(f"sqlite:///{tmp_path / 'queues.db'}") as store:
        await store.beat(node("dead", kind=kind))
        await store.add(new_jobs(2, backend="of another application"))
        jobs = await claim(store, node="dead", backends=("of another application",))
        taker = await Taker.living(store, "taker")
        await taker.watch.adopt()
        taker.files.remove()
    assert {number: type(each) for number, each in taker.taken.items()} == {job.number: outcome for job in jobs}
