"""Enqueue: what the service stores, what it takes, and what it refuses at the door."""

import multiprocessing
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from litestar_queues import enqueuer
from litestar_queues.clock import SystemClock
from litestar_queues.config import QueueConfig
from litestar_queues.exceptions import (
    DuplicateJobError,
    JobNotFound,
    PayloadError,
    QueueConfigurationError,
    QueueError,
    UnknownTaskError,
)
from litestar_queues.models import Query, QueueStatistics, Status, TaskRequest
from litestar_queues.nodes import Catalogue, Parameter, TaskEntry
from litestar_queues.service import QueueService
from litestar_queues.tasks import task

pytestmark = pytest.mark.anyio


@task("enqueue.render", queue="reports", priority=10, retries=2, timeout=120)
async def render(report_id: str, pages: int = 1) -> str:
    return report_id * pages


@task("enqueue.queue")
async def about_queues(queue: str, priority: int = 0) -> str:
    return f"{queue} {priority}"


@task("enqueue.keyed", key="nightly")
async def keyed(value: int = 0) -> int:
    return value


async def test_a_job_takes_the_defaults_of_its_task(service: QueueService) -> None:
    record = (await service.enqueue(render, "report-1")).record

    assert (record.queue, record.priority, record.max_retries, record.timeout) == ("reports", 10, 2, 120.0)
    assert (record.execution_backend, record.execution_profile, record.metadata) == ("local", None, {})
    assert record.status == Status.PENDING


async def test_every_default_can_be_overridden_for_one_call(service: QueueService) -> None:
    result = await service.enqueue(
        render,
        "report-1",
        queue="slow-reports",
        priority=1,
        retries=5,
        timeout=600,
        run_after=30,
        execution_backend="cloudrun",
        execution_profile="heavy",
        metadata={"requested_by": "user-123"},
        key="report:1",
    )

    record = result.record
    assert (record.queue, record.priority, record.max_retries, record.timeout) == ("slow-reports", 1, 5, 600.0)
    assert (record.execution_backend, record.execution_profile) == ("cloudrun", "heavy")
    assert (record.metadata, record.key) == ({"requested_by": "user-123"}, "report:1")
    assert record.status == Status.SCHEDULED
    assert record.scheduled_at - record.created_at == timedelta(seconds=30)


async def test_what_the_result_says_at_once_is_what_the_store_holds(service: QueueService) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    result = await service.enqueue(
        render, "r", pages=2, scheduled_at=soon, expires_in=7200, metadata={"a": [1]}, key="k"
    )

    said = result.record
    stored = await result.refresh()

    names = [name for name in said.__struct_fields__ if name != "sequence"]
    assert {name: getattr(said, name) for name in names} == {name: getattr(stored, name) for name in names}


async def test_the_id_of_a_result_is_a_uuid_and_its_text_finds_the_job(service: QueueService) -> None:
    result = await service.enqueue(render, "report-1")

    assert isinstance(result.id, UUID)
    for reference in (result.id, str(result.id), result.number, str(result.number), f"#{result.number}"):
        found = await service.get_task(reference)
        assert found is not None
        assert found.id == result.id


async def test_a_configured_copy_carries_its_options(service: QueueService) -> None:
    heavy = render.using(execution_backend="cloudrun", execution_profile="heavy", queue=None)
    record = (await service.enqueue(heavy, "report-1")).record

    assert (record.execution_backend, record.execution_profile, record.queue) == ("cloudrun", "heavy", "default")


async def test_an_option_that_is_a_parameter_of_the_task_goes_to_the_task(service: QueueService) -> None:
    record = (await service.enqueue(about_queues, queue="mine", priority=3, retries=1)).record

    assert record.kwargs == {"queue": "mine", "priority": 3}
    assert (record.queue, record.priority, record.max_retries) == ("default", 0, 1)


async def test_arguments_that_do_not_fit_are_refused(service: QueueService) -> None:
    wrong: Any = service.enqueue
    for args, kwargs in (
        ((), {}),
        (("a", 1, 2), {}),
        (("a",), {"colour": "red"}),
        ((1,), {}),
        (("a",), {"pages": "x"}),
    ):
        with pytest.raises(TypeError, match=r"enqueue\.render"):
            await wrong(render, *args, **kwargs)
    assert (await service.get_statistics()).total == 0


async def test_a_value_that_would_come_back_as_something_else_is_refused(service: QueueService) -> None:
    @task("enqueue.plain")
    async def plain(value) -> None:  # type: ignore[no-untyped-def]  # the point of the test
        return None

    with pytest.raises(PayloadError, match="value"):
        await service.enqueue(plain, (1, 2))


