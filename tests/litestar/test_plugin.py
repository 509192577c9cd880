"""The queues in a Litestar app: dependency, background tasks, lifespan, clear errors; without warnings."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from litestar import Litestar, Request, Response, get, post
from litestar.background_tasks import BackgroundTask, BackgroundTasks
from litestar.di import NamedDependency
from litestar.exceptions import ImproperlyConfiguredException
from litestar.testing import AsyncTestClient, TestClient

from litestar_queues import Query, QueueConfig, QueuedBackgroundTask, QueueError, QueuePlugin, QueueService, task
from litestar_queues.registry import tasks
from support.masters import RunningMaster
from support.waiting import wait_until


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    with tasks.isolated():
        yield


@pytest.fixture
def plugin(url: str) -> QueuePlugin:
    return QueuePlugin(QueueConfig(queue_backend=url))


def work() -> object:
    @task("work")
    async def function(number: int) -> int:
        return number

    return function


def numbers(url: str) -> list[int]:
    """Return the arguments of the jobs that are stored, in order."""
    import asyncio

    async def read() -> list[int]:
        async with QueueService(QueueConfig(queue_backend=url)) as service:
            return sorted(record.args[0] for record in await service.list_tasks(Query(task="work")))

    return asyncio.run(read())


def test_a_handler_gets_the_service_by_name_and_the_state_has_it(plugin: QueuePlugin, url: str) -> None:
    function = work()

    @get("/")
    async def handler(request: Request, queue_service: NamedDependency[QueueService]) -> bool:  # type: ignore[type-arg]
        await queue_service.enqueue(function, 1)  # type: ignore[call-overload]
        return request.app.state.queue_service is queue_service

    with TestClient(Litestar([handler], plugins=[plugin])) as client:
        assert client.get("/").json() is True
        assert "queue_service" not in str(client.get("/schema/openapi.json").json().get("paths"))
    assert numbers(url) == [1]


@pytest.mark.parametrize("form", ["native", "helper", "with service", "several", "by name"])
@pytest.mark.parametrize("colour", ["async", "sync"])
def test_background_tasks_enqueue_after_the_response(plugin: QueuePlugin, url: str, form: str, colour: str) -> None:
    function = work()

    def background(service: QueueService) -> BackgroundTask | BackgroundTasks:
        forms = {
            "native": lambda: BackgroundTask(function.enqueue, 1),  # type: ignore[attr-defined]
            "helper": lambda: QueuedBackgroundTask(function, 1, priority=3),  # type: ignore[arg-type]
            "with service": lambda: QueuedBackgroundTask(function, 1, service=service),  # type: ignore[arg-type]
            "several": lambda: BackgroundTasks([QueuedBackgroundTask(function, 1), QueuedBackgroundTask(function, 2)]),  # type: ignore[arg-type]
            "by name": lambda: QueuedBackgroundTask("work", 1),
        }
        return forms[form]()

    @post("/async")
    async def in_loop(queue_service: NamedDependency[QueueService]) -> Response[str]:
        return Response("queued", background=background(queue_service))

    @post("/sync", sync_to_thread=True)
    def in_thread(queue_service: NamedDependency[QueueService]) -> Response[str]:
        return Response("queued", background=background(queue_service))

    with TestClient(Litestar([in_loop, in_thread], plugins=[plugin])) as client:
        assert client.post(f"/{colour}").status_code == 201
    assert numbers(url) == ([1, 2] if form == "several" else [1])


def test_without_a_plugin_the_helper_says_what_is_missing() -> None:
    with pytest.raises(QueueError, match="register QueuePlugin on the app"):
        QueuedBackgroundTask(work(), 1)  # type: ignore[arg-type]


def test_two_queue_plugins_on_one_app_are_refused(plugin: QueuePlugin) -> None:
    with pytest.raises(ImproperlyConfiguredException, match="queue_service"):
        Litestar(plugins=[plugin, QueuePlugin(plugin.config)])


@pytest.mark.anyio
async def test_two_apps_in_one_process_do_not_mix(tmp_path: Path) -> None:
    function = work()

    def make(name: str) -> tuple[Litestar, str]:
        url = f"sqlite:///{tmp_path / name}.db"

        @post("/")
        async def handler() -> Response[str]:
            return Response("queued", background=QueuedBackgroundTask(function, int(name)))  # type: ignore[arg-type]

        return Litestar([handler], plugins=[QueuePlugin(QueueConfig(queue_backend=url))]), url

    (one, one_url), (two, two_url) = make("1"), make("2")
    async with AsyncTestClient(one) as first, AsyncTestClient(two) as second:
        for client in (first, second, second):
            assert (await client.post("/")).status_code == 201
    for url, expected in ((one_url, [1]), (two_url, [2, 2])):
        async with QueueService(QueueConfig(queue_backend=url)) as service:
            assert [record.args[0] for record in await service.list_tasks(Query(task="work"))] == expected


@pytest.mark.anyio
async def test_of_two_apps_with_one_plugin_the_last_to_end_closes_the_service(plugin: QueuePlugin) -> None:
    function = work()

    @post("/")
    async def handler(queue_service: NamedDependency[QueueService]) -> str:
        return str((await queue_service.enqueue(function, 1)).id)

    one, two = Litestar([handler], plugins=[plugin]), Litestar([handler], plugins=[plugin])
    async with AsyncTestClient(two) as second:
        async with AsyncTestClient(one):
            pass
        assert (await second.post("/")).status_code == 201
    assert not plugin.service.is_open
    async with AsyncTestClient(one) as first:
        assert (await first.post("/")).status_code == 201


def test_nothing_is_opened_before_the_lifespan_and_nothing_stays_open_after_it(plugin: QueuePlugin, url: str) -> None:
    path = Path(url.removeprefix("sqlite:///"))
    app = Litestar(plugins=[plugin])
    assert not path.exists()
    for _ in range(2):
        with TestClient(app):
            assert path.exists()
        with pytest.raises(QueueError, match="not open"):
            _ = plugin.service.store


APP = """
from litestar import Litestar, post
from litestar.di import NamedDependency
from litestar_queues import QueueConfig, QueuePlugin, QueueService, task

