"""Masters delete what ended long enough ago, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from litestar_queues import JobGone, QueueService, TaskRequest, TaskResult
from litestar_queues.clock import SystemClock
from litestar_queues.lifecycle import Raised, Succeeded, settle
from litestar_queues.master.housekeeping import BEHIND_AFTER, SHORTEST_REST, Housekeeping, rest_after
from litestar_queues.master.notices import JobsPruned, Notice
from litestar_queues.models import ErrorReport, Status
from litestar_queues.nodes import Catalogue
from litestar_queues.store import Want
from litestar_queues.store.base import Pruned
from support import zoo
from support.masters import RunningMaster
from support.waiting import eventually, wait_until

# The judge takes a job that has been pruned for one that was lost.
pytestmark = [pytest.mark.anyio, pytest.mark.unjudged]
StartMaster = Callable[..., RunningMaster]
CLOCK = SystemClock()
APP = """
from datetime import timedelta
from litestar import Litestar
from litestar_queues import QueueConfig, QueuePlugin, Retention
app = Litestar(plugins=[QueuePlugin(QueueConfig(
    queue_backend={url!r},
    retention=Retention(completed=0, failed=timedelta(days=3), cancelled=None),
    task_modules=("support.zoo",),
))])
"""


async def end_some(service: QueueService, count: int) -> tuple[list[TaskResult[int]], TaskResult[int]]:
    """Enqueue jobs and let them end without a master: *count* completed, and one failed."""
    requests = [TaskRequest(zoo.good, (number,)) for number in range(count + 1)]
    *done, failed = await service.enqueue_many(requests)
    claims = await service.store.claim("elsewhere", [Want(count + 1)], now=CLOCK.now())
    settlements = [
        settle(job, Raised(ErrorReport("E", "no"), retryable=False) if job.number == failed.number else Succeeded("1"),
               now=CLOCK.now())
        for job in claims.jobs[0]
    ]  # fmt: skip
    await service.store.settle(settlements)
    return done, failed


async def is_gone(service: QueueService, result: TaskResult[int]) -> bool:
    return await service.get_task(result.id) is None


async def test_a_master_prunes_as_the_application_says_and_serves_meanwhile(
    service: QueueService, start_master: StartMaster, tmp_path: Path, url: str
) -> None:
    done, failed = await end_some(service, 600)
    (tmp_path / "keeping.py").write_text(APP.format(url=url))
    waiting = await service.enqueue(zoo.good, 1)
    master = start_master("--app", "keeping:app", "--concurrency", "1", serve=None).until_serving()
    assert (await waiting.wait(30)).status == "completed"
    for result in (done[0], done[-1]):
        await eventually(lambda result=result: is_gone(service, result), "a completed job is pruned")  # type: ignore[misc]
    assert (await failed.refresh()).status == "failed"
    with pytest.raises(JobGone, match="longer retention"):
        await done[0].get(timeout=5)
    counts = await service.get_statistics()
    assert (counts.failed, counts.total - counts.completed) == (1, 1)
    wait_until(lambda: "jobs that were kept for as long as they were to be" in master.log, "it says so")
    assert (await service.store.catalogue()).retention == {
        Status.COMPLETED: 0, Status.CANCELLED: None, Status.EXPIRED: 86_400_000_000, Status.FAILED: 259_200_000_000,
    }  # fmt: skip


async def test_pruning_rests_for_what_it_kept_others_from_and_not_for_its_own_wait(service: QueueService) -> None:
    part = Pruned({}, 0, {}, has_more=True, took=10_000)
    rests = [rest_after(part, since) for since in (0, BEHIND_AFTER / 2, BEHIND_AFTER, 3600)]
    assert rests == [0.03, 0.015, SHORTEST_REST, SHORTEST_REST]
    assert rest_after(Pruned({}, 0, {}, has_more=True, took=0), 0) == SHORTEST_REST
    await end_some(service, 5)
    at = CLOCK.monotonic()
    busy = [asyncio.ensure_future(end_some(service, 100)) for _ in range(5)]
    done = await service.store.prune({Status.COMPLETED: 0}, now=CLOCK.now())
    assert 0 < done.took < (CLOCK.monotonic() - at) / 1_000
    await asyncio.gather(*busy)


async def test_two_masters_prune_what_has_a_retention_of_its_own_and_leave_the_rest(
    service: QueueService, start_master: StartMaster
) -> None:
    start_master("--concurrency", "1").until_serving()
    brief = await service.enqueue(zoo.good.using(retention=0), 1)
    kept = await service.enqueue(zoo.good, 2)
    assert await kept.get(30) == 3
    await eventually(lambda: ended_or_gone(service, brief), "it has run")
    start_master("--concurrency", "1").until_serving()  # looks at once; the first does in half a minute
    await eventually(lambda: is_gone(service, brief), "it is pruned")
    assert (await kept.refresh()).status == "completed"


async def ended_or_gone(service: QueueService, result: TaskResult[int]) -> bool:
    record = await service.get_task(result.id)
    return record is None or record.is_terminal


async def test_a_reload_changes_how_long_jobs_are_kept(service: QueueService) -> None:
    await end_some(service, 3)
    told: list[Notice] = []
    keeper = Housekeeping(service.store, CLOCK, {Status.COMPLETED: None}, told.append)
    await keeper.sweep()
    assert (told, (await service.get_statistics()).total) == ([], 4)
    keeper.learn(Catalogue(retention={Status.COMPLETED: 0, Status.FAILED: None}))
    await keeper.sweep()
    assert (told, (await service.get_statistics()).total) == ([JobsPruned(3, 0)], 1)


async def test_others_get_their_turn_between_two_parts(service: QueueService) -> None:
    """While a sweep goes on, a claim is never behind more than the one part that is being written."""
    await end_some(service, 1500)
    keeper = Housekeeping(service.store, CLOCK, {Status.COMPLETED: 0}, lambda notice: None)
    parts = parts_since_claim = most = 0
    prune = service.store.prune

    async def counting(*arguments: object, **options: object) -> object:
        nonlocal parts, parts_since_claim, most
        done = await prune(*arguments, **options)  # type: ignore[arg-type]
        parts, parts_since_claim = parts + 1, parts_since_claim + 1
        most = max(most, parts_since_claim)
        return done

    service.store.prune = counting  # type: ignore[method-assign,assignment]
    sweeping = asyncio.create_task(keeper.sweep())
    while not sweeping.done():
        await service.store.claim("elsewhere", [Want(1)], now=CLOCK.now())
        parts_since_claim = 0
    await sweeping
    assert parts >= 5
    assert most <= 2
