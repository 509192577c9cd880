"""``wait`` and ``get``: woken when the job ends, whoever ended it, and never left hanging."""

import asyncio
import shutil
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import uvloop

from litestar_queues import watching
from litestar_queues.config import QueueConfig
from litestar_queues.exceptions import (
    JobGone,
    PayloadError,
    QueueError,
    StoreCorrupt,
    TaskCancelled,
    TaskExpired,
    TaskFailed,
)
from litestar_queues.lifecycle import Raised, Succeeded
from litestar_queues.models import ErrorReport, QueuedTaskRecord, Status
from litestar_queues.results import TaskResult
from litestar_queues.service import QueueService
from litestar_queues.tasks import task

from .conftest import Elsewhere, Within

pytestmark = pytest.mark.anyio


@task("wait.when")
async def when(number: int = 0) -> datetime:
    return datetime.now(UTC)


@task("wait.id")
async def make_id() -> UUID:
    return UUID(int=0)


async def _waiting(service: QueueService, count: int = 1) -> list[asyncio.Task[QueuedTaskRecord]]:
    """Enqueue, and return waits that have begun to listen."""
    results = [await service.enqueue(when, number) for number in range(count)]
    waits = [asyncio.create_task(result.wait()) for result in results]
    while any(result.number not in _watched(service) for result in results):
        await asyncio.sleep(0)
    return waits


async def _is_asleep(service: QueueService) -> None:
    """Return once the watch has looked at its jobs, and sleeps: from now on something must wake it."""
    watch = service.watcher._watches[asyncio.get_running_loop()]
    look, looking = watch._look, [0]

    async def counted() -> None:
        looking[0] += 1
        await look()
        looking[0] -= 1

    watch._look = counted  # type: ignore[method-assign]
    watch.ring()
    quiet = 0
    while quiet < 100:
        await asyncio.sleep(0)
        quiet = 0 if looking[0] or watch._asks_whole or watch._seen == 0 else quiet + 1
    watch._look = look  # type: ignore[method-assign]


def _watched(service: QueueService) -> set[int]:
    return {number for watch in service.watcher._watches.values() for number in watch.waited_for}


async def test_a_wait_ends_when_another_process_completes_the_job(
    service: QueueService, elsewhere: Elsewhere, within: Within
) -> None:
    [wait] = await _waiting(service)

    async with within(2, "the end of the wait"):
        await elsewhere.complete('"2026-01-02T03:04:05Z"')
        record = await wait

    assert (record.status, record.attempt) == (Status.COMPLETED, 1)


async def test_the_bell_wakes_and_not_the_poll(
    service: QueueService, elsewhere: Elsewhere, within: Within, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "SHORTEST_POLL", 60.0)
    monkeypatch.setattr(watching, "LONGEST_POLL", 60.0)
    [wait] = await _waiting(service)
    await _is_asleep(service)

    async with within(5, "the bell"):
        await elsewhere.complete('"2026-01-02T03:04:05Z"')
        assert (await wait).status == Status.COMPLETED


async def test_with_every_doorbell_lost_a_wait_ends_within_the_poll(
    service: QueueService, elsewhere: Elsewhere, within: Within
) -> None:
    [wait] = await _waiting(service)
    await _is_asleep(service)
    shutil.rmtree(Path(service.store.folder) / "bells")

    async with within(10, "the poll"):
        await elsewhere.complete('"2026-01-02T03:04:05Z"')
        assert (await wait).status == Status.COMPLETED


async def test_where_no_bell_can_be_hung_a_wait_still_ends(
    service: QueueService, elsewhere: Elsewhere, within: Within
) -> None:
    bells = Path(service.store.folder) / "bells"
    shutil.rmtree(bells)
    bells.write_text("in the way")
    [wait] = await _waiting(service)
    await _is_asleep(service)

    async with within(10, "the poll"):
        await elsewhere.complete('"2026-01-02T03:04:05Z"')
        assert (await wait).status == Status.COMPLETED


async def test_hundreds_wait_at_once_and_each_is_woken_for_its_own_job(
    service: QueueService, elsewhere: Elsewhere, within: Within
) -> None:
    waits = await _waiting(service, 300)

    async with within(20, "300 waits"):
        jobs = await elsewhere.claim()
        for start in range(0, 300, 30):
            batch = jobs[start : start + 30]
            await elsewhere.settle(batch, Succeeded('"2026-01-02T03:04:05Z"'))
            await asyncio.gather(*waits[start : start + 30])
            assert not any(wait.done() for wait in waits[start + 30 :])


