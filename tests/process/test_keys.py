"""One live job a key, however many processes enqueue it while a worker drains."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from litestar_queues import Query, QueueConfig, QueueService
from support import history, logbook, zoo
from support.masters import RunningMaster

pytestmark = pytest.mark.anyio
PROCESSES = 8
CALLS = 1_000 if os.environ.get("LQ_LONG") else 125
"""Enqueues of each process: 1,000 in all in every run, 8,000 with LQ_LONG=1."""


def enqueue_many_times(url: str, calls: int, out: str) -> None:
    """Enqueue one key over and over, and write down what each call got."""

    async def run() -> list[tuple[int, str, bool]]:
        got = []
        async with QueueService(QueueConfig(queue_backend=url)) as service:
            history.record(service)
            for _ in range(calls):
                result = await service.enqueue(zoo.recorded.using(key="the-one"), "the-one")
                got.append((result.number, str(result.id), result.deduplicated))
        return got

    Path(out).write_text(json.dumps(asyncio.run(run())))


@pytest.mark.fault(
    "D1",
    "eight processes enqueue one key while a worker drains",
    "one live job; every call's id ran or was deduplicated",
)
async def test_eight_processes_enqueue_one_key_and_no_two_runs_of_it_overlap(
    service: QueueService, start_master: Callable[..., RunningMaster], logbook_file: Path, tmp_path: Path, url: str
) -> None:
    start_master("--concurrency", "2").until_serving()
    spawn = multiprocessing.get_context("spawn")
    outs = [tmp_path / f"got-{index}.json" for index in range(PROCESSES)]
    processes = [spawn.Process(target=enqueue_many_times, args=(url, CALLS, str(out))) for out in outs]
    for process in processes:
        process.start()
    for process in processes:
        await asyncio.to_thread(process.join, 100)
        assert process.exitcode == 0
    got = [tuple(each) for out in outs for each in json.loads(out.read_text())]
    made = {number for number, _, deduplicated in got if not deduplicated}
    assert len(got) == PROCESSES * CALLS
    for number in made:
        assert (await (await service.get_result(number)).wait(30)).status == "completed"
    # Every id that a call was given is that of a job that ran; each call made one, or was told of one.
    assert {number for number, _, _ in got} == made
    assert len([deduplicated for _, _, deduplicated in got if not deduplicated]) == len(made)
    stored = await service.list_tasks(Query(limit=100_000))
    assert {record.number for record in stored} == made
    lines = logbook.read(logbook_file)
    assert len([words for words in lines if words[2] == "start"]) == len(made)
    live = 0
    for words in lines:  # in the order of one clock: never two of the key at once
        live += 1 if words[2] == "start" else -1
        assert live in (0, 1)
