"""``lq demo``: the whole of it on real input, on the machine it is on.

Starts a master on a temporary database, takes a census of the standard library (a job a package),
enqueues one key twice, has one job hang in C code and killed, one that fails twice; shows it while
it happens, and what came of it. Exits with 1, and says why, if anything ended otherwise than it
should.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import click

from litestar_queues.config import QueueConfig
from litestar_queues.models import QueuedTaskRecord, Status, TaskRequest
from litestar_queues.results import TaskResult
from litestar_queues.service import QueueService
from lq import exits
from lq.census import tasks
from lq.render.page import Block, Cell, Heading, Lines, Pairs, Table, show, status_cell
from lq.render.text import duration, printable, size

_QUICK = ("json", "sqlite3", "asyncio", "lib2to3", "email")
_LIMIT = 600.0
"""Seconds after which the demonstration gives up."""


@click.command(short_help="Take a census of the standard library, and see a job killed.")
@click.option("-c", "--concurrency", type=click.IntRange(min=1), default=os.cpu_count() or 1, help="Worker processes.")
@click.option("--quick", is_flag=True, help="A few packages only.")
@click.option("--keep", is_flag=True, help="Keep the database, and say where it is.")
def demo(concurrency: int, quick: bool, keep: bool) -> None:
    """Take a census of the Python standard library with a real master and real workers.

    One CPU-bound job for each package; one job enqueued twice under one key; one that hangs in C
    code and is killed at its timeout; one that fails twice and then succeeds.
    """
    folder = Path(tempfile.mkdtemp(prefix="lq-demo-"))
    try:
        wrong = asyncio.run(_run(folder / "demo.db", concurrency, quick=quick))
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    if keep:
        click.echo(f"\nkept: lq inspect --url sqlite:///{folder / 'demo.db'}")
    for problem in wrong:
        click.echo(f"not as it should be: {problem}", err=True)
    raise click.exceptions.Exit(exits.FAILED if wrong else exits.OK)


class Census:
    """The demonstration's jobs."""

    def __init__(
        self, counts: list[TaskResult[Any]], twice: TaskResult[Any], hang: TaskResult[Any], flaky: TaskResult[Any]
    ):
        self.counts = counts
        self.twice = twice
        self.hang = hang
        self.flaky = flaky

    @property
    def all(self) -> list[TaskResult[Any]]:
        """Every job, the one enqueued twice once."""
        return [*self.counts, self.hang, self.flaky]


async def _run(database: Path, concurrency: int, *, quick: bool) -> list[str]:
    url = f"sqlite:///{database}"
    started = time.monotonic()
    async with QueueService(QueueConfig(queue_backend=url)) as service:
        census = await _enqueue(service, quick=quick)
        click.echo(f"{len(census.all)} jobs enqueued; starting lq worker --concurrency {concurrency}")
        with _master(url, concurrency) as master:
            await _follow(service, census, master)
        records = {result.number: await result.refresh() for result in census.all}
    show(_summary(census, records, time.monotonic() - started))
    return _problems(census, records)


async def _enqueue(service: QueueService, *, quick: bool) -> Census:
    """Enqueue everything: the hang first, so that its two seconds pass beside the work."""
    hang = await service.enqueue(tasks.hang.using(priority=10))
    flaky = await service.enqueue(tasks.flaky.using(priority=5))
    chosen = [name for name in tasks.packages() if not quick or name in _QUICK]
    requests = [TaskRequest(tasks.count, (name,), options={"key": f"census:{name}"}) for name in chosen]
    counts = await service.enqueue_many(requests)
    twice = await service.enqueue(tasks.count.using(key=f"census:{chosen[0]}"), chosen[0])
    return Census(counts, twice, hang, flaky)


