"""The ``immediate`` backend: the caller runs the job, and the store tells of it as of any other."""

import asyncio
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from litestar_queues import immediate as backend
from litestar_queues.config import QueueConfig
from litestar_queues.events import INJECTED, TaskExecutionContext, publish_task_log
from litestar_queues.exceptions import (
    PayloadError,
    QueueError,
    Snooze,
    TaskFailed,
    UnknownTaskError,
    job_cancelled,
    non_retryable,
)
from litestar_queues.models import Query, Status, TaskRequest
from litestar_queues.service import QueueService
from litestar_queues.tasks import task
from support.waiting import eventually

from .conftest import Within

pytestmark = pytest.mark.anyio
calls: list[Any] = []


@pytest.fixture(autouse=True)
def _no_calls() -> Iterator[None]:
    calls.clear()
    yield
    calls.clear()


@task("immediate.add_days")
async def days_between(first: date, last: date) -> dict[str, int]:
    calls.append((first, last))
    return {"days": (last - first).days}


@task("immediate.synchronous")
def synchronous(value: int) -> int:
    return value * 2


@task("immediate.set")
async def makes_a_set() -> object:
    return {1, 2}


@task("immediate.flaky", retries=2)
async def flaky(good_at: int) -> int:
    calls.append("called")
    if len(calls) < good_at:
        raise ValueError(f"call {len(calls)}")
    return len(calls)


@task("immediate.says")
async def says(_job_id: object = INJECTED, _task_context: TaskExecutionContext = INJECTED) -> str:
    await _task_context.progress(current=1, total=4, message="begun")
    await publish_task_log(f"job {_job_id}")
    return str(_job_id)


@task("immediate.nested")
async def nested(depth: int) -> int:
    if depth == 0:
        return 0
    inner = await nested.enqueue(depth - 1)
    return 1 + await inner.get(timeout=5)


@task("immediate.forever", retries=1)
async def forever() -> None:
    calls.append("called")
    await asyncio.Event().wait()


@task("immediate.stubborn")
async def stubborn() -> str:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        await asyncio.sleep(0)
    return "finished"


async def test_the_job_has_ended_when_enqueue_returns(immediate: QueueService) -> None:
    result = await immediate.enqueue(days_between, date(2026, 1, 1), last=date(2026, 1, 11))

    assert (result.status, result.result) == (Status.COMPLETED, {"days": 10})
    assert calls == [(date(2026, 1, 1), date(2026, 1, 11))], "the arguments made the round trip"
    assert (result.record.worker_id, result.record.attempt) == ("immediate", 1)
    assert result.record.attempts[0].receipt is not None
    assert result.record.attempts[0].receipt.pid == os.getpid()
    assert (await result.wait(timeout=0)).is_terminal


async def test_a_synchronous_task_runs_too(immediate: QueueService) -> None:
    assert (await immediate.enqueue(synchronous, 21)).result == 42


async def test_one_call_can_choose_it(service: QueueService) -> None:
    here = await service.enqueue(synchronous, 1, execution_backend="immediate")
    there = await service.enqueue(synchronous, 1)

    assert (here.status, there.status) == (Status.COMPLETED, Status.PENDING)


async def test_a_result_that_is_not_json_fails_the_job(immediate: QueueService) -> None:
    result = await immediate.enqueue(makes_a_set)

    assert (result.status, result.result) == (Status.FAILED, None)
    with pytest.raises(TaskFailed, match="PayloadError"):
        await result.get()


async def test_retries_run_at_once(immediate: QueueService, within: Within) -> None:
    async with within(2, "three attempts, whose delays would take 3 s"):
        result = await immediate.enqueue(flaky, 3, retry_backoff=60)

    assert (result.status, result.result, result.record.retry_count) == (Status.COMPLETED, 3, 2)
    assert [attempt.outcome for attempt in result.record.attempts] == ["raised", "raised", "succeeded"]


async def test_a_job_fails_when_its_retries_are_spent(immediate: QueueService) -> None:
    result = await immediate.enqueue(flaky, 99, retries=1)

    assert (result.status, result.error, len(calls)) == (Status.FAILED, "ValueError: call 2", 2)
    with pytest.raises(TaskFailed) as caught:
        await result.get()
    assert "in flaky" in str(caught.value.traceback)


