"""Do the write-ahead log and the master stay small under full load? ``python benchmarks/full_load.py [--minutes 60]``.

A master with two workers and the defaults (``synchronous=FULL``, a timeout on every job, results stored), and jobs
that are kept for a minute, so that it prunes all the time. One process keeps the backlog between 5,000 and 20,000
jobs, a thousand a call; one enqueues one by one from four coroutines; one looks once a second as ``lq inspect``
does, and holds a read open for 5 s once a minute, which keeps the log from being used again. Then it is let run empty.

Exit status 1 where the log grew past its bound, or anything was lost or failed. The bound: past 64 MiB
(``TRUNCATE_AT``) a writer cuts the log, at the first of its looks (one in 32 commits) that meets no reader. What
a long read adds comes on top: nothing can be cut under it. So 64 MiB and the most that the log grew from the
beginning of any long read to 2 s after its end, as measured in the run.

Time is counted in samples. The whole process group may be stopped and continued (SIGSTOP, SIGCONT).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import full_load_app as load
import msgspec
from common import percentile
from full_load_crowd import Crowd
from msgspec import Struct

from litestar_queues.config import URL_VARIABLE
from litestar_queues.store.sqlite.checkpoints import TRUNCATE_AT
from litestar_queues.store.sqlite.pruning import MOST as PART
from lq import owned
from lq.bench.processes import cpu_seconds, tree_of
from support.waiting import wait_until

LOOKS = 10
"""Looks at the log in a sample."""
AFTERWARDS = 20
"""Looks after a long read in which what it left is cut; what the log grows until then is the read's."""
PATIENCE = 600
"""Samples that running empty may take."""
ROOM = 8 * 2**30
"""Bytes of the disk that are left to others: a pruning that does not keep up would take all of it."""
MIB = 2**20
_COUNTS = (
    "SELECT status, sum(count) FROM lq_tally GROUP BY status "
    "UNION ALL SELECT 'given', seq FROM sqlite_sequence WHERE name = 'lq_job'"
)
_WAITING = ("scheduled", "pending", "running")
_UNEXPECTED = "SELECT count(*) FROM lq_job WHERE status IN ('cancelled', 'expired') OR status = 'failed' AND task != ?"
_OLDEST = (
    "SELECT ifnull((strftime('%s', 'now') * 1000000 - min(ended_at)) / 1000000, 0) FROM lq_job WHERE status = 'completed' "
    "AND status IN ('completed', 'failed', 'cancelled', 'expired')"
)
_PRUNED = re.compile(r" pruned +([\d,]+) jobs")


class Sample(Struct, frozen=True):
    """A second in which this program ran."""

    active: float
    """Seconds since the last one, a stop left out."""
    wal: int
    wal_most: int
    database: int
    rss: int
    cpu: float
    """CPU seconds that the master and its children have used so far."""
    waiting: int
    done: int
    kept: int


class Minute(Struct, frozen=True):
    minute: int
    done: int
    jobs_per_s: float
    wal_mib: float
    wal_most_mib: float
    database_mib: float
    waiting: int
    kept: int
    oldest_s: int
    """Since the end of the one that completed first, of those that are there."""
    master_rss_mib: float
    cpus: float
    """Of the master and its children."""

    def __str__(self) -> str:
        return (
            f"{self.minute:>3} min  {self.done:>11,} jobs  {self.jobs_per_s:>6,.0f}/s  WAL {self.wal_mib:>6.1f} MiB, "
            f"at most {self.wal_most_mib:>6.1f}  database {self.database_mib:>6.0f} MiB  waiting {self.waiting:>6,}  "
            f"kept {self.kept:>9,} for {self.oldest_s:>4} s  master {self.master_rss_mib:>5.1f} MiB  {self.cpus:.2f} CPUs"
        )


