"""What holds for every method: any loop, any thread, cancelled callers, closed stores."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from litestar_queues.exceptions import StoreError
from litestar_queues.models import Query
from litestar_queues.store import Store
from store.conftest import StoreFactory
from store.making import claim, new_job, new_jobs, settlement

pytestmark = pytest.mark.anyio


@pytest.mark.fault("C13", "callers cancelled while they wait", "no transaction is left open")
async def test_a_cancelled_caller_cancels_nothing_and_leaves_nothing_open(store: Store, other: Store) -> None:
    for delay in range(20):
        adding = asyncio.ensure_future(store.add([new_job()]))
        for _ in range(delay):
            await asyncio.sleep(0)
        adding.cancel()
        await asyncio.gather(adding, return_exceptions=True)
    started = sum(1 for delay in range(20) if delay > 0)
    await other.add([new_job()])  # whoever comes after is neither held up nor mixed in
    assert (await other.statistics())["default"].pending >= started


@pytest.mark.fault("C13", "reads cancelled at the k-th await, for every k", "the store goes on")
async def test_cancelling_reads_at_any_point_leaves_the_store_usable(store: Store) -> None:
    await store.add(new_jobs(3))
    for delay in range(20):
        reading = asyncio.ensure_future(store.get([1, 2, 3]))
        for _ in range(delay):
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    assert len([job for job in await store.get([1, 2, 3]) if job]) == 3


async def test_one_store_serves_many_loops_and_threads(store: Store) -> None:
    async def use(name: str) -> int:
        for _ in range(5):
            await asyncio.gather(*(store.add([new_job(queue=name)]) for _ in range(5)))
            await store.statistics()
        return len(await claim(store, queues=(name,), node=name))

    def in_a_loop_of_its_own(name: str) -> int:
        return asyncio.run(use(name))

    with ThreadPoolExecutor(6) as threads:
        loop = asyncio.get_running_loop()
        names = [f"q{at}" for at in range(6)]
        taken = await asyncio.gather(*(loop.run_in_executor(threads, in_a_loop_of_its_own, name) for name in names))
    assert taken == [25] * 6
    assert sum(each.running for each in (await store.statistics()).values()) == 150


@pytest.mark.filterwarnings("ignore:Exception in thread:pytest.PytestUnhandledThreadExceptionWarning")  # aiosqlite's
async def test_a_loop_that_is_closed_before_its_answer_comes_is_ignored(store: Store) -> None:
    def abandon() -> None:
        loop = asyncio.new_event_loop()
        abandoned: list[asyncio.Task[object]] = []

        async def start() -> None:
            await store.statistics()
            abandoned.append(loop.create_task(store.add([new_job()])))
            abandoned.append(loop.create_task(store.get([1])))
            await asyncio.sleep(0)

        loop.run_until_complete(start())
        for task in abandoned:
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # abandoned on purpose
        loop.close()

    for _ in range(5):
        thread = threading.Thread(target=abandon)
        thread.start()
        await asyncio.to_thread(thread.join)
    await store.add([new_job()])
    assert (await store.statistics())["default"].pending == 6


async def test_a_read_that_is_cancelled_ends_before_its_loop_does(store: Store) -> None:
    await store.add(new_jobs(1_000))

    async def leave(steps: int) -> None:
        await store.get([1])  # this loop's connection is open
        reading = asyncio.ensure_future(store.find(Query(limit=1_000)))
        for _ in range(steps):
            await asyncio.sleep(0)
        assert not reading.done()
        # The runner cancels it and closes the loop; a thread that could not answer would be told of here.

    for steps in range(5):
        await asyncio.to_thread(asyncio.run, leave(steps))
    assert len(await store.find(Query(limit=1_000))) == 1_000


async def test_a_closed_store_says_so(store_factory: StoreFactory) -> None:
    store = await store_factory()
    await store.add([new_job()])
    await store.close()
    with pytest.raises(StoreError, match="closed"):
        await store.add([new_job()])
    with pytest.raises(StoreError, match="closed"):
        await store.get([1])
    await store.close()


async def test_what_waits_when_a_store_closes_is_written(store_factory: StoreFactory, store: Store) -> None:
    closing = await store_factory()
    adding = [asyncio.ensure_future(closing.add([new_job()])) for _ in range(50)]
    await asyncio.sleep(0)
    await closing.close()
    await asyncio.gather(*adding)
    assert (await store.statistics())["default"].pending == 50


async def test_what_one_object_wrote_the_other_reads_at_once(store: Store, other: Store) -> None:
    for at in range(1, 30):
        [added] = await store.add([new_job()])
        [job] = await other.get([added.number])
        assert job is not None
        assert job.number == at
        [claimed] = await claim(other)
        await other.settle([settlement(claimed)])
        [job] = await store.get([added.id])
        assert job is not None
        assert job.status == "completed"


async def test_the_same_key_from_many_callers_makes_one_job(store: Store, other: Store) -> None:
    stores = [store, other]
    added = await asyncio.gather(*(stores[at % 2].add([new_job(key="k", priority=at), new_job()]) for at in range(40)))
    assert len({entry.number for entry, _ in added}) == 1
    assert sum(not entry.deduplicated for entry, _ in added) == 1
    assert (await store.statistics())["default"].pending == 41
