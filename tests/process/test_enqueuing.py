"""Tasks that enqueue, wherever in their process they do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from litestar_queues import QueueService, TaskRequest
from support import lasting
from support.apps import write_app
from support.masters import RunningMaster

pytestmark = pytest.mark.anyio
StartMaster = Callable[..., RunningMaster]


async def test_synchronous_tasks_beside_each_other_can_enqueue(
    service: QueueService, start_master: StartMaster, tmp_path: Path, url: str
) -> None:
    app = write_app(tmp_path, url, worker="max_concurrency=1, slots=8")
    start_master(*app, "--import", "support.lasting", serve=None, url=None).until_serving()
    results = await service.enqueue_many([TaskRequest(lasting.enqueues_from_thread, (n,)) for n in range(8)])
    for number, result in enumerate(results):
        following = await service.get_result(await result.get(30))
        assert await following.get(30) == number + 1


async def test_a_child_that_a_task_forks_can_enqueue(service: QueueService, start_master: StartMaster) -> None:
    start_master("--concurrency", "1", serve="support.lasting").until_serving()
    following = await service.get_result(await (await service.enqueue(lasting.enqueues_in_child, 3)).get(30))
    assert await following.get(30) == 5
