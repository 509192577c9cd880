"""What ``settle`` promises, and what the record and its attempts then tell."""

import pytest

from litestar_queues.clock import to_datetime
from litestar_queues.lifecycle import Cancelled, Crashed, Lost, Raised, Returned, Snoozed, Succeeded, TimedOut, Unknown
from litestar_queues.models import Attempt, ErrorReport
from litestar_queues.store import Store, Verdict
from store.making import NOW, SECOND, claim, new_job, new_jobs, receipt, settlement, status_of

pytestmark = pytest.mark.anyio
ERROR = ErrorReport("ValueError", "no", "Traceback …")


async def test_a_success_is_told_by_the_record(store: Store) -> None:
    await store.add([new_job()])
    [job] = await claim(store, node="n1")
    [running] = await store.get([job.number])
    assert running is not None
    assert (running.status, running.node, running.worker_id) == ("running", "n1", "n1")
    assert running.started_at is not None  # until it is known, when it was claimed
    assert to_datetime(NOW) <= running.started_at < to_datetime(NOW + 60 * SECOND)
    assert await store.settle([settlement(job, Succeeded("[1]"))]) == [Verdict.SETTLED]
    [record] = await store.get([job.number])
    assert record is not None
    assert (record.status, record.result, record.attempt, record.worker_id) == ("completed", [1], 1, "default/1")
    assert (record.started_at, record.completed_at) == (to_datetime(NOW + 10), to_datetime(NOW + 20))
    assert record.node is None
    assert record.failure is None
    assert record.attempts == ()


async def test_a_first_attempt_that_simply_succeeded_is_in_the_history(store: Store) -> None:
    await store.add([new_job()])
    [job] = await claim(store)
    assert await store.attempts(job.number) == []
    await store.settle([settlement(job)])
    expected = Attempt(attempt=1, fence=1, outcome="succeeded", receipt=receipt())
    assert await store.attempts(job.number) == [expected]
    [record] = await store.get([job.number], attempts=True)
    assert record is not None
    assert record.attempts == (expected,)


async def test_each_start_leaves_an_attempt_and_what_never_started_leaves_none(store: Store) -> None:
    await store.add([new_job(max_retries=5)])
    now = NOW
    outcomes = [
        Raised(ERROR), TimedOut(ErrorReport("TimedOut", "late"), "line 3", "killed by SIGKILL"),
        Crashed("killed by SIGSEGV", "C"), Lost(), Snoozed(5), Returned("drained", "here"), Succeeded("1"),
    ]  # fmt: skip
    for outcome in outcomes:
        now += 3600 * SECOND
        [job] = await claim(store, now=now)
        assert await store.settle([settlement(job, outcome, now=now)]) == [Verdict.SETTLED]
        [job] = await claim(store, now=now + 3600 * SECOND) or [job]
        if outcome is not outcomes[-1]:
            await store.settle([settlement(job, Returned(), started=False, now=now)])
    history = await store.attempts(1)
    assert [attempt.attempt for attempt in history] == [1, 2, 3, 4, 5, 6, 7]
    names = ["raised", "timed_out", "crashed", "lost", "snoozed", "returned", "succeeded"]
    assert [attempt.outcome for attempt in history] == names
    assert history[0].error == ERROR
    assert (history[1].stack, history[1].exit) == ("line 3", "killed by SIGKILL")
    assert (history[2].stack, history[2].exit) == ("C", "killed by SIGSEGV")
    assert [attempt.receipt is not None for attempt in history] == [True] * 7
    [record] = await store.get([1])
    assert record is not None
    assert (record.attempt, record.retry_count, record.crashes, record.status) == (7, 2, 1, "completed")


async def test_counters_come_back_with_the_next_claim(store: Store) -> None:
    await store.add([new_job(max_retries=1)])
    [job] = await claim(store)
    await store.settle([settlement(job, Unknown(ErrorReport("UnknownTaskError", "mail")), started=False)])
    [job] = await claim(store, now=NOW + 3600 * SECOND)
    assert (job.attempts, job.failures, job.unknown_since) == (0, 0, NOW + 20)
    await store.settle([settlement(job, Raised(ERROR), now=NOW)])
    [job] = await claim(store, now=NOW + 3600 * SECOND)
    assert (job.attempts, job.failures, job.crashes, job.losses, job.unknown_since) == (1, 1, 0, 0, None)


async def test_the_last_error_stays_while_the_job_lives_and_goes_when_it_succeeds(store: Store) -> None:
    await store.add([new_job(max_retries=1)])
    [job] = await claim(store)
    await store.settle([settlement(job, Raised(ERROR, delay=0))])
    [job] = await claim(store)
    await store.settle([settlement(job, Returned(), started=False)])
    [record] = await store.get([1])
    assert record is not None
    assert record.failure == ERROR
    assert record.error == "ValueError: no"
    [job] = await claim(store)
    await store.settle([settlement(job)])
    [record] = await store.get([1])
    assert record is not None
    assert record.failure is None


async def test_a_retry_waits_for_its_time(store: Store) -> None:
    await store.add([new_job(max_retries=1)])
    [job] = await claim(store)
    await store.settle([settlement(job, Raised(ERROR, delay=SECOND))])
    assert await status_of(store, 1) == "scheduled"
    assert await claim(store, now=NOW + SECOND) == []
    assert len(await claim(store, now=NOW + SECOND + 20)) == 1


