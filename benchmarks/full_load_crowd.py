"""Those who enqueue and those who read in ``full_load.py``: each a process of its own, in its process group."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import multiprocessing
import signal
import sqlite3
import time
from multiprocessing.context import SpawnProcess
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event

import full_load_app as load

from litestar_queues import Query, QueueConfig, QueueService
from litestar_queues.store import open_store
from lq import overview

LEAST, MOST, BATCH = 5_000, 20_000, 1_000
"""Jobs: when the backlog is filled up, and to where, and how many a call."""
ONE_BY_ONE, PAUSE = 4, 0.02
"""Coroutines that enqueue one by one, and seconds between two calls of one."""
LONG_READ, LONG_READ_AT = 5.0, 30
"""Seconds of a long read, and when in each minute."""


async def feed(url: str, stop: Event) -> None:
    """Keep the backlog between ``LEAST`` and ``MOST``."""
    accepted, ticket = load.marks("accepted", "feeder"), 0
    async with QueueService(QueueConfig(queue_backend=url)) as service:
        goal = LEAST
        while not stop.is_set():
            counts = await service.get_statistics()
            if counts.scheduled + counts.pending + counts.running >= goal:
                goal = LEAST
                await asyncio.sleep(0.05)
                continue
            goal = MOST
            tickets = range(ticket, ticket + BATCH)
            await service.enqueue_many([load.request("feeder", each) for each in tickets])
            accepted.write(ticket, bytes(map(load.runs_of, tickets)))
            ticket += BATCH


async def call(url: str, stop: Event) -> None:
    """Enqueue one by one, like handlers of a web server."""
    accepted, tickets = load.marks("accepted", "callers"), itertools.count()

    async def one() -> None:
        while not stop.is_set():
            ticket = next(tickets)
            request = load.request("callers", ticket)
            await service.enqueue(request.task, *request.args)
            accepted.write(ticket, bytes([load.runs_of(ticket)]))
            await asyncio.sleep(PAUSE)

    async with QueueService(QueueConfig(queue_backend=url)) as service, asyncio.TaskGroup() as group:
        for _ in range(ONE_BY_ONE):
            group.create_task(one())


async def look(url: str, stop: Event, is_reading: Synchronized[int]) -> None:
    """Look at the store once a second, and for long once a minute."""
    path = url.removeprefix("sqlite:///")
    async with await open_store(url, create=False) as store, asyncio.TaskGroup() as group:
        for second in itertools.count():
            if stop.is_set():
                return
            await overview.gather(store)
            await store.find(Query(limit=50))
            if second % 60 == LONG_READ_AT:
                group.create_task(asyncio.to_thread(read_for_long, path, is_reading))
            await asyncio.sleep(1)


def read_for_long(path: str, is_reading: Synchronized[int]) -> None:
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)) as connection:
        is_reading.value = 1
        connection.execute("BEGIN")
        connection.execute("SELECT value FROM lq_sequence").fetchall()
        for _ in range(round(LONG_READ * 10)):  # not by the clock: it may be stopped
            time.sleep(0.1)
        connection.execute("ROLLBACK")
        is_reading.value = 0


def run(what: str, url: str, stop: Event, is_reading: Synchronized[int]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run({"feed": feed, "call": call}[what](url, stop) if what != "look" else look(url, stop, is_reading))


class Crowd:
    """All of them."""

    def __init__(self, url: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._stop_calling, self._stop_reading = context.Event(), context.Event()
        self.is_reading: Synchronized[int] = context.Value("i", 0)
        stops = {"feed": self._stop_calling, "call": self._stop_calling, "look": self._stop_reading}
        self._processes: dict[str, SpawnProcess] = {
            what: context.Process(target=run, args=(what, url, stop, self.is_reading), daemon=True)
            for what, stop in stops.items()
        }
        for process in self._processes.values():
            process.start()

    def stop_calling(self) -> None:
        self._stop_calling.set()
        self._processes["feed"].join()
        self._processes["call"].join()

    def stop_reading(self) -> None:
        self._stop_reading.set()
        self._processes["look"].join()

    def problems(self) -> list[str]:
        return [
            f"the process that does {what!r} ended with status {process.exitcode}"
            for what, process in self._processes.items()
            if process.exitcode
        ]
