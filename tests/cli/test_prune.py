"""``lq prune``: shows what would go, deletes when it is meant, and says what it did."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from litestar_queues import QueueConfig, QueueService, Status, TaskRequest
from litestar_queues.clock import SystemClock
from litestar_queues.lifecycle import Raised, Succeeded, settle
from litestar_queues.models import ErrorReport
from litestar_queues.nodes import Catalogue
from litestar_queues.store import Want
from support import zoo

HOUR = 3_600_000_000


def lq(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lq", "prune", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=60, check=False)


async def fill(url: str) -> None:
    """End jobs two hours ago: three completed, one of which is kept for ever, and two failed. One waits."""
    ago = SystemClock().now() - 2 * HOUR
    async with QueueService(QueueConfig(queue_backend=url)) as service:
        kept = zoo.good.using(retention="forever", result_retention=60)
        calls = [zoo.good, zoo.good, kept, zoo.fails, zoo.fails]
        await service.enqueue_many([TaskRequest(task, (1,) if task is not zoo.fails else ()) for task in calls])
        claims = await service.store.claim("elsewhere", [Want(5)], now=SystemClock().now())
        failure = Raised(ErrorReport("E", "no"), retryable=False)
        settlements = [settle(job, failure if job.number > 3 else Succeeded("2"), now=ago) for job in claims.jobs[0]]
        await service.store.settle(settlements)
        await service.enqueue(zoo.good, 2)


def statuses(url: str) -> dict[str, int]:
    async def count() -> dict[str, int]:
        async with QueueService(QueueConfig(queue_backend=url)) as service:
            counts = await service.get_statistics()
        return {str(status): there for status in Status if (there := getattr(counts, status))}

    return asyncio.run(count())


@pytest.fixture
def filled(url: str) -> str:
    asyncio.run(fill(url))
    return url


def rows(text: str) -> dict[str, dict[str, str]]:
    head, *lines = [line.split("\t") for line in text.splitlines() if line.count("\t") >= 2]
    return {line[0]: dict(zip(head, line, strict=True)) for line in lines}


def test_without_yes_it_counts_and_touches_nothing(filled: str, tmp_path: Path) -> None:
    before = statuses(filled)
    done = lq("--older-than", "1h", "--url", filled, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert rows(done.stdout)["completed"] == {
        "STATUS": "completed", "KEPT FOR": "1h00m", "WOULD GO": "2", "KEPT LONGER BY TASK": "1",
    }  # fmt: skip
    assert rows(done.stdout)["failed"]["WOULD GO"] == "2"
    assert "1 results of jobs that stay would be dropped" in done.stdout
    assert "nothing was deleted; repeat it with --yes" in done.stdout
    assert statuses(filled) == before


def test_with_yes_it_deletes_what_was_named_and_says_how_many(filled: str, tmp_path: Path) -> None:
    done = lq("--older-than", "1h", "--status", "completed", "--yes", "--url", filled, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(rows(done.stdout)) == ["completed"]
    assert rows(done.stdout)["completed"]["DELETED"] == "2"
    assert "1 results of jobs that stay were dropped" in done.stdout
    assert statuses(filled) == {"pending": 1, "completed": 1, "failed": 2}
    lq("--older-than", "0s", "--even-kept", "--yes", "--url", filled, cwd=tmp_path)
    assert statuses(filled) == {"pending": 1}


def test_without_a_period_it_goes_by_what_the_application_keeps(filled: str, tmp_path: Path) -> None:
    nothing = rows(lq("--url", filled, cwd=tmp_path).stdout)
    assert nothing["completed"]["KEPT FOR"] == "1d00h"
    assert {row["WOULD GO"] for row in nothing.values()} == {"0"}

    async def publish() -> None:
        catalogue = Catalogue(retention={Status.COMPLETED: None, Status.FAILED: HOUR})
        async with QueueService(QueueConfig(queue_backend=filled)) as service:
            await service.store.publish("n", catalogue, now=SystemClock().now())

    asyncio.run(publish())
    done = rows(lq("--yes", "--url", filled, cwd=tmp_path).stdout)
    assert (done["completed"]["KEPT FOR"], done["failed"]["DELETED"]) == ("for ever", "2")
    assert statuses(filled) == {"pending": 1, "completed": 3}


def test_a_program_reads_it_as_json(filled: str, tmp_path: Path) -> None:
    said = json.loads(lq("--older-than", "1h", "--json", "--url", filled, cwd=tmp_path).stdout)
    assert said == {
        "deleted": False,
        "jobs": {"completed": 2, "failed": 2, "cancelled": 0, "expired": 0},
        "kept_longer": {"completed": 1, "failed": 0, "cancelled": 0, "expired": 0},
        "results": 1,
        "kept_seconds": dict.fromkeys(["completed", "failed", "cancelled", "expired"], 3600.0),
    }


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["--older-than", "soon"], 2, "is not a duration; write 30s, 10m, 2h or 1d"),
        (["--status", "running"], 2, "'running' is not one of 'completed', 'failed'"),
        (["--url", "sqlite:///nowhere.db", "--yes"], 4, "nowhere.db"),
    ],
)
def test_what_makes_no_sense_is_refused_and_makes_nothing(
    tmp_path: Path, words: list[str], status: int, says: str
) -> None:
    done = lq(*words, cwd=tmp_path)
    assert (done.returncode, says in done.stderr) == (status, True), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_job_without_its_result_says_so(filled: str, tmp_path: Path) -> None:
    lq("--yes", "--url", filled, cwd=tmp_path)
    command = [sys.executable, "-m", "lq", "inspect", "3", "--url", filled]
    shown = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False)
    assert "dropped: it was kept for as long as the task's result_retention says" in shown.stdout
    shown = subprocess.run([*command, "--json"], capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False)
    assert [json.loads(shown.stdout)[name] for name in ("result", "result_dropped")] == [None, True]
