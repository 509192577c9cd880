"""What ``claim`` promises."""

import pytest

from litestar_queues.lifecycle import Returned, Snoozed
from litestar_queues.store import Store, Want
from store.making import NOW, SECOND, claim, new_job, new_jobs, settlement, status_of

pytestmark = pytest.mark.anyio


async def test_higher_priority_comes_first_then_the_lower_number(store: Store) -> None:
    jobs = [new_job(priority=priority, queue=f"q{priority % 2}") for priority in (0, 5, 3, 5, 0, -2)]
    numbers = [entry.number for entry in await store.add(jobs)]
    assert [job.number for job in await claim(store)] == [numbers[at] for at in (1, 3, 2, 0, 4, 5)]


async def test_the_best_of_all_the_queues_of_a_want_are_taken_together(store: Store) -> None:
    await store.add([new_job(queue=f"q{at % 5}", priority=at % 3) for at in range(60)])
    claimed = await claim(store, 20, queues=("q0", "q1", "q2", "q3", "q4"))
    assert [job.priority for job in claimed] == [2] * 20
    assert [job.number for job in claimed] == sorted(job.number for job in claimed)


async def test_a_returned_job_keeps_its_place(store: Store) -> None:
    numbers = [entry.number for entry in await store.add(new_jobs(3))]
    [first] = await claim(store, 1)
    await store.settle([settlement(first, Returned(), started=False)])
    assert [job.number for job in await claim(store)] == numbers


async def test_a_job_is_given_once_and_its_fence_rises_at_each_claim(store: Store, other: Store) -> None:
    await store.add([new_job()])
    for fence in (1, 2, 3):
        [job] = await claim(store)
        assert job.fence == fence
        assert await claim(other) == []
        await store.settle([settlement(job, Returned(), started=False)])


async def test_a_want_takes_at_most_its_limit_and_the_next_want_sees_what_is_left(store: Store) -> None:
    await store.add(new_jobs(10))
    claims = await store.claim("node", [Want(4), Want(0), Want(100)], now=NOW)
    assert [len(jobs) for jobs in claims.jobs] == [4, 0, 6]
    assert len({job.number for jobs in claims.jobs for job in jobs}) == 10


async def test_wants_are_answered_in_order_by_their_queues(store: Store) -> None:
    await store.add([*new_jobs(2, queue="a"), *new_jobs(3, queue="b"), *new_jobs(4, queue="c")])
    claims = await store.claim("node", [Want(9, ("b",)), Want(9, None, ("a", "b")), Want(9, ("x",))], now=NOW)
    assert [[job.queue for job in jobs] for jobs in claims.jobs] == [["b"] * 3, ["c"] * 4, []]


async def test_a_want_above_a_priority_is_given_what_is_more_urgent_alone(store: Store) -> None:
    await store.add([new_job(priority=priority) for priority in (0, 5, 1, -3, 5)])
    assert [job.priority for job in await claim(store, above=1)] == [5, 5]
    assert await claim(store, above=1) == []
    assert [job.priority for job in await claim(store, above=-1)] == [1, 0]
    assert [job.priority for job in await claim(store)] == [-3]


async def test_only_jobs_of_the_wanted_backends_are_given(store: Store) -> None:
    await store.add([new_job(), new_job(backend="cloudrun"), new_job(backend="other")])
    assert [job.backend for job in await claim(store)] == ["local"]
    assert {job.backend for job in await claim(store, backends=("cloudrun", "other"))} == {"cloudrun", "other"}


async def test_the_one_job_asked_for_is_given_whatever_its_time(store: Store) -> None:
    later, sooner = await store.add([new_job(run_at=NOW + SECOND), new_job()])
    [job] = await claim(store, only=later.number)
    assert job.number == later.number
    assert await claim(store, only=later.number) == [], "it runs already"
    assert await claim(store, only=999) == []
    assert await claim(store, only=sooner.number, backends=("cloudrun",)) == []
    counts = (await store.statistics())["default"]
    assert (counts.scheduled, counts.pending, counts.running) == (0, 1, 1)


async def test_due_jobs_are_promoted_first(store: Store) -> None:
    late, early = await store.add([new_job(run_at=NOW + 2), new_job(run_at=NOW + 1, priority=-1)])
    assert await claim(store, now=NOW) == []
    assert [job.number for job in await claim(store, now=NOW + 1)] == [early.number]
    assert await status_of(store, late.number) == "scheduled"
    assert [job.number for job in await claim(store, now=NOW + 2)] == [late.number]