async def test_a_task_decides_its_own_end(immediate: QueueService) -> None:
    @task("immediate.fatal", retries=5)
    async def fatal() -> None:
        non_retryable("bad input")

    @task("immediate.cancels", retries=5)
    async def cancels() -> None:
        job_cancelled("not wanted")

    assert (await immediate.enqueue(fatal)).record.attempt == 1
    assert (await immediate.enqueue(cancels)).status == Status.CANCELLED


async def test_a_time_to_run_at_is_not_waited_for(immediate: QueueService) -> None:
    result = await immediate.enqueue(synchronous, 1, run_after=3600)

    assert result.status == Status.COMPLETED


async def test_a_snooze_is_not_waited_for_and_a_loop_of_them_ends(immediate: QueueService) -> None:
    @task("immediate.snoozes")
    async def snoozes(times: int) -> int:
        calls.append("called")
        if len(calls) <= times:
            raise Snooze(3600)
        return len(calls)

    assert (await immediate.enqueue(snoozes, 3)).result == 4
    calls.clear()
    endless = await immediate.enqueue(snoozes, 10**9)
    assert (endless.status, len(calls)) == (Status.FAILED, backend.MAX_SNOOZES + 1)


async def test_what_a_job_says_is_stored(immediate: QueueService) -> None:
    result = await immediate.enqueue(says)

    events = await result.events()
    assert result.result == str(result.id)
    assert [event.type for event in events] == [
        "task.enqueued",
        "task.started",
        "task.progress",
        "task.log",
        "task.completed",
    ]
    assert (events[2].progress_percent, events[3].message) == (25.0, f"job {result.id}")


async def test_what_is_said_past_the_share_is_counted(immediate: QueueService, monkeypatch: pytest.MonkeyPatch) -> None:
    @task("immediate.talks")
    async def talks() -> None:
        for _ in range(5):
            await publish_task_log("again")

    monkeypatch.setattr(backend, "MAX_EVENTS", 2)
    events = await (await immediate.enqueue(talks)).events()

    said = [event.message for event in events if event.type == "task.log"]
    assert said == ["again", "again", "3 more were dropped: the job said more than is kept"]


async def test_a_task_enqueues_others_with_the_service_that_runs_it(immediate: QueueService) -> None:
    async with QueueService(QueueConfig(queue_backend="memory", durability="process")):
        result = await immediate.enqueue(nested, 3)

    assert result.result == 3
    assert (await immediate.get_statistics()).completed == 4


async def test_a_coroutine_that_runs_out_of_time_is_cancelled(immediate: QueueService) -> None:
    result = await immediate.enqueue(forever, timeout=0.01)

    assert (result.status, len(calls)) == (Status.FAILED, 2)
    assert [attempt.outcome for attempt in result.record.attempts] == ["timed_out", "timed_out"]
    assert result.error == "TimeoutError: ran past its timeout of 0.01 s"


async def test_a_coroutine_that_ignores_the_timeout_and_finishes_has_finished(immediate: QueueService) -> None:
    assert (await immediate.enqueue(stubborn, timeout=0.01)).result == "finished"


async def test_a_cancelled_caller_cancels_the_run(immediate: QueueService, within: Within) -> None:
    enqueue = asyncio.create_task(immediate.enqueue_many([TaskRequest(forever), TaskRequest(synchronous, (1,))]))
    async with within(2, "the run to begin and to end"):
        while not calls:
            await asyncio.sleep(0)
        enqueue.cancel()
        with pytest.raises(asyncio.CancelledError):
            await enqueue

    statuses = [record.status for record in await immediate.list_tasks()]
    assert statuses == [Status.CANCELLED, Status.CANCELLED], "the second would never have run"


@pytest.mark.parametrize("turns", [0, 1, 2, 5])
async def test_a_caller_cancelled_at_any_moment_leaves_no_live_job(immediate: QueueService, turns: int) -> None:
    enqueue = asyncio.create_task(immediate.enqueue(forever))
    for _ in range(turns):
        await asyncio.sleep(0)
    enqueue.cancel()
    with pytest.raises(asyncio.CancelledError):
        await enqueue

    counts = await immediate.get_statistics()
    assert counts.total == counts.cancelled


