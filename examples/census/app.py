"""The census of ``lq demo`` as a Litestar app: a route that starts it, and one that reports on it.

::

    litestar --app examples.census.app:app run
    lq worker --app examples.census.app:app
    curl -X POST localhost:8000/census
    curl localhost:8000/census
"""

from __future__ import annotations

from typing import Any

from litestar import Litestar, get, post
from litestar.di import NamedDependency

from litestar_queues import Query, QueueConfig, QueuePlugin, QueueService, Status, TaskRequest
from lq.census import tasks


@post("/census")
async def start(queue_service: NamedDependency[QueueService]) -> dict[str, Any]:
    """Enqueue a job for each package; one that is still being counted is not counted twice."""
    requests = [TaskRequest(tasks.count, (name,), options={"key": f"census:{name}"}) for name in tasks.packages()]
    results = await queue_service.enqueue_many(requests)
    return {"jobs": [result.number for result in results], "new": sum(not result.deduplicated for result in results)}


@get("/census")
async def report(queue_service: NamedDependency[QueueService]) -> dict[str, Any]:
    """Say how far it is, and what was counted."""
    counts = await queue_service.get_statistics("census")
    done = await queue_service.list_tasks(Query(statuses=(Status.COMPLETED,), task=tasks.count.name, limit=1000))
    packages = {record.result["package"]: record.result for record in reversed(done)}
    return {
        "waiting": counts.pending + counts.scheduled,
        "running": counts.running,
        "failed": counts.failed,
        "lines": sum(package["lines"] for package in packages.values()),
        "packages": packages,
    }


app = Litestar(route_handlers=[start, report], plugins=[QueuePlugin(QueueConfig())])
