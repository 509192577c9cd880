"""What jobs cost in numbers that are the same on every machine: a regression shows, whatever else runs.

The bounds are about half as much again as what was counted when they were written.
"""

import asyncio
import errno
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

from litestar_queues import QueueConfig, QueueService, TaskRequest, task
from litestar_queues.exceptions import StoreCorrupt
from litestar_queues.lifecycle import Succeeded
from litestar_queues.request import build_job
from litestar_queues.store import Store, Want, open_store
from litestar_queues.store.opening import Durability
from litestar_queues.store.sqlite import files, writer
from store.making import NOW, claim, new_job, new_jobs, node, settlement

pytestmark = pytest.mark.anyio
PAGE = 4096 + 24
"""A page in the write-ahead log, with its header; the log has one of 32 bytes."""


@task("costs.add")
def add(number: int) -> int:
    return number + 1


class Counted:
    """What the process's writer has done so far."""

    def __init__(self, path: Path) -> None:
        self._log = Path(f"{path}-wal")
        self.statements = 0
        self.commits = 0
        self.hops = 0

    def trace(self, statement: str) -> None:
        self.statements += 1
        self.commits += statement == "COMMIT"

    @property
    def pages(self) -> int:
        return max(self._log.stat().st_size - 32, 0) // PAGE


class Since:
    """What has been done since this was made."""

    def __init__(self, counted: Counted) -> None:
        self._counted = counted
        self._before = (counted.statements, counted.commits, counted.hops, counted.pages)

    def __call__(self) -> tuple[int, int, int, int]:
        """Return statements, commits, wake-ups of event loops, and pages written."""
        counted = self._counted
        now = (counted.statements, counted.commits, counted.hops, counted.pages)
        return tuple(after - before for after, before in zip(now, self._before, strict=True))  # type: ignore[return-value]  # four of them


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counted:
    """Count what every writer does that is opened from now on."""
    found = Counted(tmp_path / "queues.db")
    connect, resolve = writer.connect, writer.resolve

    def traced(location: writer.Location) -> sqlite3.Connection:
        connection = connect(location)
        connection.execute("PRAGMA wal_autocheckpoint = 0")  # what is counted in the log is to stay there
        connection.set_trace_callback(found.trace)
        return connection

    def resolving(group: list[writer.Operation]) -> None:
        found.hops += len({operation.loop for operation in group})
        resolve(group)

    monkeypatch.setattr(writer, "connect", traced)
    monkeypatch.setattr(writer, "resolve", resolving)
    return found


@contextmanager
def calls_counted() -> Iterator[Callable[[], int]]:
    """Count the calls of Python functions in this thread."""
    calls = 0

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(profile)
    try:
        yield lambda: calls
    finally:
        sys.setprofile(None)


@pytest.fixture
async def store(counted: Counted, tmp_path: Path) -> object:
    async with await open_store(f"sqlite:///{tmp_path}/queues.db") as opened:
        yield opened


async def test_one_job_is_one_commit_of_few_statements_and_pages(store: Store, counted: Counted) -> None:
    await store.add([new_job()])
    since = Since(counted)
    for _ in range(10):
        await store.add([new_job()])
    statements, commits, hops, pages = since()
    assert (commits, hops) == (10, 10)
    assert statements <= 10 * 6  # 5: begin, stamp, insert, count, commit
    assert pages <= 10 * 9  # 6: the job, its id, its place in the queue, two sequences, the count


async def test_callers_that_wait_together_share_commits_and_wake_ups(
    store: Store, counted: Counted, tmp_path: Path
) -> None:
    async with QueueService(QueueConfig(queue_backend=store.url)) as service:

        async def caller() -> None:
            for number in range(20):
                await service.enqueue(add, number)

        since = Since(counted)
        await asyncio.gather(*(caller() for _ in range(100)))
    _, commits, hops, _ = since()
    assert hops == commits
    assert commits <= 2000 / 10  # 22: nearly as few as there are calls one after the other


async def test_a_thousand_jobs_in_bulk_are_few_statements_and_one_commit(store: Store, counted: Counted) -> None:
    async with QueueService(QueueConfig(queue_backend=store.url)) as service:
        requests = [TaskRequest(add, (number,)) for number in range(1000)]
        since = Since(counted)
        await service.enqueue_many(requests)
    statements, commits, hops, pages = since()
    assert (commits, hops) == (1, 1)
    assert statements <= 40  # 23: 64 rows a statement
    assert pages <= 110  # 71