async def test_nothing_runs_on_once_nobody_waits(service: QueueService, elsewhere: Elsewhere, within: Within) -> None:
    before = asyncio.all_tasks()
    waits = await _waiting(service, 3)
    waits[0].cancel()
    async with within(2, "the waits"):
        await elsewhere.complete('"2026-01-02T03:04:05Z"')
        await asyncio.gather(*waits, return_exceptions=True)

    assert asyncio.all_tasks() == before
    assert list((Path(service.store.folder) / "bells").iterdir()) == []


async def test_a_timeout_names_job_task_and_time(service: QueueService) -> None:
    result = await service.enqueue(when)

    with pytest.raises(TimeoutError, match=rf"#1 \(wait\.when, {result.id}\) is still pending after 0\.05 s"):
        await result.wait(timeout=0.05)


async def test_a_job_that_has_ended_needs_no_time_to_wait_for(service: QueueService, elsewhere: Elsewhere) -> None:
    result = await service.enqueue(when)
    await elsewhere.complete('"2026-01-02T03:04:05Z"')

    assert (await result.wait(timeout=0)).status == Status.COMPLETED


async def test_a_poll_interval_must_be_a_time(service: QueueService) -> None:
    result = await service.enqueue(when)

    with pytest.raises(ValueError, match="poll_interval"):
        await result.wait(poll_interval=0)


async def test_a_result_has_the_type_that_the_task_declares(service: QueueService, elsewhere: Elsewhere) -> None:
    result = await service.enqueue(when)
    assert result.result is None
    await elsewhere.complete('"2026-01-02T03:04:05Z"')

    value = await result.get(timeout=5)

    assert value == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert (await service.get_result(result.id)).result == value


async def test_the_result_of_a_task_that_is_not_known_here_is_plain(
    service: QueueService, elsewhere: Elsewhere
) -> None:
    result = await service.enqueue("wait.elsewhere", 1)
    await elsewhere.complete('{"at": "2026-01-02T03:04:05Z"}')

    assert await result.get(timeout=5) == {"at": "2026-01-02T03:04:05Z"}


async def test_a_result_that_is_not_of_the_declared_type_is_refused(
    service: QueueService, elsewhere: Elsewhere
) -> None:
    result = await service.enqueue(make_id)
    await elsewhere.complete("17")

    with pytest.raises(PayloadError, match=r"wait\.id"):
        await result.get(timeout=5)


async def test_get_raises_what_became_of_the_job(service: QueueService, elsewhere: Elsewhere) -> None:
    failed = await service.enqueue(when)
    error = ErrorReport("ValueError", "no such report", "Traceback …")
    await elsewhere.settle(await elsewhere.claim(), Raised(error, retryable=False))
    cancelled = await service.enqueue(when)
    await cancelled.cancel()
    expired = await service.enqueue(when, expires_in=0.000_001)
    await elsewhere.claim()

    with pytest.raises(TaskFailed, match=r"#1 \(wait\.when\) failed: ValueError: no such report") as caught:
        await failed.get(timeout=5)
    assert (caught.value.traceback, caught.value.job_id) == ("Traceback …", str(failed.id))
    with pytest.raises(TaskCancelled):
        await cancelled.get(timeout=5)
    with pytest.raises(TaskExpired):
        await expired.get(timeout=5)


async def test_a_failed_attempt_that_will_be_retried_is_no_end(
    service: QueueService, elsewhere: Elsewhere, within: Within
) -> None:
    result = await service.enqueue(when, retries=1)
    wait = asyncio.create_task(result.wait())
    await elsewhere.settle(await elsewhere.claim(), Raised(ErrorReport("ValueError", "once"), delay=0))
    await result.refresh()

    assert (result.status, result.error, wait.done()) == (Status.PENDING, "ValueError: once", False)
    async with within(2, "the second attempt"):
        await elsewhere.complete('"2026-01-02T03:04:05Z"')
        assert (await wait).attempt == 2


async def test_a_wait_hears_of_what_its_own_service_does(
    service: QueueService, within: Within, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "SHORTEST_POLL", 60.0)
    monkeypatch.setattr(watching, "LONGEST_POLL", 60.0)
    [wait] = await _waiting(service)

    async with within(5, "the cancelled job"):
        assert await service.cancel_task(1)
        assert (await wait).status == Status.CANCELLED


async def test_a_running_job_is_asked_to_stop(service: QueueService, elsewhere: Elsewhere) -> None:
    result = await service.enqueue(when)
    jobs = await elsewhere.claim()

    assert not await service.cancel_task(result.id, include_running=False)
    assert await result.cancel()
    assert (await result.refresh()).cancel_requested_at is not None
    await elsewhere.cancel(jobs)
    assert (await result.wait(timeout=5)).status == Status.CANCELLED
    assert not await result.cancel(), "it has ended"


