"""What reads promise: ``get``, ``find``, counts, events and changes."""

from uuid import UUID, uuid4

import pytest

from litestar_queues.clock import to_datetime
from litestar_queues.lifecycle import Raised, Returned
from litestar_queues.models import ErrorReport, Query, QueueStatistics, Status, StoredEvent
from litestar_queues.store import Store
from store.making import NOW, claim, new_job, new_jobs, settlement

pytestmark = pytest.mark.anyio


def said(job: int, message: str, **changes: object) -> StoredEvent:
    return StoredEvent(job=job, attempt=1, type="task.log", at=NOW, message=message, **changes)  # type: ignore[arg-type]


async def test_jobs_are_got_by_id_and_number_in_the_order_asked(store: Store) -> None:
    jobs = new_jobs(3)
    await store.add(jobs)
    asked: list[UUID | int] = [3, jobs[0].id, 99, uuid4(), jobs[2].id, 3]
    got = await store.get(asked)
    assert [job and job.number for job in got] == [3, 1, None, None, 3, 3]
    assert await store.get([]) == []


async def test_the_counts_follow_the_jobs(store: Store) -> None:
    await store.add([*new_jobs(4, queue="a"), *new_jobs(2, queue="b", run_at=NOW + 9)])
    await store.cancel([1], now=NOW)
    jobs = await claim(store)
    await store.settle([settlement(jobs[0]), settlement(jobs[1], Raised(ErrorReport("E", "")))])
    assert await store.statistics() == {
        "a": QueueStatistics(cancelled=1, completed=1, failed=1, running=1),
        "b": QueueStatistics(scheduled=2),
    }


async def test_the_oldest_waiting_is_the_lowest_number_of_each_queue(store: Store) -> None:
    assert await store.oldest_waiting() == {}
    await store.add(
        [
            new_job(queue="a", run_at=NOW - 5), new_job(queue="a", run_at=NOW - 9, priority=5),
            new_job(queue="b", run_at=NOW - 3, priority=-1, backend="x"), new_job(queue="b", run_at=NOW - 8, priority=7),
            new_job(queue="b", run_at=NOW - 7), new_job(queue="c", run_at=NOW + 9),
        ]
    )  # fmt: skip
    assert await store.oldest_waiting() == {"a": NOW - 5, "b": NOW - 3}
    await claim(store, queues=("a",))
    assert await store.oldest_waiting() == {"b": NOW - 3}


async def test_events_come_back_in_order_and_from_a_position(store: Store) -> None:
    await store.add(new_jobs(2))
    await store.record([said(1, "a"), said(2, "other"), said(1, "b", level="info", data='{"x":1}')])
    await store.record([said(1, f"{at}") for at in range(100)])
    events = await store.events(1)
    assert [event.message for event in events] == ["a", "b", *map(str, range(100))]
    assert (events[1].level, events[1].data, events[1].at, events[1].attempt) == ("info", '{"x":1}', NOW, 1)
    positions = [event.position for event in events]
    assert positions == sorted(set(positions))
    assert events[0].sequence == events[1].sequence < events[2].sequence
    assert await store.events(1, after=events[4].position, limit=3) == events[5:8]


async def test_events_of_a_job_that_is_gone_are_dropped(store: Store) -> None:
    await store.add([new_job()])
    await store.record([said(99, "lost"), said(1, "kept"), said(98, "lost")])
    await store.record([])
    assert [event.message for event in await store.events(1)] == ["kept"]
    assert await store.events(99) == []


async def test_a_change_is_told_to_those_who_watch_it_and_only_once(store: Store) -> None:
    await store.add(new_jobs(3))
    first = await store.changed([1, 2, 3, 99], after=0)
    assert [(change.number, change.status) for change in first] == [(1, "pending"), (2, "pending"), (3, "pending")]
    last = max(change.sequence for change in first)
    assert await store.changed([1, 2, 3], after=last) == []
    [job] = await claim(store, 1)
    [change] = await store.changed([1, 2, 3], after=last)
    assert (change.number, change.status, change.cancel_requested) == (1, "running", False)
    await store.settle([settlement(job, Returned(), started=False)])
    [change] = await store.changed([1], after=change.sequence)
    assert change.status == "pending"


