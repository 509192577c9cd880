"""``lq inspect``: the queues at a glance, or one job in full. Only reads, and imports no application."""

from __future__ import annotations

import asyncio
import re
from uuid import UUID

import click

from litestar_queues.config import URL_VARIABLE, resolve_url
from litestar_queues.exceptions import JobNotFound
from litestar_queues.models import Query, QueuedTaskRecord
from litestar_queues.store import Store, open_store
from lq import jobpage, overview
from lq.render.page import show, write_json
from lq.render.text import is_number

SHORTEST_ENDING = 6
"""Characters of an id's ending that may stand for it; its beginning is the time, and much the same for all."""


@click.command(short_help="Show queues, workers and failures, or one job.")
@click.argument("job", required=False)
@click.option("--url", envvar=URL_VARIABLE, metavar="URL", help="The store; else the project's.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON document.")
@click.option(
    "--events", "limit", type=click.IntRange(min=0), default=50, metavar="N", help="Events of a job to show [50]."
)
@click.option("-w", "--watch", is_flag=True, help="Show the overview again every second, until Ctrl-C.")
def inspect(job: str | None, url: str | None, as_json: bool, limit: int, watch: bool) -> None:
    """Show the queues, the workers and the latest failures; or all about one JOB.

    JOB is a number (4821 or #4821), an id, or at least the last 6 characters of an id.

    \b
    Examples:
      lq inspect
      lq inspect 4821
      lq inspect --json | jq .queues
    """  # noqa: D301 (click reads the backspace)
    if job is None:
        asyncio.run(_overview(resolve_url(url), as_json=as_json, watch=watch))
    else:
        asyncio.run(_job(resolve_url(url), job, as_json=as_json, limit=limit))


async def _overview(url: str, *, as_json: bool, watch: bool) -> None:
    async with await open_store(url, create=False) as store:
        while True:
            picture = await overview.gather(store)
            if watch and not as_json:
                click.clear()
            if as_json:
                write_json(overview.as_json(picture))
            else:
                show(overview.as_blocks(picture))
            if not watch:
                return
            await asyncio.sleep(1)


async def _job(url: str, reference: str, *, as_json: bool, limit: int) -> None:
    async with await open_store(url, create=False) as store:
        record = await find_job(store, reference)
        events = await store.events(record.number, limit=100_000)
        page = jobpage.Page(record, events, limit)
        if as_json:
            write_json(jobpage.as_json(page))
        else:
            show(jobpage.as_blocks(page))


async def find_job(store: Store, reference: str) -> QueuedTaskRecord:
    """Return the job that *reference* means: number, id, or ending of an id; ``JobNotFound`` says which failed."""
    text = reference.strip().removeprefix("#")
    found: list[QueuedTaskRecord | None] = []
    if is_number(text) and len(text) < 19:
        found = await store.get([int(text)], attempts=True)
        if found[0] is None and len(text) >= SHORTEST_ENDING:  # one ending in forty has digits only
            found = await _by_ending(store, text)
    elif re.fullmatch(r"[0-9a-fA-F-]{36}", text):
        found = await store.get([_uuid(text)], attempts=True)
    else:
        found = await _by_ending(store, text.lower())
    if not found or found[0] is None:
        msg = f"no job is {reference!r} in this store; lq inspect lists what there is"
        raise JobNotFound(msg)
    return found[0]


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        msg = f"{text!r} is not an id"
        raise JobNotFound(msg) from None


async def _by_ending(store: Store, ending: str) -> list[QueuedTaskRecord | None]:
    if len(ending) < SHORTEST_ENDING or not re.fullmatch(r"[0-9a-f-]+", ending):
        msg = f"{ending!r} names no job; give its number, its id, or the last {SHORTEST_ENDING} characters of its id"
        raise JobNotFound(msg)
    matches = await store.find(Query(id_ending=ending, limit=2))
    if len(matches) > 1:
        numbers = ", ".join(f"#{match.number}" for match in matches)
        msg = f"the ids of several jobs end in {ending!r} ({numbers}, …); give more of it, or a number"
        raise JobNotFound(msg)
    return await store.get([matches[0].number], attempts=True) if matches else []