@contextmanager
def _master(url: str, concurrency: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "lq", "worker", "--import", "lq.census.tasks", "--url", url]
    process = subprocess.Popen(
        [*command, "--concurrency", str(concurrency), "--log-level", "none"], stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


async def _follow(service: QueueService, census: Census, master: subprocess.Popen[str]) -> None:
    """Show what happens until every job has ended."""
    watch = _Live(len(census.all)) if sys.stdout.isatty() else _Plain()
    until = time.monotonic() + _LIMIT
    ended: set[int] = set()
    with watch:
        while len(ended) < len(census.all) and time.monotonic() < until and master.poll() is None:
            found = await service.store.get([result.number for result in census.all])
            records = [record for record in found if record is not None]
            for record in records:
                if record.is_terminal and record.number not in ended:
                    ended.add(record.number)
                    watch.ended(record)
            running = [record for record in records if record.status == Status.RUNNING]
            watch.running([(record, await _progress(service, record)) for record in running], len(ended))
            await asyncio.sleep(0.1)
    if master.poll() is not None:
        click.echo(master.stderr.read() if master.stderr else "", err=True)


async def _progress(service: QueueService, record: QueuedTaskRecord) -> tuple[float, str]:
    events = [event for event in await service.task_events(record.number) if event.type == "task.progress"]
    last = events[-1] if events else None
    return (0.0, "") if last is None else (last.progress_percent or 0.0, last.message or "")


class _Plain:
    """One line a job that has ended: for pipes."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def ended(self, record: QueuedTaskRecord) -> None:
        click.echo(_line(record))

    def running(self, records: list[tuple[QueuedTaskRecord, tuple[float, str]]], ended: int) -> None:
        return None


class _Live:
    """A bar for all, and one for each job that runs: for terminals."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

        self._console = Console(highlight=False, markup=False, emoji=False)
        columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=30))
        rest = (
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[said]}", markup=False),
        )
        self._progress = Progress(*columns, *rest, console=self._console, transient=True)
        self._all = self._progress.add_task("census", total=total, said="")
        self._bars: dict[int, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def ended(self, record: QueuedTaskRecord) -> None:
        self._console.print(_line(record))
        bar = self._bars.pop(record.number, None)
        if bar is not None:
            self._progress.remove_task(bar)

    def running(self, records: list[tuple[QueuedTaskRecord, tuple[float, str]]], ended: int) -> None:
        self._progress.update(self._all, completed=ended)
        for record, (percent, said) in records:
            if record.number not in self._bars:
                name = f"#{record.number} {_what(record)}"
                self._bars[record.number] = self._progress.add_task(printable(name), total=100, said="")
            self._progress.update(self._bars[record.number], completed=percent, said=printable(said)[-40:])
        for number in set(self._bars) - {record.number for record, _ in records}:
            self._progress.remove_task(self._bars.pop(number))


def _line(record: QueuedTaskRecord) -> str:
    error = f"  {record.error}" if record.error else ""
    return printable(
        f"{status_cell(record.status).text:<12} #{record.number:<4} {_what(record)}  {_took(record)}{error}"
    )


def _what(record: QueuedTaskRecord) -> str:
    return f"{record.task_name} {' '.join(map(str, record.args))}".strip()


def _took(record: QueuedTaskRecord) -> str:
    if record.started_at is None or record.completed_at is None:
        return ""
    return duration((record.completed_at - record.started_at).total_seconds())


def _summary(census: Census, records: dict[int, QueuedTaskRecord], seconds: float) -> list[Block]:
    counts = [(records[result.number], result.result) for result in census.counts]
    done = [(record, count) for record, count in counts if count is not None]
    longest = sorted((each for _, count in done for each in count.longest), reverse=True)[:8]
    rows = tuple(
        (
            count.package,
            count.files,
            count.unparsed or "",
            f"{count.lines:,}",
            f"{count.functions:,}",
            f"{count.classes:,}",
            *_cost(record),
        )
        for record, count in sorted(done, key=lambda each: -each[1].lines)
    )
    columns = ("PACKAGE", "FILES", "UNPARSED", "LINES", "FUNCTIONS", "CLASSES", "CPU", "RSS")
    totals = {
        name: sum(getattr(count, name) for _, count in done) for name in ("files", "lines", "functions", "classes")
    }
    hang, flaky = records[census.hang.number], records[census.flaky.number]
    return [
        Heading("Census of the standard library", f"{len(rows)} packages in {duration(seconds)}"),
        Table(columns, rows, frozenset(columns[1:])),
        Pairs(tuple((f"all {name}", f"{number:,}") for name, number in totals.items())),
        Heading("Longest functions"),
        Table(
            ("LINES", "NAME", "PLACE"),
            tuple((each.lines, each.name, each.place) for each in longest),
            frozenset({"LINES"}),
        ),
        Heading("The same key twice"),
        Pairs((("second enqueue", f"got job #{census.twice.number}, deduplicated: {census.twice.deduplicated}"),)),
        Heading("Fails twice, then succeeds"),
        Table(
            ("ATTEMPT", "OUTCOME", "ERROR"), tuple((a.attempt, a.outcome, str(a.error or "")) for a in flaky.attempts)
        ),
        Heading("Hangs in C, killed from outside"),
        *_hanged(hang),
    ]


def _hanged(hang: QueuedTaskRecord) -> list[Block]:
    blocks: list[Block] = [Pairs((("job", f"#{hang.number}"), ("error", Cell(hang.error or "", "red"))))]
    for attempt in hang.attempts:
        receipt = attempt.receipt
        if receipt is not None:
            took = duration((receipt.ended_at - receipt.started_at) / 1e6)
            blocks.append(Pairs((("process", f"pid {receipt.pid} {attempt.exit or ''} after {took}"),)))
        blocks.append(Lines(attempt.stack or "(no stack)"))
    return blocks


def _cost(record: QueuedTaskRecord) -> tuple[str, str]:
    receipt = record.attempts[-1].receipt if record.attempts else None
    if receipt is None:
        return "", ""
    return duration((receipt.cpu or 0) / 1e6), size(receipt.rss)


def _problems(census: Census, records: dict[int, QueuedTaskRecord]) -> list[str]:
    """Return what did not end as it should."""
    wrong = [
        f"#{result.number} {_what(records[result.number])} is {records[result.number].status}"
        for result in [*census.counts, census.flaky]
        if records[result.number].status != Status.COMPLETED
    ]
    hang = records[census.hang.number]
    if hang.status != Status.FAILED or [each.outcome for each in hang.attempts] != ["timed_out"]:
        wrong.append(f"the job that hangs is {hang.status}, not timed out")
    elif not hang.attempts[0].stack or "in hang" not in hang.attempts[0].stack:
        wrong.append("the stack of the killed job does not name its line")
    if len(records[census.flaky.number].attempts) != 3:
        wrong.append("the job that fails twice did not take three attempts")
    if not census.twice.deduplicated or census.twice.number != census.counts[0].number:
        wrong.append("the second job with the same key was not deduplicated")
    return wrong
