"""Ten thousand jobs later nothing is held that was not held before."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from litestar_queues import QueueService, TaskRequest
from support import hard, zoo
from support.apps import write_app
from support.held import held_by, loose_files, mapped_by, threads_of
from support.masters import RunningMaster
from support.waiting import wait_until

pytestmark = pytest.mark.anyio
LONG = bool(os.environ.get("LQ_LONG"))


@pytest.mark.parametrize(("slots", "count"), [(1, 50_000 if LONG else 10_000), (4, 50_000 if LONG else 3_000)])
@pytest.mark.fault(
    "A17",
    "ten thousand jobs of every kind that ends by itself",
    "no descriptor, thread, socket, mapping, process or file more than before",
)
async def test_nothing_is_held_after_thousands_of_jobs_that_was_not_held_before(
    service: QueueService, start_master: Callable[..., RunningMaster], tmp_path: Path, url: str, slots: int, count: int
) -> None:
    app = write_app(tmp_path, url, worker=f"max_concurrency=2, slots={slots}")
    master = start_master(*app, "--log-level", "none", serve=None, url=None).until_serving()
    kinds = [
        *[TaskRequest(zoo.good, (number,)) for number in range(6)],
        TaskRequest(zoo.good_async, ("text",)),
        TaskRequest(zoo.fails.using(retries=0)),
        TaskRequest(hard.nap, (0.0,)),
        TaskRequest(zoo.then, ("then",)),
    ]

    async def work(count: int) -> None:
        for first in range(0, count, 2_000):
            results = await service.enqueue_many((kinds * 200)[: min(2_000, count - first)])
            for result in results:
                await result.wait(60)
        # Of each worker the last one is a function: one that stays on its loop for coroutines has the two sockets there
        # by which a loop hears of signals.
        for result in await service.enqueue_many([TaskRequest(hard.quick, ("last", 0.02)) for _ in range(20)]):
            await result.wait(60)

    def held() -> dict[str, object]:
        processes = {"master": master.pid, "zygote": master.zygotes()[0]}
        processes |= {f"worker {at}": pid for at, pid in enumerate(master.workers())}
        return {
            name: (held_by(pid), mapped_by(pid), threads_of(pid) if name == "zygote" or slots == 1 else 0)
            for name, pid in processes.items()
        } | {"files": {_steady(name) for name in loose_files(tmp_path / "queues.db.lq")}, "strays": master.strays()}

    await work(1_000)  # what is made at first need is made: threads, connections
    workers = master.workers()
    before = held()
    await work(count)
    wait_until(lambda: held() == before, f"all is as before: {_difference(before, held())}", deadline=15)
    assert master.workers() == workers
    statuses = Counter(str(job.status) for job in await service.store.get(range(1, count + 1)) if job)
    assert set(statuses) == {"completed", "failed"}


def _steady(name: str) -> str:
    """Return a file's name without what is drawn by lot: a bell's."""
    return re.sub(r"[0-9a-f]{8,}", "…", name)


def _difference(before: dict[str, object], after: dict[str, object]) -> dict[str, object]:
    return {name: (before[name], after.get(name)) for name in before if before[name] != after.get(name)}