async def test_a_job_that_was_pruned_is_gone(service: QueueService, monkeypatch: pytest.MonkeyPatch) -> None:
    result = await service.enqueue(when)
    gone = TaskResult[Any](service, _renumbered(result.record, UUID(int=1), 4821))

    with pytest.raises(JobGone, match="#4821"):
        await gone.wait(timeout=5)


def _renumbered(record: QueuedTaskRecord, id: UUID, number: int) -> QueuedTaskRecord:
    values = {name: getattr(record, name) for name in record.__struct_fields__}
    return QueuedTaskRecord(**{**values, "id": id, "number": number})


async def test_closing_the_service_sends_waiters_away(config: QueueConfig, within: Within) -> None:
    service = QueueService(config)
    await service.open()
    [wait] = await _waiting(service)

    async with within(2, "the waiter to be sent away"):
        await service.close()
        with pytest.raises(QueueError, match="closed"):
            await wait


async def test_closing_the_service_sends_waiters_on_other_loops_away(config: QueueConfig, within: Within) -> None:
    service = QueueService(config)
    await service.open()
    result = await service.enqueue(when)
    other = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(result.wait(timeout=30))))
    while result.number not in _watched(service):
        await asyncio.sleep(0)

    async with within(2, "the waiter to be sent away"):
        await service.close()
        with pytest.raises(QueueError, match="closed"):
            await other


async def test_an_error_of_the_store_reaches_who_waits(
    service: QueueService, within: Within, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise StoreCorrupt("damaged")

    [wait] = await _waiting(service)
    monkeypatch.setattr(service.store, "changed", broken)

    async with within(2, "the error"):
        with pytest.raises(StoreCorrupt):
            await wait


async def test_one_service_serves_several_loops_at_once(
    service: QueueService, elsewhere: Elsewhere, within: Within
) -> None:
    """A test client runs the app on another thread and loop than the test; so may anybody."""
    ready, ended = threading.Barrier(3), []

    async def use() -> None:
        result = await service.enqueue(when)
        wait = asyncio.create_task(result.wait(timeout=10))
        while result.number not in _watched(service):
            await asyncio.sleep(0.001)
        await asyncio.to_thread(ready.wait, 10)
        ended.append((await wait).status)

    def thread(factory: Any) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(use())

    threads = [threading.Thread(target=thread, args=(each,)) for each in (None, uvloop.new_event_loop)]
    for each in threads:
        each.start()
    async with within(10, "both loops"):
        await asyncio.to_thread(ready.wait, 10)
        await elsewhere.complete('"2026-01-02T03:04:05Z"')
        for each in threads:
            await asyncio.to_thread(each.join)

    assert ended == [Status.COMPLETED, Status.COMPLETED]


@pytest.mark.fault("C13", "enqueue cancelled at the k-th await, for every k", "stored whole or not at all")
async def test_a_cancelled_enqueue_stores_the_job_all_the_same_or_not_at_all(service: QueueService) -> None:
    was_stored: list[bool] = []
    pending = await service.enqueue(when, key="first")  # the store is open
    for steps in range(1000):
        key = f"cancelled-{steps}"
        enqueue = asyncio.create_task(service.enqueue(when, key=key, queue="swept"))
        for _ in range(steps):
            await asyncio.sleep(0)
        was_done = enqueue.done()
        enqueue.cancel()
        if not was_done:
            with pytest.raises(asyncio.CancelledError):
                await enqueue
        # The writer keeps the order: what was handed over is stored by now.
        after = await service.enqueue(when, steps, key=key, queue="swept")
        was_stored.append(after.deduplicated)
        assert (await after.refresh()).args == ([] if after.deduplicated else [steps])
        if was_done:
            break
    assert was_done, "the sweep has come to its end"
    assert was_stored[0] is False, "cancelled before its first step"
    assert was_stored[-1] is True, "it had returned"
    assert was_stored == sorted(was_stored), "from the moment it is handed over, it is stored"
    assert (await service.get_statistics()).pending == len(was_stored) + 1
    assert await service.cancel_task(pending.id)


async def test_the_life_of_a_job_is_told_in_order(service: QueueService, elsewhere: Elsewhere) -> None:
    result = await service.enqueue(when, retries=1)
    await elsewhere.settle(await elsewhere.claim(), Raised(ErrorReport("ValueError", "once"), delay=0))
    await elsewhere.complete('"2026-01-02T03:04:05Z"')

    types = [event.type for event in await result.events()]

    assert types == ["task.enqueued", "task.started", "task.retrying", "task.started", "task.completed"]
