"""What ``add`` promises."""

import pytest

from litestar_queues.clock import to_datetime
from litestar_queues.models import Added, NewJob, Status
from litestar_queues.store import Store
from store.making import NOW, SECOND, claim, new_job, new_jobs, settlement, status_of

pytestmark = pytest.mark.anyio


async def test_jobs_are_added_in_order_with_rising_numbers(store: Store) -> None:
    jobs = new_jobs(200)
    added = await store.add(jobs)
    assert [entry.id for entry in added] == [job.id for job in jobs]
    numbers = [entry.number for entry in added]
    assert numbers == list(range(numbers[0], numbers[0] + 200))
    assert [job.number for job in await claim(store)] == numbers


async def test_a_batch_of_nothing_adds_nothing(store: Store) -> None:
    assert await store.add([]) == []
    assert await store.statistics() == {}


async def test_what_was_given_is_what_is_stored(store: Store) -> None:
    job = new_job(
        task="app.tasks.report", queue="slow", priority=-3, max_retries=4, backoff='{"initial_delay":2.0}', timeout=90 * SECOND,
        kill_grace=5, run_at=NOW + 1, expires_at=NOW + 9, key="k", key_scope="app.tasks.report", backend="cloudrun",
        profile="large", metadata='{"user":7}',
    )  # fmt: skip
    await store.add([job])
    [stored] = await store.get([job.id])
    assert stored is not None
    assert (stored.task_name, stored.queue, stored.priority, stored.max_retries) == ("app.tasks.report", "slow", -3, 4)
    assert (stored.timeout, stored.key, stored.execution_backend, stored.execution_profile) == (
        90.0,
        "k",
        "cloudrun",
        "large",
    )
    assert (stored.payload, stored.metadata, stored.status) == (job.payload, {"user": 7}, "scheduled")
    assert (stored.scheduled_at - stored.created_at).microseconds == 1
    assert stored.expires_at is not None
    assert (stored.expires_at - stored.created_at).microseconds == 9
    [claimed] = await claim(store, now=NOW + 1, backends=("cloudrun",))
    assert {name: getattr(claimed, name) for name in claimed.__struct_fields__ if hasattr(job, name)} == {
        name: getattr(job, name) for name in claimed.__struct_fields__ if hasattr(job, name)
    }


@pytest.mark.parametrize(
    ("later", "status"), [(-1, "pending"), (0, "pending"), (1, "scheduled"), (10**17, "scheduled")]
)
async def test_a_job_whose_time_has_not_come_is_scheduled(store: Store, later: int, status: str) -> None:
    [added] = await store.add([new_job(run_at=NOW + later)])
    assert added.status == status == await status_of(store, added.number)


async def test_adding_again_by_the_same_id_adds_nothing(store: Store) -> None:
    job = new_job()
    [first] = await store.add([job])
    assert await store.add([job]) == [first]
    [claimed] = await claim(store)
    assert await store.add([job]) == [Added(job.id, first.number, Status.RUNNING)]
    await store.settle([settlement(claimed)])
    assert await store.add([job]) == [Added(job.id, first.number, Status.COMPLETED)]
    assert (await store.statistics())["default"].total == 1