async def test_a_backend_that_is_not_configured_is_refused(service: QueueService) -> None:
    with pytest.raises(QueueConfigurationError, match="lambda"):
        await service.enqueue(render, "a", execution_backend="lambda")


async def test_what_is_no_task_is_refused(service: QueueService) -> None:
    async def function() -> None: ...

    anything: Any = function
    with pytest.raises(TypeError, match="@task"):
        await service.enqueue(anything)


async def test_a_key_makes_one_live_job(service: QueueService) -> None:
    first = await service.enqueue(render, "report-1", key="report:1")
    second = await service.enqueue(render, "report-2", key="report:1")

    assert (first.deduplicated, second.deduplicated) == (False, True)
    assert second.id == first.id
    assert second.record.args == ["report-1"]
    assert (await service.get_statistics()).total == 1


async def test_a_key_is_the_tasks_own_unless_it_is_global(service: QueueService) -> None:
    mine = await service.enqueue(render, "a", key="k")
    other = await service.enqueue(about_queues, "a", key="k")
    shared = await service.enqueue(render, "a", key="g", key_scope="global")
    same = await service.enqueue(about_queues, "a", key="g", key_scope="global")

    assert mine.id != other.id
    assert (same.id, same.task_name) == (shared.id, "enqueue.render")


async def test_a_duplicate_can_be_refused(service: QueueService) -> None:
    first = await service.enqueue(render, "report-1", key="report:1")

    with pytest.raises(DuplicateJobError) as caught:
        await service.enqueue(render, "report-2", key="report:1", on_duplicate="raise")

    assert (caught.value.number, caught.value.key) == (first.number, "report:1")


async def test_a_duplicate_can_replace_what_has_not_started(service: QueueService) -> None:
    first = await service.enqueue(render, "report-1", key="report:1")
    second = await service.enqueue(render, "report-2", key="report:1", on_duplicate="replace", priority=99)

    assert (second.id, second.deduplicated) == (first.id, True)
    assert (second.record.args, second.record.priority) == (["report-2"], 99)


async def test_many_calls_are_stored_together_with_their_tasks_defaults(service: QueueService) -> None:
    results = await service.enqueue_many(
        [
            TaskRequest(render, ("a",)),
            TaskRequest("enqueue.render", ("b",), {"pages": 2}, {"priority": 1}),
            TaskRequest(keyed),
            TaskRequest(keyed, (2,)),
        ]
    )

    assert [each.record.queue for each in results] == ["reports", "reports", "default", "default"]
    assert [each.record.priority for each in results] == [10, 1, 0, 0]
    assert [each.deduplicated for each in results] == [False, False, False, True]
    assert results[3].id == results[2].id
    stored = await service.store.get([each.number for each in results])
    assert len({record.sequence for record in stored if record}) == 1, "one transaction"


async def test_many_calls_are_stored_all_or_none(service: QueueService) -> None:
    await service.enqueue(keyed)

    with pytest.raises(DuplicateJobError):
        await service.enqueue_many([TaskRequest(render, ("a",)), TaskRequest(keyed, options={"on_duplicate": "raise"})])
    with pytest.raises(TypeError):
        await service.enqueue_many([TaskRequest(render, ("a",)), TaskRequest(render, ())])

    assert (await service.get_statistics()).total == 1
    assert await service.enqueue_many([]) == []


async def test_a_registered_task_is_known_by_its_name(service: QueueService) -> None:
    record = (await service.enqueue("enqueue.render", "report-1", priority=3)).record

    assert (record.queue, record.priority, record.args) == ("reports", 3, ["report-1"])
    with pytest.raises(TypeError):
        await service.enqueue("enqueue.render")


async def _publish(service: QueueService) -> None:
    parameters = (Parameter("queue", "either", required=True), Parameter("colour", "keyword", required=False))
    entry = TaskEntry("elsewhere.paint", parameters, queue="paint", retries=3, key_scope="elsewhere.paint")
    await service.store.publish("node", Catalogue(tasks=(entry,)), now=SystemClock().now())


async def test_a_published_task_is_known_by_its_name(service: QueueService) -> None:
    await _publish(service)

    record = (await service.enqueue("elsewhere.paint", queue="wall", colour="red", priority=7)).record

    assert record.kwargs == {"queue": "wall", "colour": "red"}, "by its signature, as if it were registered"
    assert (record.queue, record.max_retries, record.priority) == ("paint", 3, 7)
    with pytest.raises(TypeError, match="queue"):
        await service.enqueue("elsewhere.paint")


async def test_an_unknown_name_is_refused_once_masters_have_published_tasks(service: QueueService) -> None:
    assert (await service.enqueue("elsewhere.pain", 1)).status == Status.PENDING, "a worker may come later"
    await _publish(service)

    with pytest.raises(UnknownTaskError, match=r"elsewhere\.paint"):
        await service.enqueue("elsewhere.pain", 1)


