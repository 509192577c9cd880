"""``lq demo``: the whole of it on real input, on the machine it is on.

Starts a master on a temporary database, takes a census of the standard library (a job a package),
enqueues one key twice, has one job hang in C code and killed, one that fails twice; shows it while
it happens, and what came of it. Exits with 1, and says why, if anything ended otherwise than it
should.

The master is a real ``lq worker``, as anyone would start it. What is shown: ``census/live.py``
and ``census/report.py``.
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

import click

from litestar_queues.config import QueueConfig
from litestar_queues.models import TaskRequest
from litestar_queues.service import QueueService
from lq import exits, owned
from lq.census import tasks
from lq.census.live import Watch, follow
from lq.census.report import Census, summary, unparsed, wrongs
from lq.render.page import complain, show

_QUICK = ("json", "sqlite3", "asyncio", "email", "lib2to3")
_LIMIT = 600.0
"""Seconds after which the demonstration gives up."""


@click.command(short_help="Take a census of the standard library, and see a job killed.")
@click.option("-c", "--concurrency", type=click.IntRange(min=1), help="Worker processes [one per CPU].")
@click.option("--quick", is_flag=True, help="A few packages only.")
@click.option("--keep", is_flag=True, help="Keep the database, and say how to look at it.")
def demo(concurrency: int | None, quick: bool, keep: bool) -> None:
    """Take a census of the Python standard library with a real master and real workers.

    One CPU-bound job for each package; one job enqueued twice under one key; one that hangs in C
    code and is killed at its timeout; one that fails twice and then succeeds. Exit status: 0 when
    all of them ended as they should, 1 otherwise.
    """
    # Whoever ends the demonstration ends its master too.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="lq-demo-"))
    (folder / "pyproject.toml").touch()  # where the search for settings ends: no project's above it is found
    try:
        problems = asyncio.run(_run(folder, concurrency or len(os.sched_getaffinity(0)), quick=quick))
    finally:
        if keep:
            click.echo(f"kept; to look further: lq inspect --url sqlite:///{folder / 'demo.db'}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    for problem in problems:
        complain(f"not as it should be: {problem}")
    raise click.exceptions.Exit(exits.FAILED if problems else exits.OK)


async def _run(folder: Path, concurrency: int, *, quick: bool) -> list[str]:
    """Run the demonstration in *folder*, and return what did not go as it should."""
    url = f"sqlite:///{folder / 'demo.db'}"
    started = time.monotonic()
    async with QueueService(QueueConfig(queue_backend=url)) as service:
        census = await _enqueue(service, quick=quick)
        click.echo(
            f"{len(census.all)} jobs enqueued: a census of {len(census.counts)} packages, one of them enqueued twice;\n"
            "one that hangs in C code; one that fails twice. Starting the master:\n"
            f"lq worker --import {tasks.__name__} --concurrency {concurrency}\n"
        )
        with _master(folder, url, concurrency) as master:
            ending = await follow(service, census.all, Watch.on(sys.stdout), master.poll, until=started + _LIMIT)
        if ending is not None:
            return [f"{ending}\n{owned.last_words(_log_file(folder))}"]
        records = {result.number: await result.refresh() for result in census.all}
        logged = await unparsed(service, census)
    problems = wrongs(census, records)
    show(summary(census, records, logged, seconds=time.monotonic() - started, is_right=not problems))
    return problems


async def _enqueue(service: QueueService, *, quick: bool) -> Census:
    """Enqueue everything: the hang first, so that its two seconds pass beside the work."""
    hang = await service.enqueue(tasks.hang.using(priority=10))
    flaky = await service.enqueue(tasks.flaky.using(priority=5))
    chosen = [name for name in tasks.packages() if not quick or name in _QUICK]
    # The longest first, so that at the end no process waits for another.
    chosen.sort(key=lambda name: -len(tasks.files_of(name)))
    requests = [TaskRequest(tasks.count, (name,), options={"key": f"census:{name}"}) for name in chosen]
    counts = await service.enqueue_many(requests)
    twice = await service.enqueue(tasks.count.using(key=f"census:{chosen[0]}"), chosen[0])
    return Census(counts, twice, hang, flaky)


@contextmanager
def _master(folder: Path, url: str, concurrency: int) -> Iterator[subprocess.Popen[bytes]]:
    options = ["--concurrency", str(concurrency), "--drain-timeout", "0"]
    process = owned.start(folder, _log_file(folder), "--import", tasks.__name__, "--url", url, *options)
    try:
        yield process
    finally:
        owned.stop(process)


def _log_file(folder: Path) -> Path:
    return folder / "worker.log"
