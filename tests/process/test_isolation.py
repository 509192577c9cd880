"""What one job leaves, and what the next one in its process meets of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from litestar_queues import QueueService
from support import lasting
from support.apps import write_app
from support.masters import RunningMaster

pytestmark = pytest.mark.anyio
StartMaster = Callable[..., RunningMaster]


@pytest.fixture(params=[1, 4], ids=["one slot", "four slots"])
def master(
    request: pytest.FixtureRequest, start_master: StartMaster, logbook_file: Path, tmp_path: Path, url: str
) -> RunningMaster:
    """One worker with one slot, or with several."""
    arguments = write_app(tmp_path, url, worker=f"max_concurrency=1, slots={request.param}")
    return start_master(*arguments, "--import", "support.lasting", serve=None, url=None).until_serving()


@pytest.mark.usefixtures("master")
async def test_a_job_does_not_see_the_context_of_the_one_before(service: QueueService) -> None:
    for sets in (lasting.sets_tenant, lasting.sets_tenant_in_function):
        await (await service.enqueue(sets, "somebody")).get(30)
        for says in (lasting.says_tenant, lasting.says_tenant_in_coroutine):
            assert await (await service.enqueue(says)).get(30) == "nobody"