async def test_a_service_that_is_not_open_says_so(config: QueueConfig) -> None:
    service = QueueService(config)

    async def uses() -> None:
        await service.enqueue(render, "a")

    with pytest.raises(QueueError, match="not open"):
        await uses()
    async with service:
        await uses()
    with pytest.raises(QueueError, match="not open"):
        await uses()
    with pytest.raises(QueueError, match="not open"):
        await service.get_statistics()


async def test_a_service_can_be_opened_again(config: QueueConfig) -> None:
    service = QueueService(config)
    for count in (1, 2):
        async with service:
            await service.enqueue(render, "a")
            assert (await service.get_statistics("reports")).pending == count


async def test_a_given_store_is_used_and_stays_open(config: QueueConfig, service: QueueService) -> None:
    async with QueueService(config, store=service.store) as second:
        result = await second.enqueue(render, "a")

    assert (await service.get_task(result.id)) is not None


async def test_a_task_finds_the_only_open_service(service: QueueService) -> None:
    result = await render.enqueue("report-1")

    assert result.record.args == ["report-1"]


async def test_with_no_service_open_enqueue_names_the_choices() -> None:
    with pytest.raises(QueueError, match="QueuePlugin"):
        await render.enqueue("report-1")


async def test_with_two_services_open_the_context_decides(service: QueueService, config: QueueConfig) -> None:
    async with QueueService(QueueConfig(queue_backend="memory", durability="process")) as other:
        with pytest.raises(QueueError, match="2 services"):
            await render.enqueue("report-1")
        token = enqueuer.current_enqueuer.set(other)
        await render.enqueue("report-1")
        enqueuer.current_enqueuer.reset(token)

        assert (await other.get_statistics()).total == 1
        assert (await service.get_statistics()).total == 0


@pytest.mark.fault("B3", "the same job added again after an unknown outcome", "stored once")
async def test_adding_a_prepared_job_twice_stores_it_once(service: QueueService) -> None:
    job = await service.prepare(render, ("a",), {"priority": 2})
    [first] = await service.add([job])
    [second] = await service.add([job])

    assert (second.id, second.number, second.deduplicated) == (first.id, first.number, False)
    assert (await service.get_statistics()).total == 1


async def test_jobs_are_listed_and_counted(service: QueueService) -> None:
    await service.enqueue(render, "a")
    await service.enqueue(render, "b", run_after=60)
    await service.enqueue(keyed)

    assert [record.task_name for record in await service.list_tasks()] == ["enqueue.keyed", *["enqueue.render"] * 2]
    assert [record.args for record in await service.list_tasks(Query(statuses=(Status.SCHEDULED,)))] == [["b"]]
    assert await service.get_statistics("reports") == QueueStatistics(scheduled=1, pending=1)
    assert await service.get_statistics() == QueueStatistics(scheduled=1, pending=2)
    assert await service.get_statistics("nothing") == QueueStatistics()


async def test_what_is_not_there_is_none_or_job_not_found(service: QueueService) -> None:
    assert await service.get_task(4821) is None
    assert await service.get_task(UUID(int=1)) is None
    with pytest.raises(JobNotFound):
        await service.get_result(4821)
    with pytest.raises(JobNotFound):
        await service.cancel_task(4821)
    with pytest.raises(JobNotFound):
        await service.cancel_task(UUID(int=1))
    with pytest.raises(JobNotFound):
        await service.task_events(4821)
    with pytest.raises(ValueError, match="names no job"):
        await service.get_task("report-1")


@pytest.mark.fault(
    "D7", "times to run at: long past, this microsecond, the year 9999", "at once, at once, kept as it is"
)
async def test_a_time_long_past_is_now_and_one_in_the_year_9999_is_kept(service: QueueService) -> None:
    past = await service.enqueue(render, "r", scheduled_at=datetime(1970, 1, 1, tzinfo=UTC))
    now = await service.enqueue(render, "r", scheduled_at=datetime.now(UTC))
    last = datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    far = await service.enqueue(render, "r", scheduled_at=last)
    assert [past.status, now.status, far.status] == ["pending", "pending", "scheduled"]
    assert (await far.refresh()).scheduled_at == last


async def test_a_forked_child_is_told_that_no_service_is_open_there(service: QueueService) -> None:
    assert service.is_open
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    child = context.Process(target=_say_who_enqueues, args=(there,))
    child.start()
    assert here.poll(30)
    assert "no QueueService is open here" in here.recv()
    child.join(30)


def _say_who_enqueues(answer: Any) -> None:
    try:
        answer.send(repr(enqueuer.find_enqueuer()))
    except QueueError as error:
        answer.send(str(error))