async def test_next_due_is_the_earliest_scheduled_time(store: Store) -> None:
    assert (await store.claim("node", [Want(1)], now=NOW)).next_due is None
    await store.add([new_job(run_at=NOW + 9), new_job(run_at=NOW + 5)])
    assert (await store.claim("node", [], now=NOW)).next_due == NOW + 5
    assert (await store.claim("node", [], now=NOW + 5)).next_due == NOW + 9


async def test_many_jobs_that_fall_due_together_all_come(store: Store) -> None:
    await store.add(new_jobs(2_300, run_at=NOW + 1))
    taken, rounds = 0, 0
    while taken < 2_300:
        claims = await store.claim("node", [Want(5_000)], now=NOW + 1)
        taken += len(claims.jobs[0])
        rounds += 1
        assert rounds < 5, f"{taken} of 2,300 after {rounds} claims"
        assert taken == 2_300 or (claims.next_due is not None and claims.next_due <= NOW + 1), "said that more is due"


async def test_an_overdue_job_expires_instead_of_running(store: Store) -> None:
    waiting, scheduled, safe = await store.add(
        [new_job(expires_at=NOW + 5), new_job(run_at=NOW + 5, expires_at=NOW + 5), new_job(expires_at=NOW + 6)]
    )
    assert [job.number for job in await claim(store, now=NOW + 5)] == [safe.number]
    for entry in (waiting, scheduled):
        [job] = await store.get([entry.number])
        assert job is not None
        assert job.status == "expired"
        assert job.completed_at is not None
    counts = (await store.statistics())["default"]
    assert (counts.expired, counts.running, counts.pending, counts.scheduled) == (2, 1, 0, 0)


async def test_more_overdue_jobs_than_one_claim_moves_never_run(store: Store) -> None:
    await store.add([*new_jobs(1_500, expires_at=NOW + 1), new_job()])
    claimed, due = [], None
    for _ in range(4):
        claims = await store.claim("node", [Want(2_000)], now=NOW + 1)
        claimed += claims.jobs[0]
        due = claims.next_due
        if due is None:
            break
    assert due is None
    assert len(claimed) == 1
    assert claimed[0].number == 1_501
    assert (await store.statistics())["default"].expired == 1_500


async def test_a_running_job_does_not_expire(store: Store) -> None:
    await store.add([new_job(expires_at=NOW + 1)])
    [job] = await claim(store)
    assert await claim(store, now=NOW + SECOND) == []
    assert await status_of(store, job.number) == "running"


async def test_the_clock_may_go_back(store: Store) -> None:
    [entry] = await store.add([new_job(run_at=NOW + 5)])
    [job] = await claim(store, now=NOW + 5)
    await store.settle([settlement(job, Snoozed(10), now=NOW - SECOND)])
    assert await claim(store, now=NOW - SECOND) == []
    assert [job.number for job in await claim(store, now=NOW)] == [entry.number]


async def test_text_of_every_kind_comes_back_as_it_was(store: Store) -> None:
    payload = '{"args":["\x01\x1f\x7f\x85\u2028\u202e\U0001f600 \\\\ \' \\u0000"],"kwargs":{}}'
    await store.add([new_job(payload=payload, queue="q'\"\u202e – 🙂", task='t"\\')])
    [job] = await claim(store)
    assert (job.payload, job.queue, job.task) == (payload, "q'\"\u202e – 🙂", 't"\\')


async def test_a_claim_of_nothing_writes_nothing(store: Store) -> None:
    await store.add([new_job(run_at=NOW + 5)])
    [before] = await store.get([1])
    await claim(store)
    await store.add([new_job()])
    [first, second] = await store.get([1, 2])
    assert before is not None
    assert first is not None
    assert second is not None
    assert (first.sequence, second.sequence) == (before.sequence, before.sequence + 1)


async def test_a_claim_takes_no_more_arguments_than_it_can_read_in_a_moment_but_one_job_at_least(store: Store) -> None:
    sizes = [400_000, 400_000, 400_000, 5_000_000, 10, 10]
    numbers = [entry.number for entry in await store.add([new_job(payload=f'"{"x" * size}"') for size in sizes])]
    claims = [[job.number for job in await claim(store)] for _ in range(4)]
    assert claims == [numbers[:2], numbers[2:3], numbers[3:4], numbers[4:]]


async def test_what_is_replaced_by_something_large_is_claimed_as_such(store: Store) -> None:
    await store.add([new_job(key="k"), new_job()])
    await store.add([new_job(key="k", payload=f'"{"x" * 2_000_000}"', on_duplicate="replace")])
    assert [job.number for job in await claim(store)] == [1]
    assert [job.number for job in await claim(store)] == [2]
