"""Every snippet of the user's document runs as written, with the worker a real ``lq worker``.

The blocks are extracted from docs/seed.md when the tests run. What they define is served by a worker
that imports the very same text from a module; effects are asserted where they happen: in the
worker's process, which is not this one.
"""

from __future__ import annotations

import ast
import inspect
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from litestar import Litestar
from litestar.testing import AsyncTestClient

from litestar_queues import Query, QueueConfig, QueuedTaskRecord, QueuePlugin, QueueService, TaskResult
from litestar_queues.clock import SECOND, SystemClock
from litestar_queues.registry import tasks
from seed.blocks import SEED, Block, read_blocks
from support.masters import RunningMaster
from support.waiting import eventually

pytestmark = pytest.mark.anyio
FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
BLOCKS = read_blocks()
CONFIG_LINES = '{"cloudrun": "local"}'
RETRIES = """
from litestar_queues import NonRetryableError, non_retryable

@task("retries.unhandled", retry_backoff=0.01)
async def unhandled() -> None:
    raise ValueError("again")

@task("retries.error", retries=5)
async def with_error() -> None:
    raise NonRetryableError("never again")

@task("retries.helper", retries=5)
def with_helper() -> None:
    non_retryable("never again")
"""
"""The document has no code for its paragraph on retries: this says the same."""


def block(start: str, number: int = 0) -> Block:
    """Return the block whose code has a line beginning with *start*."""
    found = [each for each in BLOCKS if any(line.startswith(start) for line in each.code.splitlines())]
    return found[number]


class Seed:
    """A worker that serves the document's tasks, and a client that runs its snippets."""

    def __init__(self, service: QueueService, master: RunningMaster, names: dict[str, Any]) -> None:
        self.service = service
        self.master = master
        self.names = names

    async def run(self, code: str) -> dict[str, Any]:
        """Run a snippet as it stands, with the names that the ones before it made."""
        result = eval(compile(code, str(SEED), "exec", flags=FLAGS, dont_inherit=True), self.names)
        if inspect.isawaitable(result):
            await result
        return self.names

    async def ran_elsewhere(self, result: TaskResult[Any]) -> QueuedTaskRecord:
        """Return the record of a job that has completed, in a process that is a worker of the master."""
        record = await result.wait(30)
        assert record.status == "completed", record.error
        [attempt] = record.attempts
        assert attempt.receipt is not None
        assert attempt.receipt.pid != os.getpid()
        assert attempt.receipt.pid in self.master.workers()
        return record


@pytest.fixture
async def seed(
    tmp_path: Path,
    url: str,
    start_master: Callable[..., RunningMaster],
    monkeypatch: pytest.MonkeyPatch,
    anyio_backend: str,
) -> AsyncIterator[Seed]:
    definitions = [each.code for each in BLOCKS if "@task" in each.code]
    source = "\n\n\n".join(definitions)
    app = (
        "from litestar import Litestar\n"
        "from litestar_queues import QueueConfig, QueuePlugin, QueueService\n"
        f"{source}\n\n{RETRIES}\n\n"
        f"app = Litestar(plugins=[QueuePlugin(QueueConfig(queue_backend={url!r}, execution_backends={CONFIG_LINES}))])\n"
    )
    (tmp_path / "seed_app.py").write_text(app)
    module = ModuleType("seed_document")
    monkeypatch.setitem(sys.modules, "seed_document", module)
    config = QueueConfig(queue_backend=url, execution_backends={"cloudrun": "local"})
    with tasks.isolated():
        async with QueueService(config) as service:
            master = start_master("--app", "seed_app:app", "--concurrency", "2", serve=None, url=None).until_serving()
            names = vars(module)
            names |= {"queue_service": service, "QueueService": QueueService}
            yield Seed(service, master, names)


async def define(seed: Seed, *starts: str) -> None:
    for start in starts:
        await seed.run(block(start).code)


async def test_a_task_can_still_be_called_directly(seed: Seed) -> None:
    await define(seed, "from litestar_queues import task")
    names = await seed.run(block("value = await").code)
    assert names["value"] == "report-1"


async def test_enqueue_and_wait(seed: Seed) -> None:
    await define(seed, "from litestar_queues import task")
    names = await seed.run(block("await result.wait(timeout=30)").code)
    record = await seed.ran_elsewhere(names["result"])
    assert names["result"].result == "report-1"
    assert (record.queue, record.priority, record.max_retries, record.timeout) == ("reports", 10, 2, 120)


class Behind:
    """A clock some seconds behind: what is enqueued by it for later is due sooner."""

    def __init__(self, seconds: float) -> None:
        self._clock = SystemClock()
        self._behind = int(seconds * SECOND)

    def now(self) -> int:
        return self._clock.now() - self._behind

    def monotonic(self) -> int:
        return self._clock.monotonic()


async def test_every_override_of_one_call_is_stored_and_the_job_runs_when_it_is_due(seed: Seed) -> None:
    await define(seed, "from litestar_queues import task")
    async with QueueService(seed.service.config, clock=Behind(29), store=seed.service.store) as earlier:
        seed.names["queue_service"] = earlier
        names = await seed.run(block("    execution_profile=").code)
    record = names["result"].record
    assert (record.queue, record.priority, record.max_retries, record.timeout) == ("slow-reports", 1, 5, 600)
    assert (record.execution_backend, record.execution_profile) == ("cloudrun", "heavy")
    assert record.metadata == {"requested_by": "user-123"}
    assert (record.scheduled_at - record.created_at).total_seconds() == 30
    assert record.status == "scheduled"

    ended = await seed.ran_elsewhere(await seed.service.get_result(record.id))

    assert ended.started_at is not None
    assert ended.started_at >= record.scheduled_at