async def test_a_job_that_another_holds_the_key_of_is_not_run(immediate: QueueService) -> None:
    @task("immediate.again", key="once")
    async def again(depth: int) -> bool:
        calls.append(depth)
        return depth == 0 or (await again.enqueue(depth - 1)).deduplicated

    assert (await immediate.enqueue(again, 1)).result is True
    assert calls == [1]


async def test_a_task_that_is_not_known_here_is_refused(immediate: QueueService) -> None:
    with pytest.raises(UnknownTaskError, match=r"immediate\.nowhere"):
        await immediate.enqueue("immediate.nowhere")
    assert (await immediate.get_statistics()).total == 0


async def test_masters_can_tell_that_the_caller_lives(immediate: QueueService) -> None:
    @task("immediate.looks")
    async def looks() -> list[bool]:
        return [_is_locked(path) for path in _locks(immediate)]

    assert (await immediate.enqueue(looks)).result == [True]
    [node] = await immediate.store.nodes()
    assert (node.pid, [path.stem for path in _locks(immediate)]) == (os.getpid(), [node.id])


async def test_the_caller_stops_being_a_node_when_it_closes(url: str, service: QueueService) -> None:
    async with QueueService(QueueConfig(queue_backend=url, execution_backend="immediate")) as other:
        await other.enqueue(synchronous, 1)

    assert await service.store.nodes() == []
    assert _locks(service) == []


async def test_the_tasks_own_context_is_not_the_callers(immediate: QueueService) -> None:
    from litestar_queues.events import get_current_task_context

    await immediate.enqueue(says)

    assert get_current_task_context() is None


async def test_decoded_arguments_are_those_of_the_worker(immediate: QueueService) -> None:
    @task("immediate.when")
    async def when(at: datetime) -> bool:
        return at.tzinfo is not None and at == datetime(2026, 1, 1, tzinfo=UTC)

    assert (await immediate.enqueue(when, datetime(2026, 1, 1, tzinfo=UTC))).result is True


def _locks(service: QueueService) -> list[Path]:
    return list((Path(service.store.folder) / "run").glob("*.lock"))


def _is_locked(path: Path) -> bool:
    with _opened(path) as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@task("immediate.first", retries=1)
async def first(good_at: int, _task_context: TaskExecutionContext = INJECTED) -> None:
    calls.append("first")
    _task_context.enqueue_on_success(flaky, 1)
    if len(calls) < good_at:
        raise ValueError("not yet")


async def test_what_a_job_adds_on_success_runs_here_too(immediate: QueueService) -> None:
    await immediate.enqueue(first, 2)
    records = await immediate.list_tasks()
    assert [(record.task_name, record.status) for record in records] == [
        ("immediate.flaky", "completed"),
        ("immediate.first", "completed"),
    ]


@task("immediate.too_many")
async def too_many(_task_context: TaskExecutionContext = INJECTED) -> None:
    for _ in range(1001):
        _task_context.enqueue_on_success(flaky, 1)


@task("immediate.raising")
async def raising(_task_context: TaskExecutionContext = INJECTED) -> None:
    _task_context.enqueue_on_success(flaky, 1, key="k", on_duplicate="raise")


@pytest.mark.parametrize(
    ("bad", "why"), [(too_many, "one run may add 1000 jobs"), (raising, "cannot raise for a duplicate")]
)
async def test_what_cannot_follow_is_an_error_in_the_task(immediate: QueueService, bad: Any, why: str) -> None:
    result = await immediate.enqueue(bad)
    assert (result.status, (await immediate.get_statistics()).total) == ("failed", 1)
    assert why in (result.error or "")


@task("immediate.too_large")
async def too_large(how: str, _task_context: TaskExecutionContext = INJECTED) -> None:
    for _ in range(90):
        if how == "text":
            _task_context.enqueue_on_success(echo, "漢" * 340_000)
        else:
            _task_context.enqueue_on_success(echo, "x", metadata={"m": "y" * 1_000_000})


@task("immediate.echo")
async def echo(text: str) -> str:
    return text


@pytest.mark.parametrize("how", ["text", "metadata"])
async def test_what_follows_is_limited_by_its_bytes_wherever_they_are(immediate: QueueService, how: str) -> None:
    result = await immediate.enqueue(too_large, how)
    assert result.status == "failed"
    assert "of 33554432 bytes together" in (result.error or "")