@pytest.mark.parametrize("again", range(0, 130, 13))
async def test_a_batch_with_some_old_ids_adds_the_new_ones_in_order(store: Store, again: int) -> None:
    jobs = new_jobs(130)
    await store.add([jobs[again], jobs[again // 2]])
    added = await store.add([*jobs, jobs[3]])
    assert [entry.id for entry in added] == [job.id for job in [*jobs, jobs[3]]]
    assert not any(entry.deduplicated or entry.refused for entry in added)
    assert added[3] == added[-1]
    assert (await store.statistics())["default"].pending == 130
    assert len({entry.number for entry in added}) == 130
    stored = await store.get([entry.number for entry in added])
    assert [job and job.id for job in stored] == [entry.id for entry in added]


async def test_a_batch_is_added_wholly_or_not_at_all(store: Store) -> None:
    with pytest.raises(OverflowError):
        await store.add([*new_jobs(100), new_job(priority=2**63)])
    assert await store.statistics() == {}


async def test_a_bad_batch_does_not_hurt_those_committed_with_it(store: Store) -> None:
    import asyncio

    good, bad = new_jobs(3), [new_job(priority=2**63)]
    results = await asyncio.gather(
        *(store.add([job]) for job in good), store.add(bad), store.add([new_job()]), return_exceptions=True
    )
    assert isinstance(results[3], OverflowError)
    assert (await store.statistics())["default"].pending == 4


# Keys


def keyed(**changes: object) -> NewJob:
    return new_job(**{"key": "k", "key_scope": "mail"} | changes)


async def test_a_live_job_holds_its_key_in_every_live_status(store: Store) -> None:
    [first] = await store.add([keyed(run_at=NOW + 1)])
    for status in ("scheduled", "running"):
        if status == "running":
            [job] = await claim(store, now=NOW + 1)
        [second] = await store.add([keyed()])
        assert second == Added(first.id, first.number, Status(status), deduplicated=True)
    await store.settle([settlement(job)])
    [third] = await store.add([keyed()])
    assert not third.deduplicated
    assert third.number > first.number


async def test_keys_of_different_scopes_do_not_meet(store: Store) -> None:
    added = await store.add([keyed(), keyed(key_scope=""), keyed(key_scope="other"), keyed(key="l")])
    assert not any(entry.deduplicated for entry in added)


async def test_one_batch_with_one_key_twice_makes_one_job(store: Store) -> None:
    first, second, other = await store.add([keyed(), keyed(), new_job()])
    assert second == Added(first.id, first.number, Status.PENDING, deduplicated=True)
    assert not other.deduplicated
    assert (await store.statistics())["default"].pending == 2


async def test_replace_changes_arguments_priority_and_time_of_a_waiting_job(store: Store) -> None:
    [first] = await store.add([keyed(priority=1, queue="a")])
    payload = '{"args":[2],"kwargs":{}}'
    [second] = await store.add(
        [keyed(payload=payload, priority=5, run_at=NOW + 7, queue="b", max_retries=9, on_duplicate="replace")]
    )
    assert second == Added(first.id, first.number, Status.SCHEDULED, deduplicated=True)
    [job] = await store.get([first.number])
    assert job is not None
    assert (job.payload, job.priority, job.queue, job.max_retries, job.status) == (payload, 5, "a", 0, "scheduled")
    counts = await store.statistics()
    assert (counts["a"].scheduled, counts["a"].pending) == (1, 0)
    [claimed] = await claim(store, now=NOW + 7)
    assert claimed.payload == payload


@pytest.mark.parametrize("on_duplicate", ["reuse", "replace", "raise"])
@pytest.mark.parametrize("later", [0, 60 * SECOND], ids=["pending", "scheduled"])
async def test_a_job_that_is_overdue_expires_and_holds_its_key_no_more(
    store: Store, on_duplicate: str, later: int
) -> None:
    overdue = new_job(key="k", run_at=NOW + later, expires_at=NOW + SECOND)
    await store.add([overdue])
    now = NOW + 2 * SECOND
    following = new_job(key="k", created_at=now, run_at=now, on_duplicate=on_duplicate)
    [added] = await store.add([following])
    assert (added.id, added.status, added.deduplicated, added.refused) == (following.id, "pending", False, False)
    assert await status_of(store, overdue.id) == "expired"
    counts = (await store.statistics())["default"]
    assert (counts.pending, counts.scheduled, counts.expired) == (1, 0, 1)


@pytest.mark.parametrize("on_duplicate", ["reuse", "replace", "raise"])
async def test_an_overdue_job_that_keeps_its_key_for_ever_keeps_it(store: Store, on_duplicate: str) -> None:
    await store.add([new_job(key="k", expires_at=NOW + SECOND, key_forever=True)])
    now = NOW + 2 * SECOND
    [entry] = await store.add([new_job(key="k", created_at=now, run_at=now, on_duplicate=on_duplicate)])
    assert (entry.number, entry.status) == (1, "expired")
    assert (entry.deduplicated, entry.refused) == (on_duplicate != "raise", on_duplicate == "raise")


async def test_a_running_job_past_its_expiry_holds_its_key(store: Store) -> None:
    await store.add([new_job(key="k", expires_at=NOW + SECOND)])
    await claim(store)
    now = NOW + 2 * SECOND
    [entry] = await store.add([new_job(key="k", created_at=now, run_at=now)])
    assert (entry.number, entry.status, entry.deduplicated) == (1, "running", True)


async def test_replace_gives_a_waiting_job_the_new_expiry(store: Store) -> None:
    first = new_job(key="k", run_at=NOW + 60 * SECOND, expires_at=NOW + 61 * SECOND)
    await store.add([first])
    later = {"run_at": NOW + 600 * SECOND, "expires_at": NOW + 900 * SECOND}
    await store.add([new_job(key="k", on_duplicate="replace", **later)])
    [record] = await store.get([first.id])
    assert record is not None
    assert record.expires_at == to_datetime(NOW + 900 * SECOND)


async def test_replace_leaves_a_running_job_alone(store: Store) -> None:
    [first] = await store.add([keyed()])
    await claim(store)
    [second] = await store.add([keyed(payload='{"args":[2],"kwargs":{}}', on_duplicate="replace")])
    assert second == Added(first.id, first.number, Status.RUNNING, deduplicated=True)
    [job] = await store.get([first.number])
    assert job is not None
    assert job.payload != '{"args":[2],"kwargs":{}}'


async def test_raise_refuses_and_adds_nothing_of_the_batch(store: Store) -> None:
    [first] = await store.add([keyed()])
    fresh, refused = new_job(), keyed(on_duplicate="raise")
    entries = await store.add([fresh, refused])
    assert [entry.refused for entry in entries] == [False, True]
    assert (entries[1].number, entries[1].id) == (first.number, first.id)
    assert await store.get([fresh.id, refused.id]) == [None, None]
    assert (await store.statistics())["default"].total == 1


async def test_raise_with_a_free_key_adds(store: Store) -> None:
    job = keyed(on_duplicate="raise")
    [first] = await store.add([job])
    assert not first.refused
    assert await store.add([job]) == [first], "adding again by id is no duplicate"


async def test_raise_sees_a_key_taken_earlier_in_its_batch(store: Store) -> None:
    entries = await store.add([keyed(), keyed(on_duplicate="raise")])
    assert [entry.refused for entry in entries] == [False, True]
    assert await store.statistics() == {}


@pytest.mark.parametrize("on_duplicate", ["reuse", "replace", "raise"])
async def test_a_key_taken_for_ever_is_held_after_its_job_has_ended(store: Store, on_duplicate: str) -> None:
    [first] = await store.add([keyed(key_forever=True)])
    [job] = await claim(store)
    await store.settle([settlement(job)])
    [second] = await store.add([keyed(on_duplicate=on_duplicate)])
    assert (second.id, second.number, second.status) == (first.id, first.number, "completed")
    assert second.refused == (on_duplicate == "raise")
    assert second.deduplicated == (on_duplicate != "raise")
    assert (await store.statistics())["default"].total == 1


async def test_the_job_that_keeps_a_key_for_ever_may_be_added_again_by_id(store: Store) -> None:
    job = keyed(key_forever=True)
    [first] = await store.add([job])
    [claimed] = await claim(store)
    await store.settle([settlement(claimed)])
    assert await store.add([job]) == [Added(first.id, first.number, Status.COMPLETED)]
    mixed = await store.add([new_job(), keyed(), new_job()])
    assert [entry.deduplicated for entry in mixed] == [False, True, False]


async def test_a_key_whose_job_has_ended_is_free_and_the_next_holder_is_the_one_that_is_told(store: Store) -> None:
    for _ in range(2):
        await store.add([new_job(key="k")])
        [claimed] = await claim(store)
        await store.settle([settlement(claimed)])
    [held] = await store.add([new_job(key="k", on_duplicate="raise")])
    assert (held.number, held.refused, held.deduplicated) == (3, False, False)
    for how in ("reuse", "replace"):
        [told] = await store.add([new_job(key="k", on_duplicate=how)])
        assert (told.number, told.id, told.deduplicated) == (3, held.id, True)
    [refused] = await store.add([new_job(key="k", on_duplicate="raise")])
    assert (refused.number, refused.refused) == (3, True)