async def test_every_kind_of_change_is_stamped_later_than_the_one_before(store: Store) -> None:
    await store.add([new_job(key="k", run_at=NOW + 1)])
    stamps = [0]

    async def moved() -> None:
        [job] = await store.get([1])
        assert job is not None
        stamps.append(job.sequence)

    await moved()
    await store.add([new_job(key="k", on_duplicate="replace")])
    await moved()
    await claim(store, node="dead")
    await moved()
    [job] = await store.adopt("me", ["dead"], living=[])
    await moved()
    await store.cancel([1], now=NOW)
    await moved()
    await store.settle([settlement(job)])
    await moved()
    assert stamps == sorted(set(stamps)), stamps


async def test_jobs_are_found_by_what_they_are(store: Store) -> None:
    jobs = [
        new_job(queue="a", task="mail"), new_job(queue="a", task="report", key="k"), new_job(queue="b", task="mail"),
        new_job(queue="b", task="mail", run_at=NOW + 9), new_job(queue="b", task="mail"),
    ]  # fmt: skip
    await store.add(jobs)
    await store.cancel([5], now=NOW)

    async def found(**query: object) -> list[int]:
        return [job.number for job in await store.find(Query(**query))]  # type: ignore[arg-type]

    assert await found() == [5, 4, 3, 2, 1]
    assert await found(queue="b") == [5, 4, 3]
    assert await found(task="mail", queue="a") == [1]
    assert await found(key="k") == [2]
    assert await found(statuses=(Status.PENDING,)) == [3, 2, 1]
    assert await found(statuses=(Status.SCHEDULED, Status.CANCELLED, Status.PENDING), limit=3) == [5, 4, 3]
    assert await found(limit=2) == [5, 4]
    assert await found(limit=2, before=4) == [3, 2]
    assert await found(id_ending=str(jobs[1].id)[-6:]) == [2]
    assert await found(id_ending="%") == await found(id_ending="_") == []
    assert await found(queue="x") == []


async def test_ended_jobs_are_found_last_ended_first(store: Store) -> None:
    await store.add(new_jobs(4))
    jobs = await claim(store)
    for at, later in ((2, 1), (0, 2), (3, 3), (1, 4)):
        await store.settle([settlement(jobs[at], now=NOW + later)])
    await store.cancel([1], now=NOW)
    ended = await store.find(Query(statuses=(Status.COMPLETED, Status.FAILED)))
    assert [job.number for job in ended] == [2, 4, 1, 3]
    assert [job.completed_at for job in ended] == [to_datetime(NOW + 20 + later) for later in (4, 3, 2, 1)]


async def test_a_record_and_its_attempts_are_of_one_moment(store: Store, other: Store) -> None:
    """Whatever runs beside, a record that counts n attempts shows n."""
    import asyncio

    await store.add([new_job(max_retries=100)])

    async def work() -> None:
        for _ in range(60):
            [job] = await claim(store)
            await store.settle([settlement(job, Raised(ErrorReport("E", ""), delay=0))])

    async def look() -> None:
        while not working.done():
            [job] = await other.get([1], attempts=True)
            assert job is not None
            assert job.attempt == len(job.attempts)

    working = asyncio.ensure_future(work())
    await asyncio.gather(working, look())


@pytest.mark.parametrize("field", ["queue", "task", "key", "id_ending"])
async def test_what_is_asked_for_is_a_value_and_never_a_statement(store: Store, field: str) -> None:
    await store.add(new_jobs(3))
    for text in ("' OR 1=1 --", "x'; DELETE FROM lq_job; --", '" OR ""="', "%", "_", "default' OR queue = 'default"):
        assert await store.find(Query(**{field: text})) == []
    assert (await store.statistics())["default"].pending == 3
