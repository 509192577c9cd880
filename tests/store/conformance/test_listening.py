"""What ``listen`` promises: a bell is a hint, and comes."""

import asyncio
import time

import pytest

from litestar_queues.lifecycle import Raised, Returned
from litestar_queues.models import ErrorReport, StoredEvent
from litestar_queues.store import Store
from store.making import NOW, claim, new_job, new_jobs, settlement, within

pytestmark = pytest.mark.anyio
LONG = 20.0


async def test_a_master_is_woken_by_whatever_may_give_it_work(store: Store, other: Store) -> None:
    async with store.listen() as bell:
        for job in (new_job(), new_job(run_at=NOW + 5)):
            await other.add([job])
            assert await bell.wait(LONG)
        [claimed] = await claim(other)
        await other.settle([settlement(claimed, Returned(), started=False)])
        assert await bell.wait(LONG), "a job came back"
        [claimed] = await claim(other)
        await other.cancel([claimed.number], now=NOW)
        assert await bell.wait(LONG), "a running job is to be cancelled"


async def test_a_master_that_claims_as_soon_as_it_is_rung_finds_what_it_was_rung_for(
    store: Store, other: Store
) -> None:
    async with store.listen() as bell:
        for _ in range(100):
            adding = asyncio.ensure_future(other.add([new_job()]))
            assert await bell.wait(LONG)
            [job] = await claim(store)
            [added] = await adding
            assert job.number == added.number


async def test_a_master_sleeps_through_what_gives_it_nothing(store: Store, other: Store) -> None:
    await other.add(new_jobs(2))
    async with store.listen() as bell:
        jobs = await claim(other)
        await other.settle([settlement(job) for job in jobs])
        await other.record([StoredEvent(job=1, attempt=1, type="task.log", at=NOW)])
        assert not await bell.wait(0.03)


async def test_a_watcher_is_woken_for_its_jobs_only(store: Store, other: Store) -> None:
    await other.add(new_jobs(2))
    first, second = await claim(other)
    await other.add([new_job()])  # when this is written, those who listened for the claim have been rung
    async with store.listen([first.number]) as bell:
        await other.settle([settlement(second)])
        assert not await bell.wait(0.03)
        await other.record([StoredEvent(job=first.number, attempt=1, type="task.log", at=NOW)])
        assert await bell.wait(LONG)
        await other.settle([settlement(first)])
        assert await bell.wait(LONG)


async def test_a_watcher_of_many_jobs_is_woken_too(store: Store, other: Store) -> None:
    await other.add(new_jobs(300))
    async with store.listen(range(1, 301)) as bell:
        await other.cancel([150], now=NOW)
        assert await bell.wait(LONG)


async def test_a_ring_is_kept_until_the_next_wait_and_heard_once(store: Store, other: Store) -> None:
    async with store.listen() as bell:
        for _ in range(3):
            await other.add([new_job()])
        await asyncio.sleep(0)
        assert await bell.wait(LONG)
        while await bell.wait(0.05):
            pass
        assert not await bell.wait(0)


async def test_a_listener_woken_from_inside_its_loop_is_not_told_of_a_ring(store: Store, other: Store) -> None:
    async with store.listen() as bell, within(LONG / 2, "an end of the wait"):
        asyncio.get_running_loop().call_later(0.01, bell.ring)
        assert not await bell.wait(LONG)
        await other.add([new_job()])
        bell.ring()
        heard = [await bell.wait(LONG)]
        while not heard[-1]:  # the one from outside comes by a socket, and may be the later
            heard.append(await bell.wait(LONG))
        assert len(heard) <= 2


async def test_waiting_ends_after_its_timeout(store: Store) -> None:
    async with store.listen() as bell, within(5, "an end of the wait"):
        assert await bell.wait(0.01) is False


async def test_a_listener_is_not_woken_by_its_own_store(store: Store, other: Store) -> None:
    async with store.listen() as bell, other.listen() as others_bell:
        await store.add([new_job()])
        assert await others_bell.wait(LONG)
        assert not await bell.wait(0.03)


async def test_the_last_change_reaches_a_watcher_however_fast_they_come(store: Store, other: Store) -> None:
    await other.add([new_job(max_retries=1_000)])
    async with store.listen([1]) as bell:
        for _ in range(50):
            [job] = await claim(other)
            await other.settle([settlement(job, Raised(ErrorReport("E", ""), delay=0))])
        [job] = await claim(other)
        await other.settle([settlement(job)])
        seen, status = 0, None
        async with within(10, "the last change, by bells alone"):
            while status != "completed":
                assert await bell.wait(LONG)
                for change in await store.changed([1], after=seen):
                    seen, status = change.sequence, change.status


async def test_a_watcher_is_rung_at_most_every_five_milliseconds(store: Store, other: Store) -> None:
    await other.add(new_jobs(200))
    async with store.listen(range(1, 201)) as bell:
        rings = 0

        async def count() -> None:
            nonlocal rings
            while await bell.wait(0.5):
                rings += 1

        counting = asyncio.ensure_future(count())
        started = time.monotonic()
        for number in range(1, 201):
            await other.cancel([number], now=NOW)
        lasted = time.monotonic() - started
        await counting
    assert 1 <= rings <= lasted / 0.005 + 3, f"{rings} rings in {lasted:.3f} s"