@task("immediate.chain")
def chain(left: int, _task_context: TaskExecutionContext = INJECTED) -> None:
    if left:
        _task_context.enqueue_on_success(chain, left - 1)


async def test_a_chain_of_jobs_may_be_longer_than_the_stack_is_deep(immediate: QueueService) -> None:
    await immediate.enqueue(chain, 500)
    assert (await immediate.get_statistics()).completed == 501


async def test_a_chain_without_end_fails_and_lets_its_caller_go(
    immediate: QueueService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "MAX_GENERATIONS", 3)
    await immediate.enqueue(chain, 2)
    await immediate.enqueue(chain, 10**9)
    counts = await immediate.get_statistics()
    assert (counts.completed, counts.failed, counts.total) == (5, 1, 6)
    [failed] = await immediate.list_tasks(Query(statuses=(Status.FAILED,)))
    assert "would add another job after 3" in (failed.error or "")


@task("immediate.then_ends")
async def then_ends(how: str, _task_context: TaskExecutionContext = INJECTED) -> None:
    _task_context.enqueue_on_success(chain, 0)
    if how == "snoozed" and _task_context.attempt == 1:
        raise Snooze(0)
    if how == "cancelled":
        job_cancelled()
    if how == "timed out":
        await asyncio.Event().wait()


@pytest.mark.parametrize(("how", "added"), [("snoozed", 1), ("cancelled", 0), ("timed out", 0)])
async def test_only_the_run_that_completes_adds(immediate: QueueService, how: str, added: int) -> None:
    await immediate.enqueue(then_ends.using(timeout=0.05), how)
    assert len(await immediate.list_tasks(Query(task="immediate.chain"))) == added


async def test_a_caller_that_is_cancelled_takes_along_what_its_job_has_added(immediate: QueueService) -> None:
    calling = asyncio.create_task(immediate.enqueue(before_forever))
    await eventually(lambda: _all_called(1), "the job that was added runs")
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    records = await immediate.list_tasks()
    assert [(record.task_name, record.status) for record in records] == [
        ("immediate.chain", "cancelled"),
        ("immediate.forever", "cancelled"),
        ("immediate.before_forever", "completed"),
    ]


@task("immediate.before_forever")
def before_forever(_task_context: TaskExecutionContext = INJECTED) -> None:
    _task_context.enqueue_on_success(forever)
    _task_context.enqueue_on_success("immediate.chain", 0)


async def _all_called(count: int) -> bool:
    return len(calls) == count


@task("immediate.refused")
async def refused(_task_context: TaskExecutionContext = INJECTED) -> None:
    for bad, args, error in (
        (chain, (), TypeError),
        (chain, ("one",), TypeError),
        (chain, (1, 2), TypeError),
        (takes_anything, ((1,),), PayloadError),
        ("nobody", (), UnknownTaskError),
        (5, (), TypeError),
    ):
        with pytest.raises(error):
            _task_context.enqueue_on_success(bad, *args)  # type: ignore[arg-type]  # that is the point
    calls.append(_task_context)


@task("immediate.takes_anything")
def takes_anything(value) -> None:  # type: ignore[no-untyped-def]
    pass


async def test_a_call_that_cannot_be_is_refused_at_once_and_so_is_one_after_the_end(immediate: QueueService) -> None:
    result = await immediate.enqueue(refused)
    assert (result.status, result.error) == ("completed", None)
    with pytest.raises(QueueError, match="the run of #1 has ended"):
        calls[0].enqueue_on_success(chain, 0)
    assert (await immediate.get_statistics()).total == 1


@task("immediate.with_options")
async def with_options(_task_context: TaskExecutionContext = INJECTED) -> str:
    changed = chain.using(queue="slow", run_after=60, execution_backend="local")
    return str(_task_context.enqueue_on_success(changed, left=0, priority=7, key="k"))


async def test_options_are_those_of_the_task_and_of_the_call_and_time_counts_from_the_call(
    immediate: QueueService,
) -> None:
    result = await immediate.enqueue(with_options)
    added = await immediate.get_task(result.result or "")
    assert added is not None
    assert (added.queue, added.priority, added.key, added.status) == ("slow", 7, "k", "scheduled")
    assert (added.scheduled_at - added.created_at).total_seconds() == 60
    started, ended = result.record.started_at, result.record.completed_at
    assert started is not None
    assert ended is not None
    assert started <= added.created_at <= ended