async def test_a_configured_copy_is_passed_around(seed: Seed) -> None:
    await define(seed, "from litestar_queues import task")
    names = await seed.run(block("heavy_render =").code)
    assert names["heavy_render"].name == "reports.render"
    [record] = await seed.service.list_tasks(Query(task="reports.render"))
    assert (record.execution_backend, record.execution_profile) == ("cloudrun", "heavy")
    await seed.ran_elsewhere(await seed.service.get_result(record.id))


async def test_a_key_deduplicates_active_work(seed: Seed) -> None:
    await define(seed, "from litestar_queues import task")
    code = block('await queue_service.enqueue(render_report, "report-1", key=').code
    paused = code.replace("key=", "run_after=60, key=")
    await seed.run(paused)  # held back, so that it is live when the snippet comes
    await seed.run(code)
    [record] = await seed.service.list_tasks(Query(task="reports.render"))
    assert record.key == "report:report-1"


async def test_the_context_is_injected_in_the_worker(seed: Seed) -> None:
    await define(seed, "from litestar_queues import task", '@task("imports.run")')
    result = await seed.service.enqueue("imports.run", "data.csv")
    await seed.ran_elsewhere(result)
    [progress] = [event for event in await result.events() if event.type == "task.progress"]
    assert (progress.progress_current, progress.progress_total) == (1, 10)
    assert progress.message == f"Started {result.id}"


async def test_the_helpers_publish_while_a_context_is_bound(seed: Seed) -> None:
    await define(seed, "from litestar_queues import task", '@task("imports.process")')
    result = await seed.service.enqueue("imports.process", "data.csv")
    await seed.ran_elsewhere(result)
    said = [
        (event.type, event.message) for event in await result.events() if event.attempt and event.type != "task.started"
    ]
    assert ("task.log", "Import started") in said
    [progress] = [event for event in await result.events() if event.type == "task.progress"]
    assert progress.progress_percent == 50


async def test_a_result_caches_what_was_last_known_until_it_is_refreshed(seed: Seed) -> None:
    await define(seed, "from litestar_queues import task")
    result = await seed.service.enqueue(seed.names["render_report"], "report-1")
    await (await seed.service.get_result(result.id)).wait(30)
    assert (result.status, result.result) == ("pending", None)
    await result.refresh()
    assert (result.status, result.result) == ("completed", "report-1")


async def test_unhandled_exceptions_retry_until_max_retries_is_exhausted(seed: Seed) -> None:
    record = await (await seed.service.enqueue("retries.unhandled", retries=2)).wait(30)
    assert (record.status, record.max_retries, record.attempt) == ("failed", 2, 3)
    assert [attempt.outcome for attempt in record.attempts] == ["raised"] * 3
    assert record.error == "ValueError: again"


@pytest.mark.parametrize("name", ["retries.error", "retries.helper"])
async def test_a_failure_that_is_not_retryable_moves_directly_to_failed(seed: Seed, name: str) -> None:
    record = await (await seed.service.enqueue(name)).wait(30)
    assert (record.status, record.max_retries, record.attempt) == ("failed", 5, 1)
    assert record.error == "NonRetryableError: never again"


async def test_enqueue_inside_the_route_saves_before_the_response(seed: Seed) -> None:
    await define(
        seed,
        "@post",
    )
    code = block('return {"task_id": str(result.id)}').code
    body = "async def route():\n" + "\n".join(f"    {line}" for line in code.splitlines())
    names = await seed.run(body)
    answer = await names["route"]()
    record = await seed.service.get_task(answer["task_id"])
    assert record is not None
    assert record.task_name == "tasks.background_process"


@pytest.mark.parametrize(
    "start",
    ["from litestar.background_tasks import BackgroundTask", "from litestar_queues import QueuedBackgroundTask"],
)
async def test_a_background_task_enqueues_after_the_response(seed: Seed, start: str) -> None:
    await define(seed, start)
    await answer_and_run(seed)


async def test_the_helper_takes_the_service_that_the_route_received(seed: Seed) -> None:
    await define(seed, "from litestar_queues import QueuedBackgroundTask", "from litestar.di import NamedDependency")
    await answer_and_run(seed)


async def answer_and_run(seed: Seed) -> None:
    """Serve the route that the snippet defined, call it, and see its job run in a worker."""
    app = Litestar(route_handlers=[seed.names["trigger"]], plugins=[QueuePlugin(seed.service.config)])
    async with AsyncTestClient(app) as client:
        response = await client.post("/trigger")
        assert (response.status_code, response.json()) == (201, {"status": "queued"})

        async def stored() -> list[QueuedTaskRecord]:
            return await seed.service.list_tasks(Query(task="tasks.background_process"))

        [record] = await eventually(stored, "the job is stored")
        assert record.args == [42]
    await seed.ran_elsewhere(await seed.service.get_result(record.id))


def test_every_block_of_the_document_is_run_by_a_test_here() -> None:
    source = Path(__file__).read_text()
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    starts = set()
    for call in calls:
        if getattr(call.func, "id", "") in ("block", "define"):
            starts |= {
                each.value for each in call.args if isinstance(each, ast.Constant) and isinstance(each.value, str)
            }
    starts |= {
        "from litestar.background_tasks import BackgroundTask",
        "from litestar_queues import QueuedBackgroundTask",
    }
    used = {index for start in starts for index, each in enumerate(BLOCKS) if _has(each, start)}
    missing = [each.code for index, each in enumerate(BLOCKS) if index not in used]
    assert missing == []
    assert len(BLOCKS) == 12, [each.code.splitlines()[0] for each in BLOCKS]


def _has(each: Block, start: str) -> bool:
    return any(line.startswith(start) for line in each.code.splitlines())
