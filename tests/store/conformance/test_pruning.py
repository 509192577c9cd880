"""What ``prune`` promises."""

import asyncio

import pytest

from litestar_queues.lifecycle import Outcome, Raised, Succeeded
from litestar_queues.models import FOREVER, ErrorReport, NewJob, Query, Status, StoredEvent
from litestar_queues.store import Store
from litestar_queues.store.base import Place
from store.making import NOW, SECOND, claim, new_job, new_jobs, settlement, status_of, within

pytestmark = pytest.mark.anyio
FAILS = Raised(ErrorReport("E", "no"), retryable=False)
DAY = 24 * 3600 * SECOND
KEPT: dict[Status, int | None] = {
    Status.COMPLETED: DAY, Status.CANCELLED: DAY, Status.EXPIRED: DAY, Status.FAILED: 14 * DAY,
}  # fmt: skip
ENDED = NOW + 20
"""When a settlement made by ``settlement`` says that the run has ended."""


async def run(store: Store, jobs: list[NewJob], outcome: Outcome | None = None) -> list[int]:
    """Add *jobs* and let them end."""
    added = await store.add(jobs)
    while claimed := await claim(store):  # large ones come a few at a time
        await store.settle([settlement(job, outcome) for job in claimed])
    return [entry.number for entry in added]


async def prune_all(store: Store, now: int, kept: dict[Status, int | None] = KEPT, *, even_kept: bool = False) -> int:
    """Prune until nothing is left; return how many jobs went."""
    gone, after = 0, None
    async with within(30, "pruning comes to an end"):
        while True:
            done = await store.prune(kept, now=now, after=after, even_kept=even_kept)
            gone, after = gone + sum(done.jobs.values()), done.place
            if not done.has_more:
                return gone


async def standing(store: Store) -> dict[int, Status]:
    return {job.number: job.status for job in await store.find(Query(limit=10_000))}


async def test_a_job_goes_when_its_time_is_over_and_not_before(store: Store) -> None:
    [number] = await run(store, [new_job()])
    assert (await store.prune(KEPT, now=ENDED + DAY - 1)).jobs == {}
    assert await status_of(store, number) == "completed"
    done = await store.prune(KEPT, now=ENDED + DAY)
    assert (done.jobs, done.has_more) == ({Status.COMPLETED: 1}, False)
    assert await store.get([number], attempts=True) == [None]


async def test_each_end_has_its_own_period(store: Store) -> None:
    [completed] = await run(store, [new_job()])
    [failed] = await run(store, [new_job()], FAILS)
    [cancelled, expired, waiting, later] = [
        entry.number
        for entry in await store.add(
            [new_job(priority=9), new_job(expires_at=NOW + 5), new_job(), new_job(run_at=NOW + 99 * DAY)]
        )
    ]
    await store.cancel([cancelled], now=NOW)
    [running] = [job.number for job in await claim(store, 1, now=NOW + 5)]
    assert (running, await status_of(store, expired)) == (waiting, "expired")
    kept: dict[Status, int | None] = {
        Status.COMPLETED: 40, Status.CANCELLED: 30, Status.EXPIRED: 20, Status.FAILED: None,
    }  # fmt: skip
    left = {completed, failed, cancelled, expired, waiting, later}
    for now, goes in [(NOW + 24, None), (NOW + 25, expired), (NOW + 30, cancelled), (ENDED + 40, completed)]:
        await prune_all(store, now, kept)
        left -= {goes} if goes else set()
        assert set(await standing(store)) == left, now - NOW
    await prune_all(store, NOW + 10_000 * DAY, kept)
    assert set(await standing(store)) == {failed, waiting, later}, "kept for ever, running, scheduled"


async def test_only_the_statuses_that_are_named_are_looked_at(store: Store) -> None:
    [completed] = await run(store, [new_job(retention=5)])
    [failed] = await run(store, [new_job(retention=5)], FAILS)
    await prune_all(store, NOW + 99 * DAY, {Status.FAILED: DAY})
    assert set(await standing(store)) == {completed}
    assert await prune_all(store, NOW + 99 * DAY, {}) == 0
    assert await prune_all(store, NOW + 99 * DAY, {Status.RUNNING: 0, Status.COMPLETED: 0}) == 1
    assert failed not in await standing(store)


async def test_what_runs_or_waits_is_never_pruned(store: Store) -> None:
    await store.add([*new_jobs(3), new_job(run_at=NOW + DAY)])
    await claim(store, 1)
    kept: dict[Status, int | None] = dict.fromkeys(Status, 0)
    assert await prune_all(store, NOW + 999 * DAY, kept, even_kept=True) == 0
    assert len(await standing(store)) == 4