class Sampler:
    """Looks from outside at one database and one master."""

    def __init__(self, database: Path, pid: int, is_reading: Synchronized[int]) -> None:
        self._database, self._log, self._pid = database, Path(f"{database}-wal"), pid
        self._connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True, isolation_level=None)
        self._is_reading = is_reading
        self._last = time.monotonic()
        self._since_read = AFTERWARDS
        self._at_begin = 0
        self.most_growth = 0
        """Bytes that the log grew with a long read."""
        self.most_between = 0
        """Bytes of the log at most when none was open or had just ended."""
        self.long_reads = 0

    def sample(self) -> Sample:
        active, logs = 0.0, []
        for _ in range(LOOKS):
            time.sleep(max(1 / LOOKS - (time.monotonic() - self._last), 0))
            now = time.monotonic()
            # More than a second between two looks: it was stopped.
            active, self._last = active + min(now - self._last, 1.0), now
            logs.append(self._log.stat().st_size)
            self._follow_reads(logs[-1])
        counts = self.counts()
        waiting = sum(counts.get(status, 0) for status in _WAITING)
        given = counts.pop("given", 0)
        return Sample(
            active, logs[-1], max(logs), self._database.stat().st_size, memory_of(self._pid),
            cpu_seconds(tree_of(self._pid)), waiting, given - waiting, sum(counts.values()) - waiting,
        )  # fmt: skip

    def counts(self) -> dict[str, int]:
        """Return the store's own tally, and ``given``: how many numbers it has given to jobs."""
        return dict(self._connection.execute(_COUNTS).fetchall())

    def first(self, sql: str, *values: object) -> int:
        [(value,)] = self._connection.execute(sql, values).fetchall()
        return int(value)

    def close(self) -> None:
        self._connection.close()

    def _follow_reads(self, size: int) -> None:
        if self._is_reading.value:
            if self._since_read:
                self._at_begin, self._since_read, self.long_reads = size, 0, self.long_reads + 1
        else:
            self._since_read += 1
        if self._since_read < AFTERWARDS and self.long_reads:
            self.most_growth = max(self.most_growth, size - self._at_begin)
        else:
            self.most_between = max(self.most_between, size)


def memory_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def minute_of(number: int, before: Sample, samples: list[Sample], oldest: int) -> Minute:
    last, active = samples[-1], sum(each.active for each in samples)
    return Minute(
        number, last.done, round((last.done - before.done) / active, 1), mib(last.wal),
        mib(max(each.wal_most for each in samples)), mib(last.database), last.waiting, last.kept, oldest, mib(last.rss),
        round((last.cpu - before.cpu) / active, 3),
    )  # fmt: skip


def mib(size: float) -> float:
    return round(size / MIB, 2)


# What became of the jobs.


class Balance(Struct, frozen=True):
    """Jobs, as those who enqueued them and the tasks themselves have marked them."""

    accepted: int
    lost: int
    """Accepted, and ran less often than they should have."""
    ran_again: int
    """Ran more often: allowed, and none when nobody dies."""
    unknown: int
    """Ran, and were not accepted."""


def balance(folder: Path) -> Balance:
    accepted = lost = again = unknown = 0
    for caller in ("feeder", "callers"):
        due, ran = ((folder / f"{kind}-{caller}").read_bytes() for kind in ("accepted", "ran"))
        length = max(len(due), len(ran))
        for should, did in zip(due.ljust(length, b"\0"), ran.ljust(length, b"\0"), strict=True):
            accepted += should > 0
            lost += did < should
            again += did > should > 0
            unknown += did > 0 == should
    return Balance(accepted, lost, again, unknown)


def missing_rows(sampler: Sampler, log: Path) -> int:
    """Return how many numbers the store has given to jobs that neither are there nor were pruned, as the master says.

    To be asked when the master has ended: it says so at the end of a sweep, and that may take as long as the load.
    """
    rows = sampler.first("SELECT count(*) FROM lq_job")
    pruned = sum(int(each.replace(",", "")) for each in _PRUNED.findall(log.read_text(errors="replace")))
    return sampler.counts()["given"] - rows - pruned


# The run.


