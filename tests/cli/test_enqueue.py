"""``lq enqueue``: words of a command line become a call, checked before anything is stored."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from litestar_queues import QueueConfig, QueueService, Secret, task
from litestar_queues.nodes import Catalogue
from litestar_queues.registry import tasks
from litestar_queues.request import entry_of
from lq.enqueue import parse_arguments
from support.masters import RunningMaster


def entry() -> Any:
    with tasks.isolated():

        @task("reports.render")
        def render(
            report_id: str,
            pages: int = 1,
            deep: bool = False,
            *,
            when: date | None = None,
            extra: dict[str, int] = {},  # noqa: B006
        ) -> None:
            return None

        return entry_of(render)


def publish(url: str) -> None:
    async def run() -> None:
        async with QueueService(QueueConfig(queue_backend=url)) as service:
            await service.store.publish("node", Catalogue(tasks=(entry(),)), now=1)

    asyncio.run(run())


def lq(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lq", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=60, check=False)


def test_a_secret_of_the_wrong_type_is_not_quoted() -> None:
    with tasks.isolated():

        @task("pay")
        def pay(pin: Secret[int]) -> None: ...

        known = entry_of(pay)
    with pytest.raises(TypeError, match=r"pin expected integer, got \[redacted\]"):
        parse_arguments(known, ("4321x",))


@pytest.mark.parametrize(
    ("words", "args", "kwargs"),
    [
        (("r1",), ("r1",), {}),
        (("12",), ("12",), {}),
        (("a=b",), ("a=b",), {}),
        (("r1", "3", "true"), ("r1", 3, True), {}),
        (("r1", "deep=true", "pages=2"), ("r1",), {"deep": True, "pages": 2}),
        (("report_id=r=1",), (), {"report_id": "r=1"}),
        (("r1", "when=2026-01-02"), ("r1",), {"when": "2026-01-02"}),
        (("r1", 'extra={"a":1}'), ("r1",), {"extra": {"a": 1}}),
    ],
)
def test_words_are_read_as_the_parameters_ask(words: Any, args: Any, kwargs: Any) -> None:
    assert parse_arguments(entry(), words) == (args, kwargs)


@pytest.mark.parametrize("words", [("r1", "three"), ("r1", "1.5"), ("r1", "1", "yes"), ("r1", "extra=[1]")])
def test_a_word_of_the_wrong_type_is_refused_with_the_signature(words: tuple[str, ...]) -> None:
    with pytest.raises(TypeError, match=r"^reports\.render\(report_id: str, pages: int = …"):
        parse_arguments(entry(), words)


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (("report.render", "x"), 5, "did you mean 'reports.render'?"),
        (("reports.render",), 2, "missing a required argument: 'report_id'"),
        (("reports.render", "a", "1", "true", "more"), 2, "too many positional arguments"),
        (("reports.render", "a", "many"), 2, "pages expected integer, got 'many'"),
        (("reports.render", "a", "--in", "soon"), 2, "is not a duration"),
        (("reports.render", "a", "--queue", "a b"), 4, "use letters, digits"),
        (("reports.render", "a", "--retries", "-1"), 2, "retries"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence_and_stores_nothing(
    url: str, tmp_path: Path, words: tuple[str, ...], status: int, says: str
) -> None:
    publish(url)
    done = lq("enqueue", *words, "--url", url, cwd=tmp_path)
    assert done.returncode == status, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    [queues] = [json.loads(lq("inspect", "--json", "--url", url, cwd=tmp_path).stdout)["queues"]]
    assert queues == []


def test_a_store_that_no_worker_has_served_says_so(url: str, tmp_path: Path) -> None:
    asyncio.run(_open_once(url))
    done = lq("enqueue", "anything", "--url", url, cwd=tmp_path)
    assert done.returncode == 4
    assert "no worker has published its tasks" in done.stderr


async def _open_once(url: str) -> None:
    async with QueueService(QueueConfig(queue_backend=url)):
        return


def test_options_and_defaults_reach_the_job(url: str, tmp_path: Path) -> None:
    publish(url)
    words = (
        "reports.render",
        "r1",
        "deep=true",
        "-q",
        "slow",
        "-p",
        "7",
        "--in",
        "10m",
        "--key",
        "k",
        "--timeout",
        "2m",
    )
    made = json.loads(lq("enqueue", *words, "--json", "--url", url, cwd=tmp_path).stdout)
    assert (made["status"], made["queue"], made["deduplicated"]) == ("scheduled", "slow", False)
    page = json.loads(lq("inspect", str(made["number"]), "--json", "--url", url, cwd=tmp_path).stdout)
    assert (page["priority"], page["key"], page["timeout_seconds"]) == (7, "k", 120)
    assert (page["args"], page["kwargs"]) == (["r1"], {"deep": True})
    again = json.loads(lq("enqueue", *words, "--json", "--url", url, cwd=tmp_path).stdout)
    assert (again["number"], again["deduplicated"]) == (made["number"], True)


def test_waiting_tells_the_end_by_its_exit_status(
    url: str, tmp_path: Path, start_master: Callable[..., RunningMaster]
) -> None:
    start_master("--concurrency", "1").until_serving()
    done = lq("enqueue", "good", "41", "--wait", "--url", url, cwd=tmp_path)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "#1 completed 42")
    failed = lq("enqueue", "not_again", "--wait", "--url", url, cwd=tmp_path)
    assert failed.returncode == 3
    assert "NonRetryableError: no use" in failed.stdout
    late = lq("enqueue", "good", "1", "--in", "1h", "--wait-timeout", "0.1", "--url", url, cwd=tmp_path)
    assert late.returncode == 124
    assert "still scheduled after 0.1 s" in late.stderr
