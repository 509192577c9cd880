"""Huey with its SQLite storage: threads that poll one file."""

from __future__ import annotations

import os
from typing import Any

import common
import work
from huey import SqliteHuey

DELAY_S = 0.01


class HueyOnSqlite(common.BlockingPeer):
    distribution = "huey"
    settings = (
        f"SqliteHuey in WAL mode with its default fsync (off), polled every {DELAY_S * 1000:.0f} ms without back-off"
        " (default: 100 ms growing to 10 s), one thread per process for no-op and CPU jobs and 100 in all for sleeps,"
        " results kept; no bulk call: one caller in a loop"
    )
    durability = (
        "a kill of any process loses no job that waits, but the job that a killed worker ran is gone (it is taken out"
        " of the queue before it runs); without fsync a power cut may lose the last commits"
    )

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.huey = SqliteHuey("bench", filename=os.path.join(os.environ["LQ_PEER_FOLDER"], "huey.db"), timeout=60)
        self.tasks = {name: self.huey.task(name=name)(function) for name, function in work.BLOCKING.items()}

    async def enqueue(self, task: str, *args: Any, high: bool = False) -> Any:
        return self.tasks[task](*args, priority=10) if high else self.tasks[task](*args)

    async def result(self, handle: Any) -> Any:
        return handle.get(blocking=True, timeout=60, backoff=1.0, max_delay=0.005)

    async def is_settled(self) -> bool:
        # A job leaves the queue before it runs, and its result is written after it: nothing else tells of the end.
        return not self.huey.pending_count()

    def slots(self, scenario: str) -> int:
        return super().slots(scenario) if scenario in ("sleep", "large") else 1

    def work(self, slots: int) -> None:
        consumer = self.huey.create_consumer(
            workers=slots, periodic=False, initial_delay=DELAY_S, max_delay=DELAY_S, backoff=1.0, worker_type="thread"
        )
        work.hold()
        consumer.run()


if __name__ == "__main__":
    common.main(HueyOnSqlite)
