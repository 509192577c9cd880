"""litestar-queues with its default store: a temporary SQLite file that one server shares with its one worker process."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

import common
import work
from litestar import Litestar
from litestar_queues_on_redis import POLL_S, LitestarQueues

from litestar_queues import QueueConfig, QueuePlugin, QueueService, WorkerConfig, task

logging.getLogger("litestar_queues").setLevel(logging.WARNING)

SLOTS = int(os.environ.get(work.SLOTS, "1"))

plugin = QueuePlugin(
    QueueConfig(
        worker=WorkerConfig(
            max_concurrency=SLOTS, batch_size=SLOTS, poll_interval=POLL_S, poll_backoff_max=POLL_S, poll_jitter=0.0
        )
    )
)
app = Litestar(plugins=[plugin])


@task("gate")
async def gate() -> None:
    """Keep the worker's loop, and so all of its jobs, until it may start."""
    work.hold()


class LitestarQueuesOnSqlite(LitestarQueues):
    settings = (
        "the default store ('ephemeral': a temporary SQLite file) with the default placement: one worker process, however"
        " many are asked for; uvloop in the adapter, max_concurrency and batch_size 100 (2 for CPU work), no log of successes,"
        f" polled every {POLL_S * 1000:.0f} ms without back-off (default: 100 ms growing to 30 s), bulk enqueue by the"
        " backend's enqueue_many of 1,000"
    )
    durability = "none by design: the file is private to one run of the server and is deleted when the server stops"
    lacks = {
        "enqueuers": "only the server's own process can enqueue",
        "memory": "the worker starts and ends with the server, which is the adapter itself",
    }

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        self.workers = 1
        here = Path(__file__)
        os.environ |= {
            "LITESTAR_APP": f"{here.stem}:app",
            "PYTHONPATH": str(here.parent),
            work.SLOTS: str(self.slots(options.scenario)),
        }

    async def open(self) -> None:
        # What `litestar run` does around its server: this starts the worker process.
        self.server = plugin.server_lifespan(app)
        self.server.__enter__()
        self.serving = app.lifespan()
        await self.serving.__aenter__()
        self.service = QueueService(plugin.config)
        await self.service.open()

    async def close(self) -> None:
        await self.service.close()
        await self.serving.__aexit__(None, None, None)
        self.server.__exit__(None, None, None)

    def commands(self, slots: int) -> list[list[str]]:
        return []

    def ready(self, slots: int) -> int:
        return 1

    async def started(self) -> None:
        await self.service.enqueue(gate)


if __name__ == "__main__":
    common.main(LitestarQueuesOnSqlite)
