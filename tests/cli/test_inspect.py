"""``lq inspect``: what it shows, to people and programs, whatever is stored."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pyte
import pytest
from msgspec import structs

from litestar_queues import QueueConfig, QueueService, TaskRequest
from litestar_queues.clock import SystemClock
from litestar_queues.lifecycle import Crashed, Raised, Succeeded, TimedOut, settle
from litestar_queues.models import ErrorReport, Receipt, StoredEvent
from litestar_queues.nodes import Node, WorkerState
from litestar_queues.store import Want
from lq.render.text import ago, duration, printable, size
from support import zoo

HOSTILE = "\x1b]52;c;ZXZpbA==\x07\x1b[2J[/red]\u202egnp.exe\x00\x9b31m"
CLOCK = SystemClock()


def lq(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lq", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=60, check=False)


async def fill(url: str) -> dict[str, int]:
    """Put jobs of every kind into a store, by its contract: no worker is needed."""
    async with QueueService(QueueConfig(queue_backend=url)) as service:
        store = service.store
        done = await service.enqueue(zoo.good, 1)
        failed = await service.enqueue(zoo.fails.using(retries=0, key="k", metadata={"by": "ana"}))
        hostile = await service.enqueue(zoo.recorded, HOSTILE)
        crashed = await service.enqueue(zoo.segfault)
        for result, outcome in [
            (done, Succeeded("2")),
            (failed, TimedOut(ErrorReport("TimeoutError", "ran past its timeout of 1 s"), "File x.py, line 7 in hang")),
            (
                hostile,
                Raised(ErrorReport("ValueError", HOSTILE, f"Traceback\n  {HOSTILE}\nValueError"), retryable=False),
            ),
            (crashed, Crashed("was killed by SIGSEGV", "Fatal Python error")),
        ]:
            want = Want(1, only=result.number)
            [[job]] = (await store.claim("dead-node", [want], now=CLOCK.now())).jobs
            if result is hostile:
                event = StoredEvent(
                    job=job.number, attempt=1, type="task.log", at=CLOCK.now(), level="info", message=HOSTILE
                )
                odd = [
                    {"percent": "fifty"},
                    {"percent": 10**400, "total": True},
                    {"payload": [1]},
                    {"current": None},
                    [1],
                ]
                texts = [*(json.dumps(each) for each in odd), "no JSON", "[" * 100_000]
                progress = [structs.replace(event, type="task.progress", data=text) for text in texts]
                await store.record([event, *progress])
            receipt = Receipt(CLOCK.now() - 1_500_000, CLOCK.now(), "default/1", 4242, 250_000, 64 * 2**20)
            await store.settle([settle(job, outcome, receipt, now=CLOCK.now())])
        waiting = await service.enqueue(zoo.good, 2)
        worker = WorkerState(name="default/1", pid=4242, pool="default", state="running", job=9, task="x", rss=2**20)
        now = CLOCK.now()
        node = Node(id="dead-node", host="here", pid=1, started_at=now, beat_at=now, app="app:app", workers=(worker,))
        await store.beat(node)
        return {
            "done": done.number, "failed": failed.number, "hostile": hostile.number, "crashed": crashed.number,
            "waiting": waiting.number,
        }  # fmt: skip


@pytest.fixture
def filled(url: str) -> dict[str, int]:
    return asyncio.run(fill(url))


def screen(*arguments: str, cwd: Path, columns: int = 80) -> list[str]:
    """Run ``lq`` on a terminal, and return what stands on it."""
    master, slave = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "LINES": "200", "TERM": "xterm-256color"}
    command = [sys.executable, "-m", "lq", *arguments]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, cwd=cwd, env=environment)
    os.close(slave)
    terminal = pyte.Screen(columns, 200)
    stream = pyte.ByteStream(terminal)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            chunk = os.read(master, 65536)
        except OSError:
            break
        if not chunk:
            break
        stream.feed(chunk)
    process.wait(30)
    os.close(master)
    return [line.rstrip() for line in terminal.display]


@pytest.mark.fault("F2", "lq inspect while no master runs", "answers, and says that nobody works")
def test_the_overview_shows_counts_masters_failures_and_that_nobody_works(
    filled: dict[str, int], url: str, tmp_path: Path
) -> None:
    done = lq("inspect", "--url", url, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    head = next(row for row in rows if row[0] == "QUEUE")
    [queue] = [dict(zip(head, row, strict=True)) for row in rows if row[0] == "default"]
    assert (queue["PENDING"], queue["COMPLETED"], queue["FAILED"]) == ("2", "1", "2")
    assert "# Master dead-nod  dead" in done.stdout
    assert "2 jobs wait and no worker is running; start one: lq worker" in done.stdout
    assert f"#{filled['failed']}\tfails" in done.stdout


@pytest.mark.fault("F2", "lq inspect while another program holds the write lock, or all locks", "answers")
def test_the_overview_needs_no_lock(filled: dict[str, int], url: str, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as other:
        for lock in ("IMMEDIATE", "EXCLUSIVE"):
            other.execute(f"BEGIN {lock}")
            other.execute("DELETE FROM lq_job")
            for arguments in ((), (str(filled["done"]),)):
                done = lq("inspect", *arguments, "--url", url, cwd=tmp_path)
                assert (done.returncode, done.stderr) == (0, "")
                assert ("good" if arguments else "default") in done.stdout
            other.execute("ROLLBACK")


def test_the_overview_is_one_json_document_with_stable_names(filled: dict[str, int], url: str, tmp_path: Path) -> None:
    document = json.loads(lq("inspect", "--json", "--url", url, cwd=tmp_path).stdout)
    assert set(document) == {"store", "at", "queues", "nodes", "failures"}
    [queue] = document["queues"]
    assert set(queue) == {
        "queue", "scheduled", "pending", "running", "completed", "failed", "cancelled", "expired", "oldest_waiting_seconds",
    }  # fmt: skip
    [node] = document["nodes"]
    assert (node["alive"], node["workers"][0]["job"]) == (False, 9)
    assert document["at"].endswith("Z")


def test_a_jobs_page_shows_what_it_was_and_what_became_of_it(filled: dict[str, int], url: str, tmp_path: Path) -> None:
    page = lq("inspect", f"#{filled['failed']}", "--url", url, cwd=tmp_path).stdout
    for words in [
        "fails",
        "failed",
        "key\tk",
        '"by":"ana"',
        "timed out",
        "line 7 in hang",
        "250ms",
        "64.0 MiB",
        "default/1",
    ]:
        assert words in page, f"{words!r} is not in:\n{page}"
    crashed = lq("inspect", str(filled["crashed"]), "--url", url, cwd=tmp_path).stdout
    assert "was killed by SIGSEGV" in crashed
    assert "Fatal Python error" in crashed


def test_a_job_is_found_by_number_id_and_ending_and_by_nothing_less(
    filled: dict[str, int], url: str, tmp_path: Path
) -> None:
    document = json.loads(lq("inspect", str(filled["done"]), "--json", "--url", url, cwd=tmp_path).stdout)
    assert (document["args"], document["result"], document["status"]) == ([1], 2, "completed")
    for reference in (document["id"], document["id"][-8:], document["id"].upper()):
        again = json.loads(lq("inspect", reference, "--json", "--url", url, cwd=tmp_path).stdout)
        assert again["number"] == filled["done"]
    for reference in ("999999", "abc", "zzzzzz", "00000000-0000-0000-0000-000000000000", "²", "٣"):
        missing = lq("inspect", reference, "--url", url, cwd=tmp_path)
        assert missing.returncode == 5
        assert missing.stderr.startswith("error: ")
        assert missing.stderr.count("\n") == 1


def test_an_ending_of_digits_alone_is_an_ending_when_no_job_has_that_number(url: str, tmp_path: Path) -> None:
    async def enqueue_until_found() -> tuple[int, str]:
        async with QueueService(QueueConfig(queue_backend=url)) as service:
            results = await service.enqueue_many([TaskRequest(zoo.good, (1,))] * 500)
        ids = {str(result.id)[-6:]: result.number for result in results}
        return next((number, ending) for ending, number in ids.items() if ending.isdigit() and int(ending) > 500)

    number, ending = asyncio.run(enqueue_until_found())
    assert json.loads(lq("inspect", ending, "--json", "--url", url, cwd=tmp_path).stdout)["number"] == number


def test_odd_progress_is_shown_with_what_it_holds(filled: dict[str, int], url: str, tmp_path: Path) -> None:
    page = json.loads(lq("inspect", str(filled["hostile"]), "--json", "--url", url, cwd=tmp_path).stdout)
    events = [event for event in page["events"] if event["type"] == "task.progress"]
    assert {tuple(event["progress"].values()) for event in events} == {(None, None, None)}
    payloads = [event["payload"] for event in events]
    assert payloads[0] == {"percent": "fifty"}
    assert payloads[2] == {"payload": [1]}
    assert payloads[3] is None
    assert payloads[4:6] == [{"unreadable": "[1]"}, {"unreadable": "no JSON"}]


def dangerous(text: str) -> list[str]:
    return [character for character in text if character in "\x00\x07\x1b\x9b\u202e"]


@pytest.mark.parametrize("how", [(), ("--json",)])
@pytest.mark.fault("F1", "the same in a pipe", "shown harmless")
def test_what_is_stored_is_made_harmless_in_a_pipe(
    filled: dict[str, int], url: str, tmp_path: Path, how: tuple[str, ...]
) -> None:
    for target in ([str(filled["hostile"])], []):
        done = lq("inspect", *target, *how, "--url", url, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert dangerous(done.stdout) == []
        assert "[/red]" in done.stdout


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.fault("F1", "escapes, OSC 52, bidi and markup in stored text, on a terminal", "shown harmless")
def test_what_is_stored_is_made_harmless_on_a_terminal(
    filled: dict[str, int], url: str, tmp_path: Path, columns: int
) -> None:
    shown = "\n".join(screen("inspect", str(filled["hostile"]), "--url", url, cwd=tmp_path, columns=columns))
    assert "\\x1b]52" in shown.replace("\n", "")
    assert "[/red]" in shown
    assert "Traceback (most recent" not in shown
    overview = "\n".join(screen("inspect", "--url", url, cwd=tmp_path, columns=columns))
    assert f"#{filled['hostile']}" in overview
    assert "no worker is running" in overview


@pytest.mark.fault("F3", "the reader of the output goes away", "no traceback")
def test_a_reader_that_goes_away_is_no_error(filled: dict[str, int], url: str, tmp_path: Path) -> None:
    shell = f'"{sys.executable}" -m lq inspect {filled["hostile"]} --url "{url}" | head -1; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False)
    assert done.stderr == ""
    assert done.stdout.startswith("#")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0004, "0.4ms"),
        (0.412, "412ms"),
        (1.25, "1.2s"),
        (64, "1m04s"),
        (7500, "2h05m"),
        (273600, "3d04h"),
        (59.99, "1m00s"),
    ],
)
def test_durations_are_read_at_a_glance(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_ages_sizes_and_odd_characters() -> None:
    assert [ago(each) for each in (0.2, 12, 250, 7300, 200_000)] == ["now", "12s ago", "4m ago", "2h ago", "2d ago"]
    assert [size(each) for each in (None, 10, 2048, 64 * 2**20, 3 * 2**40)] == [
        "-",
        "10 B",
        "2.0 KiB",
        "64.0 MiB",
        "3072.0 GiB",
    ]
    assert printable("a\nb\tc") == "a\\nb\\tc"
    assert printable("a\nb\tc", lines=True) == "a\nb\tc"
    assert printable("zażółć 日本 ✓") == "zażółć 日本 ✓"
    assert printable("\ud800") == "\\ud800"