async def test_a_job_with_a_retention_of_its_own_goes_by_that(store: Store) -> None:
    [_short, ever, long, plain] = await run(
        store, [new_job(retention=0), new_job(retention=FOREVER), new_job(retention=30 * DAY), new_job()]
    )
    await prune_all(store, ENDED)
    assert set(await standing(store)) == {ever, long, plain}
    await prune_all(store, ENDED + DAY)
    assert set(await standing(store)) == {ever, long}
    await prune_all(store, ENDED + 30 * DAY)
    assert set(await standing(store)) == {ever}
    await prune_all(store, ENDED + 10_000 * DAY)
    assert set(await standing(store)) == {ever}
    await prune_all(store, ENDED + 10_000 * DAY, even_kept=True)
    assert await standing(store) == {}


async def test_its_own_retention_also_counts_where_others_are_kept_for_ever(store: Store) -> None:
    numbers = await run(store, [new_job(retention=5), new_job()])
    assert await prune_all(store, ENDED + 5, {Status.COMPLETED: None}) == 1
    assert set(await standing(store)) == {numbers[1]}


async def test_what_hangs_on_a_job_goes_with_it(store: Store) -> None:
    [number, other] = await run(store, [new_job(max_retries=1), new_job()], Raised(ErrorReport("E", ""), delay=0))
    await store.record([StoredEvent(job=number, attempt=1, type="task.log", at=NOW, message="x")] * 3)
    await run(store, [], FAILS)
    assert (await store.prune({Status.FAILED: 0}, now=NOW + DAY)).jobs == {Status.FAILED: 2}
    assert (await store.get([number, other], attempts=True), await store.events(number)) == ([None, None], [])
    await store.record([StoredEvent(job=number, attempt=1, type="task.log", at=NOW, message="late")])
    assert await store.events(number) == []


async def test_the_counts_change_with_the_jobs(store: Store) -> None:
    await run(store, [*new_jobs(3, queue="a"), new_job(queue="b")])
    await run(store, new_jobs(2, queue="a"), FAILS)
    await prune_all(store, NOW + 2 * DAY)
    counts = await store.statistics()
    assert (counts["a"].completed, counts["a"].failed, counts["a"].total) == (0, 2, 2)
    assert counts["b"].total == 0


async def test_a_number_is_never_given_anew(store: Store) -> None:
    numbers = await run(store, new_jobs(3))
    await prune_all(store, NOW + 2 * DAY)
    [added] = await store.add([new_job()])
    assert added.number == numbers[-1] + 1


async def test_one_call_does_a_bounded_part_oldest_first_and_says_that_there_is_more(store: Store) -> None:
    await run(store, new_jobs(900))
    counts, after = [], None
    for _ in range(20):
        done = await store.prune(KEPT, now=NOW + 2 * DAY, after=after)
        counts.append(sum(done.jobs.values()))
        after = done.place
        left = sorted(await standing(store))
        assert left == list(range(sum(counts) + 1, 901)), "those that ended first go first"
        if not done.has_more:
            break
    assert (sum(counts), left) == (900, [])
    assert max(counts) <= 300, "a claim that comes meanwhile must not wait long"


async def test_a_job_on_which_very_much_hangs_goes_in_parts(store: Store) -> None:
    [loud, *_] = await run(store, new_jobs(5))
    said = [StoredEvent(job=loud, attempt=1, type="task.log", at=NOW, message=str(each)) for each in range(700)]
    await store.record(said)
    parts = 0
    while (await store.prune(KEPT, now=NOW + 2 * DAY)).has_more:
        parts += 1
        if left := await store.events(loud):
            assert await status_of(store, loud) == "completed"
            assert [event.message for event in left] == [str(each) for each in range(700 - len(left), 700)]
    assert parts >= 3
    assert await standing(store) == {}
    assert await store.events(loud) == []


async def test_large_jobs_go_a_few_at_a_time(store: Store) -> None:
    await run(store, new_jobs(12, payload='{"args":["' + "x" * 400_000 + '"],"kwargs":{}}'))
    done = await store.prune(KEPT, now=NOW + 2 * DAY)
    assert (done.has_more, 1 <= sum(done.jobs.values()) <= 6) == (True, True)
    assert await prune_all(store, NOW + 2 * DAY) == 12 - sum(done.jobs.values())


async def test_jobs_that_are_kept_longer_are_not_in_the_way_of_others(store: Store) -> None:
    await run(store, new_jobs(700, retention=FOREVER))
    await run(store, new_jobs(3))
    after: Place | None = None
    calls, has_more = 0, True
    while has_more and calls < 10:
        done = await store.prune(KEPT, now=NOW + 2 * DAY, after=after)
        calls, after, has_more = calls + 1, done.place, done.has_more
    assert not has_more
    assert len(await standing(store)) == 700
    await run(store, new_jobs(2))
    again = await store.prune(KEPT, now=NOW + 2 * DAY, after=after)
    assert (sum(again.jobs.values()), again.has_more) == (2, False), "they are walked over once"


async def test_jobs_that_ended_in_one_moment_all_go(store: Store) -> None:
    added = await store.add(new_jobs(600))
    await store.cancel([entry.number for entry in added], now=NOW)
    assert await prune_all(store, NOW + 2 * DAY) == 600