@pytest.mark.fault("D5", "the report of an attempt that was given up", "refused")
async def test_a_late_settlement_is_stale_and_writes_nothing(store: Store, other: Store) -> None:
    await store.add([new_job()])
    [old] = await claim(store)
    await store.settle([settlement(old, Returned(), started=False)])
    assert await store.settle([settlement(old)]) == [Verdict.STALE], "it waits again"
    [new] = await claim(other)
    assert await store.settle([settlement(old)]) == [Verdict.STALE], "another claim holds it"
    assert await other.settle([settlement(new)]) == [Verdict.SETTLED]
    assert await other.settle([settlement(new)]) == [Verdict.STALE], "it has ended"
    assert (await store.statistics())["default"].completed == 1
    assert len(await store.attempts(1)) == 1


async def test_a_batch_says_of_each_what_became_of_it(store: Store) -> None:
    await store.add(new_jobs(150))
    jobs = await claim(store)
    await store.settle([settlement(jobs[3]), settlement(jobs[70])])
    unknown = settlement(jobs[5])
    batch = [settlement(job) for job in jobs] + [unknown]
    verdicts = await store.settle(batch)
    assert [at for at, verdict in enumerate(verdicts) if verdict == Verdict.STALE] == [3, 70, 150]
    counts = (await store.statistics())["default"]
    assert (counts.completed, counts.running) == (150, 0)


async def test_of_two_settlements_of_one_claim_the_first_wins_also_in_one_batch(store: Store) -> None:
    await store.add([new_job()])
    [job] = await claim(store)
    verdicts = await store.settle([settlement(job, Succeeded("1")), settlement(job, Succeeded("2"))])
    assert verdicts == [Verdict.SETTLED, Verdict.STALE]
    [record] = await store.get([1])
    assert record is not None
    assert record.result == 1


async def test_a_cancel_request_stops_a_job_from_living_on_but_not_from_ending(store: Store) -> None:
    await store.add(new_jobs(4, max_retries=3))
    retried, returned, done, failed = await claim(store)
    await store.cancel([job.number for job in (retried, returned, done, failed)], now=NOW)
    verdicts = await store.settle(
        [
            settlement(retried, Raised(ERROR)), settlement(returned, Returned(), started=False),
            settlement(done), settlement(failed, Raised(ERROR, retryable=False)),
        ]
    )  # fmt: skip
    assert verdicts == ["cancel_requested", "cancel_requested", "settled", "settled"]
    assert [await status_of(store, at) for at in (1, 2, 3, 4)] == ["running", "running", "completed", "failed"]
    assert await store.settle([settlement(job, Cancelled()) for job in (retried, returned)]) == ["settled"] * 2
    assert [await status_of(store, at) for at in (1, 2)] == ["cancelled", "cancelled"]


async def test_nothing_to_settle_is_fine(store: Store) -> None:
    assert await store.settle([]) == []


async def test_successors_are_added_with_the_completion(store: Store) -> None:
    await store.add([new_job()])
    [job] = await claim(store)
    later = new_job(run_at=NOW + SECOND, queue="later")
    successors = (new_job(task="next"), later)
    assert await store.settle([settlement(job, Succeeded("1", successors))]) == [Verdict.SETTLED]
    added = await store.get([successor.id for successor in successors])
    assert [record and record.status for record in added] == ["pending", "scheduled"]
    assert (await store.statistics())["later"].scheduled == 1
    assert [claimed.task for claimed in await claim(store)] == ["next"]


async def test_successors_of_a_settlement_that_came_too_late_are_not_added(store: Store) -> None:
    await store.add([new_job()])
    [job] = await claim(store)
    successor = new_job()
    late = settlement(job, Succeeded("1", (successor,)))
    await store.settle([settlement(job, Raised(ERROR))])
    assert await store.settle([late]) == [Verdict.STALE]
    assert await store.get([successor.id]) == [None]


async def test_a_settlement_that_is_repeated_adds_its_successors_once(store: Store) -> None:
    await store.add([new_job()])
    [job] = await claim(store)
    once = settlement(job, Succeeded("1", (new_job(queue="once"),)))
    assert await store.settle([once, once]) == [Verdict.SETTLED, Verdict.STALE]
    assert await store.settle([once]) == [Verdict.STALE]
    assert (await store.statistics())["once"].total == 1


async def test_a_successor_whose_key_is_held_gives_way_or_replaces(store: Store) -> None:
    await store.add([new_job(), new_job(key="k", queue="held"), new_job(key="l", queue="held")])
    [job] = await claim(store, 1)
    reuse = new_job(key="k", payload="[1]")
    replace = new_job(key="l", payload="[2]", on_duplicate="replace")
    await store.settle([settlement(job, Succeeded("1", (reuse, replace)))])
    assert await store.get([reuse.id, replace.id]) == [None, None]
    assert [held.payload for held in await claim(store, queues=("held",))] == [new_job().payload, "[2]"]


async def test_a_successor_may_take_the_key_of_the_job_that_adds_it(store: Store) -> None:
    await store.add([new_job(key="k")])
    [job] = await claim(store)
    successor = new_job(key="k")
    await store.settle([settlement(job, Succeeded("1", (successor,)))])
    [record] = await store.get([successor.id])
    assert record is not None
    assert record.status == "pending"
