"""Does the cost of a job grow with history? ``python benchmarks/history.py [--finished N] [--pending N] [--scheduled N]``.

Two stores, ``synchronous=FULL``: one with a million finished jobs, a hundred thousand scheduled and a
million pending, and one with nothing but what is claimed here. First a round of a master (settle 64, claim
64) in turn on the one and on the other. Then rounds on the full one while a hundred thousand jobs are
pruned, as a master does it, against rounds without: how long did a claim wait at the longest?

None of this is a test: the machine's disk decides much of it. CPU time, and what is compared in one
run, hold.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sqlite3
import tempfile
import time
from pathlib import Path

from common import milliseconds, percentile

from litestar_queues.clock import SECOND, SystemClock
from litestar_queues.master.housekeeping import parts
from litestar_queues.models import ClaimedJob, Status
from litestar_queues.store import Store, Want, open_store
from litestar_queues.store.sqlite.pruning import MOST
from store.making import settlement

CLOCK = SystemClock()
ROUND = 64
ROUNDS = 300
PARTS = 100
DAY = 24 * 3600 * SECOND
KEPT: dict[Status, int | None] = {Status.COMPLETED: DAY}

_FILL = """
WITH RECURSIVE count (n) AS (SELECT :first UNION ALL SELECT n + 1 FROM count WHERE n < :first + :many - 1)
INSERT INTO lq_job (id, task, queue, backend, status, priority, payload, checksum, key_scope, key_forever, max_retries,
    kill_grace, timeout, created_at, run_at, claimed_at, started_at, ended_at, worker, pid, attempts, fence, result, sequence)
SELECT printf('0190%04x-%04x-7000-8000-%012x', n >> 16, n & 65535, n), 'support.zoo.good', 'default', 'local', :status, 0,
    '{"args":[' || n || '],"kwargs":{}}', n, 'support.zoo.good', 0, 0, 2000000, 60000000, :at, :run_at,
    :ended, :ended, :ended + n * 10, 'default/1', 4242, 1, 1, iif(:ended IS NULL, NULL, n), 1
FROM count
"""


def fill(path: Path, finished: int, overdue: int, scheduled: int, pending: int) -> None:
    """Write the jobs with SQLite alone, as they would lie there; *overdue* have finished two days ago."""
    now = CLOCK.now()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        first = 1
        for status, many, run_at, ended in [
            ("completed", overdue, now - 2 * DAY, now - 2 * DAY),
            ("completed", finished, now - DAY // 2, now - DAY // 2),
            ("scheduled", scheduled, now + DAY, None),
            ("pending", pending, now, None),
        ]:
            if many < 1:
                continue
            values = {"first": first, "many": many, "status": status, "at": now, "run_at": run_at, "ended": ended}
            connection.execute(_FILL, values)
            count = (
                "INSERT INTO lq_tally VALUES ('default', ?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count"
            )
            connection.execute(count, (status, many))
            first += many
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


class Rounds:
    """What a master does at a store, and what it took."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._jobs: list[ClaimedJob] = []
        self.waits: list[float] = []
        self.cpu = 0.0

    async def once(self) -> None:
        """Settle what was claimed and claim as much again, in one commit; as long as it has been is how long a claim waits."""
        at, cpu = time.perf_counter(), time.process_time()
        settlements = [settlement(job, now=CLOCK.now()) for job in self._jobs]
        claims, _ = await asyncio.gather(
            self._store.claim("bench", [Want(ROUND)], now=CLOCK.now()), self._store.settle(settlements)
        )
        self.waits.append(time.perf_counter() - at)
        self.cpu += time.process_time() - cpu
        self._jobs = list(claims.jobs[0])
        assert len(self._jobs) == ROUND, "there are enough"

    def shown(self) -> str:
        return f"{milliseconds(self.waits)}, {self.cpu / len(self.waits) / ROUND * 1e6:.1f} µs of CPU per job"