async def test_a_place_never_makes_a_job_go_before_its_time(store: Store) -> None:
    """Where the clock was set back since, or jobs are to be kept longer now."""
    added = await store.add(new_jobs(600))
    await store.cancel([entry.number for entry in added], now=NOW)
    first = await store.prune(KEPT, now=NOW + DAY)
    assert first.has_more
    for kept, now in ((KEPT, NOW + DAY - 1), ({Status.CANCELLED: 2 * DAY}, NOW + DAY)):
        again = await store.prune(kept, now=now, after=first.place)
        assert (again.jobs, again.has_more) == ({}, False)


async def test_a_result_may_go_before_its_job(store: Store) -> None:
    [short, plain, failed] = await run(store, [new_job(result_retention=5), new_job(), new_job(queue="never")])
    del failed
    assert (await store.prune(KEPT, now=ENDED + 4)).results == 0
    done = await store.prune(KEPT, now=ENDED + 5)
    assert (done.results, done.jobs) == (1, {})
    [first, second] = await store.get([short, plain])
    assert first is not None
    assert second is not None
    assert (first.status, first.result_json, first.is_result_gone) == ("completed", None, True)
    assert (second.result_json, second.is_result_gone) == ('"done"', False)
    assert (await store.prune(KEPT, now=ENDED + 5)).results == 0
    assert await prune_all(store, ENDED + DAY) == 3


async def test_many_results_go_in_parts(store: Store) -> None:
    await run(store, new_jobs(500, result_retention=5), Succeeded('"' + "x" * 5_000 + '"'))
    first = await store.prune(KEPT, now=ENDED + 5)
    assert (first.has_more, 50 <= first.results <= 300) == (True, True)
    results = first.results
    while (done := await store.prune(KEPT, now=ENDED + 5)).has_more:
        results += done.results
    assert results + done.results == 500


@pytest.mark.parametrize("outcome", [Succeeded("1"), FAILS])
async def test_a_key_that_is_kept_for_ever_outlives_its_job(store: Store, outcome: Outcome) -> None:
    first = new_job(key="k", key_forever=True)
    [number] = await run(store, [first], outcome)
    ended = await status_of(store, number)
    assert await prune_all(store, NOW + 99 * DAY) == 1
    [again] = await store.add([new_job(key="k", key_forever=True)])
    assert (again.deduplicated, again.number, again.id, again.status) == (True, number, first.id, ended)
    [refused] = await store.add([new_job(key="k", on_duplicate="raise")])
    assert (refused.refused, refused.number) == (True, number)
    [same] = await store.add([first])
    assert (same.deduplicated, same.number) == (False, number)
    assert await standing(store) == {}


async def test_an_ordinary_key_is_free_when_its_job_is_pruned(store: Store) -> None:
    await run(store, [new_job(key="k")])
    await prune_all(store, NOW + 99 * DAY)
    [again] = await store.add([new_job(key="k")])
    assert not again.deduplicated


async def test_a_late_settlement_of_a_pruned_job_is_stale(store: Store) -> None:
    await store.add([new_job()])
    [job] = await claim(store)
    await store.settle([settlement(job)])
    await prune_all(store, NOW + 99 * DAY)
    assert await store.settle([settlement(job)]) == ["stale"]
    assert await store.cancel([job.number], now=NOW) == [None]


async def test_two_who_prune_at_once_do_no_harm(store: Store, other: Store) -> None:
    await run(store, new_jobs(800, queue="q"))
    gone = await asyncio.gather(prune_all(store, NOW + 2 * DAY), prune_all(other, NOW + 2 * DAY))
    assert sum(gone) == 800
    assert (await store.statistics())["q"].total == 0


async def test_what_would_go_is_counted_beforehand_and_nothing_is_touched(store: Store) -> None:
    await run(store, [*new_jobs(3), new_job(retention=FOREVER), new_job(retention=5), new_job(result_retention=7)])
    await run(store, new_jobs(2), FAILS)
    now = ENDED + 2 * DAY
    for kept, even_kept in ((KEPT, False), (KEPT, True), ({Status.COMPLETED: None}, False), ({Status.FAILED: 0}, True)):
        before = await standing(store)
        counted = await store.prunable(kept, now=now, even_kept=even_kept)
        assert await standing(store) == before
        if kept is KEPT and not even_kept:
            assert counted.jobs == {Status.COMPLETED: 5}
            assert counted.spared == {Status.COMPLETED: 1}
            assert counted.results == 1
    counted = await store.prunable(KEPT, now=now)
    assert await prune_all(store, now) == sum(counted.jobs.values())
    assert (await store.prunable(KEPT, now=now, even_kept=True)).jobs == {Status.COMPLETED: 1}
    assert (await store.prunable({Status.FAILED: DAY}, now=now)).jobs == {Status.FAILED: 2}
