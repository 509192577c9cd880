"""What those who hold a result meet when the job, or its result, is not kept any more."""

import asyncio
import contextlib
from datetime import timedelta

import pytest

from litestar_queues import JobGone, QueueConfig, QueueService, ResultGone, Retention, Status, task
from litestar_queues.exceptions import JobNotFound, QueueConfigurationError
from litestar_queues.lifecycle import Raised
from litestar_queues.models import FOREVER, ErrorReport

from .conftest import Elsewhere, Within

pytestmark = pytest.mark.anyio
EVER_AFTER = 1 << 61
"""A time at which all is over but what is kept for ever."""


@task("retention.add")
def add_up(a: int, b: int = 1) -> int:
    return a + b


@task("retention.nothing")
def nothing() -> None:
    return None


async def prune(service: QueueService) -> None:
    while (await service.store.prune(dict.fromkeys(Status, 0), now=EVER_AFTER)).has_more:
        pass


async def test_a_pruned_job_is_gone_to_whoever_still_holds_it(service: QueueService, elsewhere: Elsewhere) -> None:
    held, asked = await service.enqueue(add_up, 1), await service.enqueue(add_up, 2)
    await elsewhere.complete("3")
    assert await asked.get() == 3
    await prune(service)
    for call in (held.refresh, held.wait, held.get, asked.refresh):
        with pytest.raises(JobGone, match=r"job #\d+ \(retention.add\) .* pruned; a longer retention"):
            await call()
    assert await asked.get() == 3, "what was read stays read"
    assert await service.get_task(held.id) is None
    for look in (service.get_result, service.task_events, service.cancel_task):
        with pytest.raises(JobNotFound):
            await look(held.id)


async def test_a_wait_ends_when_its_job_is_pruned_as_soon_as_it_ends(
    service: QueueService, elsewhere: Elsewhere, within: Within
) -> None:
    result = await service.enqueue(add_up, 1, retention=0)
    waiting = asyncio.create_task(result.wait())
    await elsewhere.complete("2")
    await prune(service)
    async with within(10, "the wait ends"):
        with contextlib.suppress(JobGone):  # pruned before it was read, and said so
            assert (await waiting).status == "completed"


async def test_a_dropped_result_is_an_error_and_never_none(service: QueueService, elsewhere: Elsewhere) -> None:
    brief = await service.enqueue(add_up, 1, result_retention=0)
    none = await service.enqueue(nothing)
    ever = await service.enqueue(add_up, 1, result_retention="forever")
    await elsewhere.complete("null")
    await service.store.prune({Status.COMPLETED: None}, now=EVER_AFTER)
    record = await brief.wait()
    assert (record.status, record.is_result_gone) == ("completed", True)
    for read in (lambda: brief.result, lambda: record.result):
        with pytest.raises(ResultGone, match=r"job #1 \(retention.add\).* longer result_retention"):
            read()
    with pytest.raises(ResultGone) as raised:
        await brief.get()
    assert (raised.value.number, raised.value.task_name) == (1, "retention.add")
    assert await none.get() is None
    assert (await ever.wait()).result_json == "null"


async def test_a_job_that_has_not_ended_has_no_result_and_that_is_no_error(
    service: QueueService, elsewhere: Elsewhere
) -> None:
    result = await service.enqueue(add_up, 1, result_retention=0)
    assert (result.result, result.record.result) == (None, None)
    await elsewhere.settle(await elsewhere.claim(), Raised(ErrorReport("E", ""), retryable=False))
    assert ((await result.wait()).status, result.result) == ("failed", None)


@pytest.mark.parametrize("fails", [False, True])
async def test_a_key_kept_for_ever_tells_how_its_pruned_job_ended_and_claims_to_know_no_more(
    service: QueueService, elsewhere: Elsewhere, fails: bool
) -> None:
    first = await service.enqueue(add_up, 1, key="k", unique_until="forever")
    outcome = Raised(ErrorReport("E", ""), retryable=False)
    await (elsewhere.settle(await elsewhere.claim(), outcome) if fails else elsewhere.complete("2"))
    await prune(service)
    again = await service.enqueue(add_up, 7, key="k", unique_until="forever")
    assert (again.deduplicated, again.id, again.number) == (True, first.id, first.number)
    assert again.status == ("failed" if fails else "completed")
    for call in (again.get, again.wait, again.refresh):
        with pytest.raises(JobGone):
            await call()
    with pytest.raises(JobGone):
        _ = again.result
    assert (await service.get_statistics()).total == 0


async def test_adding_again_a_job_that_has_ended_gives_its_result(service: QueueService, elsewhere: Elsewhere) -> None:
    job = await service.prepare(add_up, (1,), {})
    await service.add([job])
    await elsewhere.complete("2")
    [again] = await service.add([job])
    assert await again.get() == 2


async def test_the_retention_of_a_task_can_be_changed_by_using_and_by_enqueue(service: QueueService) -> None:
    @task("retention.own", retention=timedelta(hours=1), result_retention=60)
    def own() -> None:
        return None

    jobs = [
        await service.prepare(each, (), options)
        for each, options in [
            (own, {}), (own.using(retention="forever"), {}), (own, {"retention": 0.5}),
            (own.using(retention=None, result_retention=None), {}),
        ]
    ]  # fmt: skip
    assert [job.retention for job in jobs] == [3_600_000_000, FOREVER, 500_000, None]
    assert [job.result_retention for job in jobs] == [60_000_000, 60_000_000, 60_000_000, None]


@pytest.mark.parametrize("value", [-1, float("nan"), "long", True, timedelta(seconds=-1), 10**10])
def test_a_period_that_cannot_be_is_refused_with_its_name(value: object) -> None:
    with pytest.raises(
        ValueError, match=r'retention cannot be .*give seconds \(0 or more\), a timedelta, or "forever"'
    ):
        add_up.using(retention=value)  # type: ignore[arg-type]  # that is the point
    with pytest.raises(QueueConfigurationError, match=r"Retention.failed cannot be .*None for ever"):
        Retention(failed=value)  # type: ignore[arg-type]  # likewise


def test_the_defaults_are_a_day_and_two_weeks_for_what_failed() -> None:
    day = 86_400_000_000
    assert QueueConfig().retention.by_status() == {
        Status.COMPLETED: day, Status.CANCELLED: day, Status.EXPIRED: day, Status.FAILED: 14 * day,
    }  # fmt: skip
    changed = Retention(completed=timedelta(hours=1), failed=None)
    assert (changed.completed, changed.by_status()[Status.FAILED]) == (3600.0, None)
    with pytest.raises(AttributeError):
        changed.completed = 1  # type: ignore[misc]  # that is the point
    with pytest.raises(QueueConfigurationError, match="QueueConfig.retention cannot be 5; give a Retention"):
        QueueConfig(retention=5)  # type: ignore[arg-type]  # likewise
