"""What the demonstration shows while it happens: bars on a terminal, lines in a pipe."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self, TextIO

import click

from litestar_queues.events.stored import to_event
from litestar_queues.models import QueuedTaskRecord, Status
from litestar_queues.results import TaskResult
from litestar_queues.service import QueueService
from lq.render.page import status_cell
from lq.render.text import duration, printable

_GLANCE = 0.1
"""Seconds between two looks at the store."""


class Progress(NamedTuple):
    """How far a job says it is."""

    percent: float = 0.0
    message: str = ""


class Watch:
    """A line for each job that has ended: for pipes."""

    wants_progress = False

    @staticmethod
    def on(stream: TextIO) -> Watch:
        """Return what suits *stream*."""
        return _Bars() if stream.isatty() else Watch()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def ended(self, record: QueuedTaskRecord) -> None:
        """Show that a job has ended."""
        click.echo(_line(record))

    def running(self, records: list[tuple[QueuedTaskRecord, Progress]], share: float) -> None:
        """Show which jobs run now, and which *share* of all has ended."""


class _Bars(Watch):
    """A bar for all, and one for each job that runs: for terminals."""

    wants_progress = True

    def __init__(self) -> None:
        from rich import progress
        from rich.console import Console

        self._console = Console(highlight=False, markup=False, emoji=False)
        said = progress.TextColumn("{task.fields[said]}", markup=False)
        self._bars = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(bar_width=30),
            progress.TextColumn("{task.percentage:>3.0f}%"),
            progress.TimeElapsedColumn(),
            said,
            console=self._console,
            transient=True,
        )
        self._all = self._bars.add_task("census", total=1, said="")
        self._of: dict[int, progress.TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def ended(self, record: QueuedTaskRecord) -> None:
        self._console.print(_line(record), style=status_cell(record.status).style or None)

    def running(self, records: list[tuple[QueuedTaskRecord, Progress]], share: float) -> None:
        self._bars.update(self._all, completed=share)
        for record, (percent, said) in records:
            if record.number not in self._of:
                name = printable(f"#{record.number} {what(record)}")
                self._of[record.number] = self._bars.add_task(name, total=100, said="")
            self._bars.update(self._of[record.number], completed=percent, said=printable(said)[-40:])
        for number in set(self._of) - {record.number for record, _ in records}:
            self._bars.remove_task(self._of.pop(number))


class _Ear:
    """Hears each job's progress once: it reads on from where it has read to."""

    def __init__(self, service: QueueService) -> None:
        self._service = service
        self._read_to: dict[int, int] = {}
        self._last: dict[int, Progress] = {}

    async def progress(self, record: QueuedTaskRecord) -> Progress:
        for stored in await self._service.store.events(record.number, after=self._read_to.get(record.number, 0)):
            self._read_to[record.number] = stored.position
            event = to_event(stored, record)
            if event.type == "task.progress":
                self._last[record.number] = Progress(event.progress_percent or 0.0, event.message or "")
        return self._last.get(record.number, Progress())


async def follow(
    service: QueueService,
    jobs: Sequence[TaskResult[Any]],
    watch: Watch,
    exit_status: Callable[[], int | None],
    *,
    until: float,
) -> str | None:
    """Show what happens until every job has ended; return why not, if they do not come to that."""
    numbers = [result.number for result in jobs]
    ended: set[int] = set()
    ear = _Ear(service)
    with watch:
        while len(ended) < len(numbers):
            if (status := exit_status()) is not None:
                return f"lq worker ended with status {status} before the jobs had; its last words:"
            if time.monotonic() > until:
                return f"gave up with {len(numbers) - len(ended)} jobs to go; the last words of lq worker:"
            records = [record for record in await service.store.get(numbers) if record is not None]
            for record in records:
                if record.is_terminal and record.number not in ended:
                    ended.add(record.number)
                    watch.ended(record)
            running = [record for record in records if record.status == Status.RUNNING]
            heard = [await ear.progress(record) if watch.wants_progress else Progress() for record in running]
            watch.running(list(zip(running, heard, strict=True)), len(ended) / len(numbers))
            await asyncio.sleep(_GLANCE)
    return None


def what(record: QueuedTaskRecord) -> str:
    """Return the call in words: the task and its arguments."""
    return f"{record.task_name} {' '.join(map(str, record.args))}".strip()


def _line(record: QueuedTaskRecord) -> str:
    error = f"  {record.error}" if record.error else ""
    took = ""
    if record.started_at is not None and record.completed_at is not None:
        took = duration((record.completed_at - record.started_at).total_seconds())
    return printable(f"{status_cell(record.status).text:<12} #{record.number:<4} {what(record)}  {took}{error}")