@task("web.double")
def double(number: int) -> int:
    return 2 * number

@post("/{number:int}")
async def start(queue_service: NamedDependency[QueueService], number: int) -> int:
    return await (await queue_service.enqueue(double, number)).get(30)

app = Litestar([start], plugins=[QueuePlugin(QueueConfig(queue_backend=URL))])
"""


def test_an_app_under_litestar_run_and_a_worker_beside_it_meet_in_the_store(tmp_path: Path, url: str) -> None:
    (tmp_path / "app.py").write_text(APP.replace("URL", repr(url)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "litestar", "--app", "app:app", "run", "--port", str(port)]
    log = (tmp_path / "web.log").open("wb")
    web = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True)
    try:
        with RunningMaster(tmp_path, "--concurrency", "1") as master:  # the app is found in app.py
            master.until_serving()
            said = lambda: (tmp_path / "web.log").read_text()  # noqa: E731
            wait_until(lambda: re.search(r"Uvicorn running", said()), "the app serves")
            request = urllib.request.Request(f"http://127.0.0.1:{port}/21", method="POST")
            with urllib.request.urlopen(request, timeout=30) as answer:
                assert answer.read() == b"42"
    finally:
        os.killpg(web.pid, signal.SIGTERM)
        web.wait(20)
        log.close()


def test_the_census_example_starts_and_reports(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITESTAR_QUEUES_URL", url)
    import importlib.util

    from tests_root import ROOT

    spec = importlib.util.spec_from_file_location("census_app", ROOT / "examples" / "census" / "app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "census_app", module)
    spec.loader.exec_module(module)
    with TestClient(module.app) as client:
        started = client.post("/census").json()
        assert started["new"] == len(started["jobs"]) > 20
        assert client.post("/census").json()["new"] == 0
        assert client.get("/census").json()["waiting"] == len(started["jobs"])
