"""Tasks are found by name and services by where one is; both say what to do when they are not."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import litestar_queues
from litestar_queues import (
    QueueError,
    UnknownTaskError,
    enqueuer,
    task,
)
from litestar_queues.exceptions import TaskDefinitionError
from litestar_queues.registry import tasks
from litestar_queues.request import split_options


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    with tasks.isolated():
        yield


def test_two_functions_under_one_name_are_an_error_and_the_same_one_again_is_not() -> None:
    def make() -> Any:
        @task("same")
        def one() -> None:
            return None

        return one

    make()
    make()
    with pytest.raises(TaskDefinitionError, match="two functions are named 'same'"):

        @task("same")
        def other() -> None:
            return None


def decorated(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def made_in(path: str, body: str = "") -> None:
    source = f"@task('same')\n@decorated\ndef run(): return 1{body}"
    exec(compile(source, path, "exec"), {"__name__": path, "task": task, "decorated": decorated})


def test_two_functions_under_one_name_are_told_apart_behind_the_same_decorator() -> None:
    made_in("/one.py")
    with pytest.raises(TaskDefinitionError, match="two functions are named 'same': /one.py.run and /two.py.run"):
        made_in("/two.py")


def test_a_file_and_a_link_to_it_are_the_same_file(tmp_path: Path) -> None:
    (tmp_path / "app.py").touch()
    (tmp_path / "link.py").symlink_to(tmp_path / "app.py")
    made_in(str(tmp_path / "app.py"))
    made_in(str(tmp_path / "link.py"))
    assert tasks.names() == ["same"]


def test_an_unknown_name_says_which_is_near() -> None:
    @task("reports.render")
    def made() -> None:
        return None

    with pytest.raises(UnknownTaskError, match=r"did you mean 'reports\.render'\?"):
        tasks.get("report.render")


class Recorder:
    """An enqueuer that keeps what it was given."""

    async def enqueue_call(self, *call: Any) -> Any:
        return call


def test_task_enqueue_gives_every_keyword_to_the_task() -> None:
    @task("t")
    def made(queue: str, **more: int) -> None:
        return None

    configured = made.using(queue="slow")
    service = Recorder()
    token = enqueuer.current_enqueuer.set(service)
    try:
        call: Any = asyncio.run(configured.enqueue("q", priority=3))
    finally:
        enqueuer.current_enqueuer.reset(token)
    assert call == (configured, ("q",), {"priority": 3}, {})
    assert split_options(made, {"queue": "q", "priority": 3}) == ({"priority": 3}, {"queue": "q"})


def test_the_service_is_the_contexts_then_the_workers_then_the_only_one_open() -> None:
    first, second, worker, request = Recorder(), Recorder(), Recorder(), Recorder()
    enqueuer.opened(first)
    try:
        assert enqueuer.find_enqueuer() is first
        enqueuer.opened(second)
        with pytest.raises(QueueError, match="2 services are open here .*pass service="):
            enqueuer.find_enqueuer()
        enqueuer.set_process_enqueuer(worker)
        assert enqueuer.find_enqueuer() is worker
        token = enqueuer.current_enqueuer.set(request)
        assert enqueuer.find_enqueuer() is request
        enqueuer.current_enqueuer.reset(token)
    finally:
        enqueuer.set_process_enqueuer(None)
        enqueuer.closed(first)
        enqueuer.closed(second)


def test_without_a_service_enqueue_says_what_to_do() -> None:
    @task
    def made() -> None:
        return None

    with pytest.raises(QueueError, match="add QueuePlugin to the app"):
        asyncio.run(made.enqueue())


def test_the_package_tells_its_names_once() -> None:
    names = dir(litestar_queues)
    assert len(names) == len(set(names))
    assert {*litestar_queues.__all__, "__version__"} <= set(names)
    assert litestar_queues.__version__
    with pytest.raises(AttributeError, match="has no attribute 'tsk'"):
        litestar_queues.tsk  # type: ignore[attr-defined]  # noqa: B018  # that is the point
