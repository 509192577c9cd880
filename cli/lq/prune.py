"""``lq prune``: delete ended jobs now, instead of when a master comes to it. Shows first what would go."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any

import click
from msgspec import Struct

from litestar_queues.clock import SECOND, SystemClock, to_microseconds
from litestar_queues.config import URL_VARIABLE, resolve_url
from litestar_queues.master.housekeeping import parts
from litestar_queues.models import Status
from litestar_queues.store import Store, open_store
from litestar_queues.store.base import Prunable
from lq.duration import Duration
from lq.render.page import Block, Pairs, Table, show, write_json
from lq.render.text import duration, printable

_ENDS = (Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.EXPIRED)
Kept = Mapping[Status, int | None]


class Report(Struct, frozen=True):
    """What was deleted, or would be."""

    kept: dict[Status, int | None]
    jobs: Mapping[Status, int]
    spared: Mapping[Status, int]
    results: int
    is_done: bool


@click.command(short_help="Delete jobs that ended long enough ago.")
@click.option(
    "--older-than", type=Duration(), metavar="7d", help="Those that ended so long ago; else what the application keeps."
)
@click.option("--status", "statuses", multiple=True, type=click.Choice([str(each) for each in _ENDS]),
              help="Only jobs that ended so; may be given several times.")  # fmt: skip
@click.option("--even-kept", is_flag=True, help="Also jobs with a longer retention of their own.")
@click.option("-y", "--yes", is_flag=True, help="Delete. Without it, nothing is touched.")
@click.option("--url", envvar=URL_VARIABLE, metavar="URL", help="The store; else the project's.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON document.")
def prune(
    older_than: float | None, statuses: tuple[str, ...], even_kept: bool, yes: bool, url: str | None, as_json: bool
) -> None:
    """Show which ended jobs are kept for longer than they need be; with --yes, delete them.

    A running worker does this by itself, as QueueConfig.retention and the tasks' own retention say.
    This is for doing it now, by another rule, or where no worker runs. What waits or runs is never
    touched. Deleting goes on beside a busy worker, a little at a time; it cannot be undone.

    \b
    Examples:
      lq prune
      lq prune --older-than 7d --status failed
      lq prune --older-than 0s --status completed --yes
    """  # noqa: D301 (click reads the backspace)
    chosen = tuple(Status(each) for each in statuses) or _ENDS
    report = asyncio.run(_prune(resolve_url(url), chosen, older_than, even_kept=even_kept, is_meant=yes))
    if as_json:
        write_json(_as_json(report))
    else:
        show(_as_blocks(report))


async def _prune(
    url: str, statuses: tuple[Status, ...], older_than: float | None, *, even_kept: bool, is_meant: bool
) -> Report:
    async with await open_store(url, create=False) as store:
        published = (await store.catalogue()).retention
        periods = published if older_than is None else dict.fromkeys(statuses, to_microseconds(older_than))
        kept = {status: periods.get(status) for status in statuses}
        counted = await store.prunable(kept, now=SystemClock().now(), even_kept=even_kept)
    if not is_meant:
        return Report(kept, counted.jobs, counted.spared, counted.results, is_done=False)
    async with await open_store(url) as store:
        return await _delete(store, kept, counted, even_kept=even_kept)


async def _delete(store: Store, kept: dict[Status, int | None], counted: Prunable, *, even_kept: bool) -> Report:
    jobs: Counter[Status] = Counter()
    results = 0
    whole = sum(counted.jobs.values())
    async for done in parts(store, kept, SystemClock(), even_kept=even_kept):
        jobs.update(done.jobs)
        results += done.results
        if sys.stderr.isatty():
            click.echo(f"\r{jobs.total():,} of {whole:,}", err=True, nl=not done.has_more)
    return Report(kept, jobs, counted.spared, results, is_done=True)


def _as_blocks(report: Report) -> list[Block]:
    rows = tuple(
        (
            status,
            "for ever" if period is None else duration(period / SECOND),
            f"{report.jobs.get(status, 0):,}",
            f"{report.spared.get(status, 0):,}",
        )
        for status, period in report.kept.items()
    )
    columns = ("STATUS", "KEPT FOR", "DELETED" if report.is_done else "WOULD GO", "KEPT LONGER BY TASK")
    blocks: list[Block] = [Table(columns, rows, frozenset(columns[2:]))]
    notes = []
    if report.results:
        notes.append(f"{report.results:,} results of jobs that stay {'were' if report.is_done else 'would be'} dropped")
    if not report.is_done:
        notes.append("nothing was deleted; repeat it with --yes")
    return [*blocks, Pairs(tuple(("!", printable(note)) for note in notes))] if notes else blocks


def _as_json(report: Report) -> dict[str, Any]:
    return {
        "deleted": report.is_done,
        "jobs": {str(status): report.jobs.get(status, 0) for status in report.kept},
        "kept_longer": {str(status): report.spared.get(status, 0) for status in report.kept},
        "results": report.results,
        "kept_seconds": {
            str(status): None if period is None else period / SECOND for status, period in report.kept.items()
        },
    }
