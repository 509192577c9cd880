"""What ``cancel`` promises."""

import pytest

from litestar_queues.store import Store
from store.making import NOW, claim, new_job, new_jobs, node, settlement, status_of

pytestmark = pytest.mark.anyio


async def test_a_job_that_has_not_started_is_cancelled_at_once(store: Store) -> None:
    await store.add([new_job(), new_job(run_at=NOW + 1)])
    assert await store.cancel([2, 1, 99], now=NOW + 3) == ["scheduled", "pending", None]
    for job in await store.get([1, 2]):
        assert job is not None
        assert job.status == "cancelled"
        assert job.completed_at == job.cancel_requested_at is not None
    assert await claim(store, now=NOW + 9) == []
    counts = (await store.statistics())["default"]
    assert (counts.cancelled, counts.pending, counts.scheduled) == (2, 0, 0)


async def test_a_running_job_is_marked_and_its_master_is_told(store: Store) -> None:
    await store.add(new_jobs(3))
    await claim(store, 2, node="a")
    await claim(store, 1, node="b")
    assert await store.cancel([1, 3], now=NOW) == ["running", "running"]
    assert await store.beat(node("a")) == [1]
    assert await store.beat(node("b")) == [3]
    assert [change.cancel_requested for change in await store.changed([1, 2], after=0)] == [True, False]


async def test_a_running_job_may_be_left_alone(store: Store) -> None:
    await store.add(new_jobs(2))
    await claim(store, 1)
    assert await store.cancel([1, 2], now=NOW, running=False) == ["running", "pending"]
    assert await store.beat(node("node")) == []
    assert [await status_of(store, at) for at in (1, 2)] == ["running", "cancelled"]


@pytest.mark.fault("D4", "cancel of a job that has ended", "nothing changes")
async def test_cancelling_what_has_ended_changes_nothing(store: Store) -> None:
    await store.add([new_job()])
    [job] = await claim(store)
    await store.settle([settlement(job)])
    [before] = await store.get([1])
    assert await store.cancel([1, 1], now=NOW) == ["completed", "completed"]
    assert await store.get([1]) == [before]


async def test_the_first_request_counts(store: Store) -> None:
    await store.add([new_job()])
    await claim(store)
    await store.cancel([1], now=NOW + 1)
    [first] = await store.get([1])
    await store.cancel([1], now=NOW + 2)
    assert await store.get([1]) == [first]


@pytest.mark.fault("D2", "a key whose job was cancelled", "free again")
@pytest.mark.fault("D4", "cancel, then the same key again", "the cancel never hits the next job")
async def test_a_cancelled_key_is_free_again_and_cancel_never_hits_the_next_job(store: Store) -> None:
    await store.add([new_job(key="k")])
    await store.cancel([1], now=NOW)
    [again] = await store.add([new_job(key="k")])
    assert not again.deduplicated
    assert [job.cancel_requested for job in await claim(store)] == [False]