@contextlib.contextmanager
def master(folder: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start ``lq worker -c 2``, in our process group, so that it can be stopped with us; end it in good order."""
    command = [sys.executable, "-m", "lq", "worker", "-c", "2", "--app", "full_load_app:app", "--log-level", "none"]
    environment = {**owned.inherited(), URL_VARIABLE: os.environ[URL_VARIABLE]}
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )
    try:
        wait_until(lambda: "  stop " in log.read_text() or process.poll() is not None, "the master serves")
        yield process
    finally:
        owned.stop(process)


class Run:
    """One full load, from the first sample to what is to be said of it."""

    def __init__(self, folder: Path, minutes: int, out: Path | None) -> None:
        self._folder, self._minutes, self._out = folder, minutes, out
        self._url, self._log = f"sqlite:///{folder / 'load.db'}", folder / "master.log"
        os.environ |= {load.VARIABLE: str(folder), URL_VARIABLE: self._url}
        self._samples: list[Sample] = []
        self._lines: list[Minute] = []
        self._problems: list[str] = []

    def run(self) -> list[str]:
        """Return what is wrong."""
        with master(self._folder, self._log) as process:
            crowd = Crowd(self._url)
            sampler = Sampler(self._folder / "load.db", process.pid, crowd.is_reading)
            self._sample(sampler, crowd, process)
            crowd.stop_calling()
            self._run_empty(sampler)
            crowd.stop_reading()
        summary = self._judge(sampler)
        sampler.close()
        if process.returncode:
            self._problems.append(f"the master ended with status {process.returncode}: {owned.last_words(self._log)}")
        print("\n".join(f"{name.replace('_', ' ')}: {value}" for name, value in summary.items()))
        self._save(summary)
        return self._problems

    def _sample(self, sampler: Sampler, crowd: Crowd, process: subprocess.Popen[bytes]) -> None:
        before = sampler.sample()
        for number in range(1, self._minutes + 1):
            samples = []
            for _ in range(60):
                samples.append(sampler.sample())
                self._problems = crowd.problems()
                if process.poll() is not None:
                    self._problems.append(f"the master has ended: {owned.last_words(self._log)}")
                if shutil.disk_usage(self._folder).free < ROOM:
                    self._problems.append(f"the disk is nearly full; the database has {samples[-1].database:,} bytes")
                if self._problems:
                    return
            self._samples += samples
            self._lines.append(minute_of(number, before, samples, sampler.first(_OLDEST)))
            before = samples[-1]
            print(self._lines[-1], flush=True)
            self._save({})

    def _run_empty(self, sampler: Sampler) -> None:
        if self._problems:
            return
        for _ in range(PATIENCE):
            if not sampler.sample().waiting:
                return
        self._problems.append(f"after {PATIENCE} s without new jobs some still wait: {sampler.counts()}")

    def _judge(self, sampler: Sampler) -> dict[str, object]:
        if not self._lines or self._problems:
            return {}
        jobs, missing = balance(self._folder), missing_rows(sampler, self._log)
        unexpected = sampler.first(_UNEXPECTED, load.doomed.name)
        given = sampler.counts()["given"]
        bound = TRUNCATE_AT + sampler.most_growth
        most = max(each.wal_most for each in self._samples)
        wrong = {
            f"the log grew to {mib(most)} MiB, past its bound of {mib(bound)} MiB": most > bound,
            f"{jobs.lost} jobs were accepted and did not run as often as they should": jobs.lost,
            f"{jobs.unknown} jobs ran that were not accepted": jobs.unknown,
            f"{jobs.accepted} jobs were accepted, and the store gave {given} numbers": given != jobs.accepted,
            # One part of a sweep may be cut off, done and not told, when the master ends.
            f"{missing} jobs are gone from the store and were not pruned": not 0 <= missing <= PART,
            f"{unexpected} jobs ended otherwise than they should": unexpected,
        }
        self._problems += [sentence for sentence, is_so in wrong.items() if is_so]
        return {
            **self._figures(),
            "wal_bound_mib": mib(bound), "wal_most_growth_in_long_read_mib": mib(sampler.most_growth),
            "wal_most_between_long_reads_mib": mib(sampler.most_between), "long_reads": sampler.long_reads,
            "accepted": jobs.accepted, "lost": jobs.lost, "rows_not_accounted_for": missing,
            "ran_again": jobs.ran_again, "failed_unexpectedly": unexpected,
        }  # fmt: skip

    def _figures(self) -> dict[str, object]:
        samples, window = self._samples, min(600, len(self._samples) // 3)
        logs = sorted(each.wal for each in samples)
        active = sum(each.active for each in samples)
        then, last = samples[window - 1], samples[-1]
        return {
            "minutes": self._minutes, "jobs_done": last.done, "jobs_per_s": round(last.done / active, 1),
            "cpus": round((last.cpu - samples[0].cpu) / active, 3), "active_s": round(active, 1),
            "wal_most_mib": mib(max(each.wal_most for each in samples)),
            "wal_p50_mib": mib(percentile(logs, 0.5)), "wal_p99_mib": mib(percentile(logs, 0.99)),
            "window_minutes": window / 60,
            "wal_most_first_window_mib": mib(max(each.wal_most for each in samples[:window])),
            "wal_most_last_window_mib": mib(max(each.wal_most for each in samples[-window:])),
            "database_after_window_mib": mib(then.database), "database_at_end_mib": mib(last.database),
            "kept_after_window": then.kept, "kept_at_end": last.kept, "oldest_kept_at_end_s": self._lines[-1].oldest_s,
            "master_rss_after_window_mib": mib(then.rss), "master_rss_at_end_mib": mib(last.rss),
        }  # fmt: skip

    def _save(self, summary: dict[str, object]) -> None:
        if self._out is not None:
            told = {"minutes": self._lines, "summary": summary, "problems": self._problems}
            self._out.write_bytes(msgspec.json.format(msgspec.json.encode(told)) + b"\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=int, default=60, help="of full load [60]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all minutes and the summary there")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the master is ended too
    with tempfile.TemporaryDirectory(prefix="lq-bench-", dir=os.environ.get("LQ_BENCH_DIR")) as folder:
        problems = Run(Path(folder), max(given.minutes, 1), given.json and given.json.absolute()).run()
    if problems:
        raise SystemExit("; ".join(problems))
    print("the log stayed within its bound, and nothing was lost")


if __name__ == "__main__":
    main()