async def compare(full: Store, empty: Store) -> None:
    """Rounds in turn on both."""
    rounds = {"full": Rounds(full), "empty": Rounds(empty)}
    for turn in range(ROUNDS + 10):
        for each in rounds.values():
            await each.once()
            if turn < 10:
                each.waits.clear()
                each.cpu = 0.0
    for name, each in rounds.items():
        print(f"claim and settle {ROUND}, {name} store: {each.shown()}", flush=True)
    ratio = percentile(rounds["empty"].waits, 0.5) / percentile(rounds["full"].waits, 0.5)
    print(f"the full store does {ratio:.0%} of what the empty one does (medians), "
          f"{rounds['empty'].cpu / rounds['full'].cpu:.0%} by CPU", flush=True)  # fmt: skip


async def beside_pruning(store: Store, path: Path) -> None:
    """Rounds without, then with pruning beside them, then without again."""
    log = Path(f"{path}-wal")
    for turn in ("before", "after"):
        rounds = Rounds(store)
        for _ in range(ROUNDS):
            await rounds.once()
        print(f"a round {turn} pruning: {rounds.shown()}", flush=True)
        if turn == "before":
            await _prune_beside(store, log)


async def _prune_beside(store: Store, log: Path) -> None:
    rounds = Rounds(store)
    gone, largest = 0, 0
    began = time.monotonic()

    async def prune() -> None:
        nonlocal gone
        async for done in parts(store, KEPT, CLOCK):
            gone += sum(done.jobs.values())

    pruning = asyncio.create_task(prune())
    while not pruning.done():
        await rounds.once()
        largest = max(largest, log.stat().st_size)
    await pruning
    took = time.monotonic() - began
    print(f"a round while {gone:,} jobs are pruned: {rounds.shown()}")
    print(f"pruning took {took:.1f} s beside {len(rounds.waits) * ROUND:,} jobs, the log at most {largest / 2**20:.1f} MiB",
          flush=True)  # fmt: skip


async def alone(store: Store) -> None:
    """What one part of a prune takes when nobody else writes: for so long a claim may be held up."""
    waits: list[float] = []
    sums = 0
    cpu = time.process_time()
    after = None
    for _ in range(PARTS):
        at = time.perf_counter()
        done = await store.prune(KEPT, now=CLOCK.now(), after=after)
        waits.append(time.perf_counter() - at)
        after, sums = done.place, sums + sum(done.jobs.values())
    per_job = (time.process_time() - cpu) / max(sums, 1) * 1e6
    print(f"a part of a prune by itself: {milliseconds(waits)}, {sums / len(waits):.0f} jobs each, "
          f"{per_job:.1f} µs of CPU per job", flush=True)  # fmt: skip


async def main(finished: int, scheduled: int, pending: int, overdue: int) -> None:
    with tempfile.TemporaryDirectory(prefix="lq-bench-", dir=os.environ.get("LQ_BENCH_DIR")) as folder:
        paths = {name: Path(folder) / f"{name}.db" for name in ("full", "empty")}
        async with (
            await open_store(f"sqlite:///{paths['full']}") as full,
            await open_store(f"sqlite:///{paths['empty']}") as empty,
        ):
            fill(paths["full"], finished - overdue - PARTS * MOST, overdue + PARTS * MOST, scheduled, pending)
            fill(paths["empty"], 0, 0, 0, (ROUNDS + 12) * ROUND)
            size = paths["full"].stat().st_size / 2**20
            print(f"{finished:,} finished, {scheduled:,} scheduled, {pending:,} pending: {size:,.0f} MiB", flush=True)
            await compare(full, empty)
            await alone(full)
            await beside_pruning(full, paths["full"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--finished", type=int, default=1_000_000)
    parser.add_argument("--scheduled", type=int, default=100_000)
    parser.add_argument("--pending", type=int, default=1_000_000)
    parser.add_argument("--overdue", type=int, default=100_000, help="finished jobs that are pruned beside the work")
    given = parser.parse_args()
    asyncio.run(main(given.finished, given.scheduled, given.pending, given.overdue))