async def test_a_round_of_a_master_is_one_commit_whose_statements_do_not_grow_with_its_jobs(
    store: Store, counted: Counted
) -> None:
    await store.add(new_jobs(640))
    jobs = await claim(store, 64)
    counts = []
    for _ in range(3):
        since = Since(counted)
        settled, claims = await asyncio.gather(
            store.settle([settlement(job) for job in jobs]), store.claim("node", [Want(64)], now=NOW)
        )
        assert set(settled) == {"settled"}
        jobs = list(claims.jobs[0])
        assert len(jobs) == 64
        counts.append(since())
    for statements, commits, hops, pages in counts:
        assert (commits, hops) == (1, 1)
        assert statements <= 18  # 13
        assert pages <= 32  # 21, for 128 changes of rows


async def test_large_arguments_and_results_are_written_once(store: Store, counted: Counted) -> None:
    await store.add([new_job(payload='{"args":["' + "x" * 100_000 + '"],"kwargs":{}}')])  # 25 pages
    since = Since(counted)
    [job] = await claim(store)
    *_, claiming = since()
    assert len(job.payload) > 100_000
    await store.settle([settlement(job, Succeeded('"' + "x" * 100_000 + '"'))])
    *_, both = since()
    assert claiming <= 12  # 7
    assert both - claiming <= 40  # 33: the result is 25


def test_a_call_is_prepared_in_few_calls_of_functions() -> None:
    config = QueueConfig()
    build_job(add, (1,), {}, {}, config=config, now=NOW)
    with calls_counted() as calls:
        for number in range(100):
            build_job(add, (number,), {}, {}, config=config, now=NOW)
    assert calls() <= 100 * 30  # 23


@pytest.mark.parametrize(("durability", "syncs"), [("power", 1), ("process", 0)])
async def test_who_claims_hears_of_it_before_it_is_synced_unless_something_else_must_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: Durability, syncs: int
) -> None:
    synced: list[bool] = []
    heard = threading.Event()
    sync = files.os.fdatasync

    def wait_and_sync(descriptor: int) -> None:
        synced.append(heard.wait(10))
        sync(descriptor)

    monkeypatch.setattr(files.os, "fdatasync", wait_and_sync)
    async with await open_store(f"sqlite:///{tmp_path}/q.db", durability=durability) as store:
        await store.add(new_jobs(3))
        jobs = await claim(store, 2)
        heard.set()
        await store.beat(node("n"))
        assert synced == [True] * syncs, "by itself"
        await asyncio.gather(store.settle([settlement(job) for job in jobs]), claim(store, 1))
        assert await claim(store, 1) == []
        await store.beat(node("n"))
        assert synced == [True] * syncs, "with an end, which is told once it is synced; and when there was nothing"


async def test_a_claim_is_synced_also_where_something_beside_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(files.os, "fdatasync", synced.append)
    async with await open_store(f"sqlite:///{tmp_path}/q.db") as store:
        await store.add(new_jobs(2))
        gate = threading.Event()
        holding = asyncio.ensure_future(store._run(lambda transaction: gate.wait(10)))  # type: ignore[attr-defined]
        failing = asyncio.ensure_future(store._run(lambda transaction: 1 / 0))  # type: ignore[attr-defined]
        claiming = asyncio.ensure_future(claim(store, 1))
        await asyncio.sleep(0)  # all three have asked
        gate.set()
        assert len(await claiming) == 1
        assert await holding
        with pytest.raises(ZeroDivisionError):
            await failing
        await store.beat(node("n"))
    assert len(synced) == 1


async def test_nothing_is_acknowledged_behind_a_claim_that_the_disk_has_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what comes after a gap in the log nothing is found after a loss of power, however well it was synced."""

    failed = threading.Event()

    def fail(descriptor: int) -> None:
        failed.set()
        raise OSError(errno.EIO, "the disk")

    async with await open_store(f"sqlite:///{tmp_path}/q.db") as store:
        await store.add([new_job()])
        monkeypatch.setattr(files.os, "fdatasync", fail)
        assert len(await claim(store, 1)) == 1
        assert await asyncio.to_thread(failed.wait, 10)  # it is told before
        for _ in range(3):
            with pytest.raises(StoreCorrupt, match="check the disk"):
                await store.add([new_job()])
