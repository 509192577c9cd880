"""What background enqueues promise when things go wrong, and where the plugin's context reaches."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from litestar import Litestar, Response, get, post, websocket
from litestar.background_tasks import BackgroundTask, BackgroundTasks
from litestar.di import NamedDependency, Provide
from litestar.testing import AsyncTestClient, TestClient

from litestar_queues import (
    Query,
    QueueConfig,
    QueuedBackgroundTask,
    QueueError,
    QueuePlugin,
    Secret,
    StoreError,
    Task,
    background,
    task,
)
from litestar_queues.enqueuer import current_enqueuer
from litestar_queues.models import Added, NewJob
from litestar_queues.registry import tasks

if TYPE_CHECKING:
    from litestar import WebSocket
    from litestar.types import ASGIApp, Receive, Scope, Send

    from litestar_queues import QueueService

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    with tasks.isolated():
        yield


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sum(background.PAUSES) == 1.0
    monkeypatch.setattr(background, "PAUSES", (0.0, 0.0))


@pytest.fixture
def plugin(url: str) -> QueuePlugin:
    return QueuePlugin(QueueConfig(queue_backend=url, durability="process"))


def work() -> Task[[int], int]:
    @task("work")
    async def function(number: int) -> int:
        return number

    return function


async def arguments(service: QueueService) -> list[Any]:
    return [record.args for record in await service.list_tasks(Query(task="work"))]


def refuse(service: QueueService, monkeypatch: pytest.MonkeyPatch, *, times: int, after_commit: bool) -> None:
    """Let the store refuse to add so many times, before it stores or (an unclear commit) after."""
    store = service.store
    add, left = store.add, [times]

    async def refusing(jobs: Sequence[NewJob]) -> list[Added]:
        left[0] -= 1
        if left[0] < 0:
            return await add(jobs)
        if after_commit:
            await add(jobs)
        raise StoreError("the disk hiccups")

    monkeypatch.setattr(store, "add", refusing)


@pytest.mark.parametrize("after_commit", [False, True])
async def test_a_store_that_refuses_for_a_moment_loses_and_doubles_no_job(
    plugin: QueuePlugin, monkeypatch: pytest.MonkeyPatch, after_commit: bool
) -> None:
    async with plugin.service as service:
        enqueue = QueuedBackgroundTask(work(), 42)
        refuse(service, monkeypatch, times=2, after_commit=after_commit)
        await enqueue()

        assert await arguments(service) == [[42]]


async def test_a_job_that_cannot_be_saved_is_logged_with_its_arguments_and_raised(
    plugin: QueuePlugin, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with plugin.service as service:
        enqueue = QueuedBackgroundTask(work(), number=42)
        refuse(service, monkeypatch, times=3, after_commit=False)
        with caplog.at_level(logging.ERROR, "litestar_queues"), pytest.raises(StoreError, match="hiccups"):
            await enqueue()

        [logged] = caplog.records
        assert logged.levelno == logging.ERROR
        assert "work was not enqueued after the response: args [], kwargs {'number': 42}, id " in logged.getMessage()
        assert await arguments(service) == []


@pytest.mark.parametrize("by_name", [False, True])
async def test_no_secret_is_logged_with_them(
    plugin: QueuePlugin, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, by_name: bool
) -> None:
    @task("pay")
    async def pay(amount: int, card: Secret[str]) -> None: ...

    async with plugin.service as service:
        if by_name:  # and the store, which knows what is secret, cannot be asked
            monkeypatch.setattr(service, "prepare", failing)
        enqueue = QueuedBackgroundTask("pay" if by_name else pay, 5, card="4111-1111")
        refuse(service, monkeypatch, times=3, after_commit=False)
        with caplog.at_level(logging.ERROR, "litestar_queues"), pytest.raises(StoreError):
            await enqueue()
    assert "4111" not in caplog.text
    assert (
        "1 positional arguments, keywords ['card']" if by_name else "args [5], kwargs {'card': '[redacted]'}"
    ) in caplog.text


async def failing(*_: Any) -> None:
    raise StoreError("the disk hiccups")


async def test_arguments_that_do_not_fit_fail_while_the_client_can_be_told(plugin: QueuePlugin) -> None:
    function = work()

    @post("/")
    async def handler() -> Response[str]:
        return Response("queued", background=QueuedBackgroundTask(function))

    async with AsyncTestClient(Litestar([handler], plugins=[plugin])) as client:
        assert (await client.post("/")).status_code == 500


async def test_a_parameter_named_service_is_the_tasks(plugin: QueuePlugin) -> None:
    @task("work")
    async def function(service: str, task: str = "") -> None: ...

    async with plugin.service as service:
        await QueuedBackgroundTask(function, service="billing", task="t")()  # type: ignore[arg-type]  # the task's own
        [record] = await service.list_tasks()

        assert record.kwargs == {"service": "billing", "task": "t"}


async def test_options_of_the_job_can_be_given(plugin: QueuePlugin) -> None:
    async with plugin.service as service:
        await QueuedBackgroundTask(work(), 1, queue="later", run_after=60, key="k", service=service)()
        [record] = await service.list_tasks()

        assert (record.queue, record.status, record.key) == ("later", "scheduled", "k")


async def test_outside_an_app_two_open_services_are_not_guessed_between(plugin: QueuePlugin, tmp_path: Path) -> None:
    other = QueuePlugin(QueueConfig(queue_backend=f"sqlite:///{tmp_path}/other.db", durability="process"))
    async with plugin.service, other.service:
        with pytest.raises(QueueError, match="2 services"):
            QueuedBackgroundTask(work(), 1)
        await QueuedBackgroundTask(work(), 1, service=other.service)()

        assert (await arguments(plugin.service), await arguments(other.service)) == ([], [[1]])


@pytest.mark.parametrize("in_group", [False, True])
async def test_two_apps_whose_background_tasks_run_at_once_do_not_mix(tmp_path: Path, in_group: bool) -> None:
    function = work()

    def make(number: int) -> tuple[Litestar, QueueService]:
        @post("/")
        async def handler() -> Response[str]:
            both = [BackgroundTask(function.enqueue, number), QueuedBackgroundTask(function, number)]
            return Response("queued", background=BackgroundTasks(both, run_in_task_group=in_group))

        own = QueuePlugin(QueueConfig(queue_backend=f"sqlite:///{tmp_path}/{number}.db", durability="process"))
        return Litestar([handler], plugins=[own]), own.service

    (one, first), (two, second) = make(1), make(2)
    async with AsyncTestClient(one) as one_client, AsyncTestClient(two) as two_client:
        for client in (one_client, two_client):
            assert (await client.post("/")).status_code == 201
        assert await arguments(first) == [[1], [1]]
        assert await arguments(second) == [[2], [2]]


async def test_every_other_middleware_dependency_and_websocket_has_the_context(plugin: QueuePlugin) -> None:
    seen: dict[str, object] = {}

    def middleware(app: ASGIApp) -> ASGIApp:
        async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
            seen["middleware"] = current_enqueuer.get()
            await app(scope, receive, send)

        return wrapped

    async def provide(queue_service: NamedDependency[QueueService]) -> bool:
        return queue_service is current_enqueuer.get()

    @get("/", dependencies={"is_same": Provide(provide)})
    async def handler(is_same: NamedDependency[bool]) -> bool:
        return is_same

    @websocket("/ws")
    async def socket(socket: WebSocket) -> None:  # type: ignore[type-arg]  # any state will do
        await socket.accept()
        seen["websocket"] = current_enqueuer.get()
        await socket.close()

    import litestar

    names = {"WebSocket": litestar.WebSocket}
    app = Litestar([handler, socket], plugins=[plugin], middleware=[middleware], signature_namespace=names)
    with TestClient(app) as client:
        assert client.get("/").json() is True
        with client.websocket_connect("/ws"):
            pass
    assert seen == {"middleware": plugin.service, "websocket": plugin.service}
    assert current_enqueuer.get() is None


async def test_the_apps_own_lifespan_can_use_the_queues(plugin: QueuePlugin) -> None:
    function, stored = work(), []

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        await plugin.service.enqueue(function, 1)
        yield
        await plugin.service.enqueue(function, 2)
        stored.extend(await arguments(plugin.service))

    async with AsyncTestClient(Litestar(lifespan=[lifespan], plugins=[plugin])):
        pass

    assert stored == [[2], [1]]
    assert not plugin.service.is_open


async def test_a_service_that_a_test_has_opened_stays_open(plugin: QueuePlugin) -> None:
    async with plugin.service as service:
        async with AsyncTestClient(Litestar(plugins=[plugin])):
            assert plugin.service.is_open
        assert await arguments(service) == []


async def test_an_app_in_its_tests_can_run_its_jobs_at_once(url: str) -> None:
    function = work()
    config = QueueConfig(queue_backend=url, execution_backend="immediate", durability="process")

    @post("/", sync_to_thread=True)
    def handler() -> Response[str]:
        return Response("queued", background=QueuedBackgroundTask(function, 1))

    @get("/result")
    async def results(queue_service: NamedDependency[QueueService]) -> list[Any]:
        return [(await queue_service.get_result(1)).result]

    async with AsyncTestClient(Litestar([handler, results], plugins=[QueuePlugin(config)])) as client:
        assert (await client.post("/")).status_code == 201
        assert (await client.get("/result")).json() == [1]
