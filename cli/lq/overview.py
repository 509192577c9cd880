"""The queues at a glance: what waits, who works on what, what failed last."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from litestar_queues.clock import SECOND, Clock, SystemClock, to_datetime
from litestar_queues.master.liveness import is_locked
from litestar_queues.models import Query, QueuedTaskRecord, QueueStatistics, Status
from litestar_queues.nodes import Node, WorkerState
from litestar_queues.redaction import shown_url
from litestar_queues.store import Store
from lq.render.page import Block, Cell, Heading, Pairs, Table
from lq.render.text import ago, duration, size

FAILURES = 10
_FIGURES = frozenset({"SCHEDULED", "PENDING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED", "EXPIRED", "OLDEST"})


class Picture(Struct, frozen=True):
    """The store at one moment."""

    url: str
    now: int
    queues: dict[str, QueueStatistics]
    oldest: dict[str, int]
    nodes: list[Node]
    living: frozenset[str]
    failures: list[QueuedTaskRecord]


async def gather(store: Store, clock: Clock | None = None) -> Picture:
    """Read what the overview shows."""
    nodes = await store.nodes()
    return Picture(
        url=shown_url(store.url),
        now=(clock or SystemClock()).now(),
        queues=await store.statistics(),
        oldest=await store.oldest_waiting(),
        nodes=nodes,
        living=frozenset(node.id for node in nodes if is_locked(store.folder, node.id)),
        failures=await store.find(Query(statuses=(Status.FAILED,), limit=FAILURES)),
    )


def as_blocks(picture: Picture) -> list[Block]:
    """Return the overview for people."""
    blocks: list[Block] = [
        Pairs((("store", picture.url), ("at", to_datetime(picture.now).isoformat(timespec="seconds"))))
    ]
    blocks += _queues(picture)
    for node in picture.nodes:
        blocks += _node(picture, node)
    hint = _hint(picture)
    if hint:
        blocks.append(Pairs((("!", hint),)))
    if picture.failures:
        rows = tuple(_failure(picture, job) for job in picture.failures)
        blocks += [Heading("Latest failures"), Table(("JOB", "TASK", "WHEN", "ERROR"), rows)]
    return blocks


def as_json(picture: Picture) -> dict[str, Any]:
    """Return the overview for programs."""
    return {
        "store": picture.url,
        "at": to_datetime(picture.now),
        "queues": [_queue_json(picture, name, counts) for name, counts in picture.queues.items()],
        "nodes": [_node_json(picture, node) for node in picture.nodes],
        "failures": [
            {
                "number": job.number,
                "id": job.id,
                "task": job.task_name,
                "queue": job.queue,
                "ended_at": job.completed_at,
                "error": job.error,
            }
            for job in picture.failures
        ],
    }


def _queues(picture: Picture) -> list[Block]:
    columns = ("QUEUE", "RUNNING", "PENDING", "SCHEDULED", "COMPLETED", "FAILED", "CANCELLED", "EXPIRED", "OLDEST")
    rows = tuple(
        (
            name,
            counts.running,
            counts.pending,
            counts.scheduled,
            counts.completed,
            Cell(str(counts.failed), "red" if counts.failed else ""),
            counts.cancelled,
            counts.expired,
            _wait(picture, name),
        )
        for name, counts in picture.queues.items()
    )
    if not rows:
        return [Pairs((("queues", "none yet: nothing has been enqueued"),))]
    return [Heading("Queues"), Table(columns, rows, _FIGURES)]


def _wait(picture: Picture, queue: str) -> str:
    since = picture.oldest.get(queue)
    return "-" if since is None else duration((picture.now - since) / SECOND)


def _node(picture: Picture, node: Node) -> list[Block]:
    alive = node.id in picture.living
    state = "draining" if node.draining else "serving"
    beat = ago((picture.now - node.beat_at) / SECOND)
    aside = f"pid {node.pid} on {node.host} · {node.app or 'no app'} · last sign of life {beat}"
    blocks: list[Block] = [Heading(f"Master {node.id[:8]}  {state if alive else 'dead'}", aside)]
    blocks += [Pairs((("problem", f"pool {pool.name}: {pool.problem}"),)) for pool in node.pools if pool.problem]
    if alive and node.workers:
        rows = tuple(
            (
                worker.name,
                worker.pid,
                worker.state,
                _doing(worker),
                duration((picture.now - worker.since) / SECOND) if worker.since else "-",
                size(worker.rss),
                worker.served,
            )
            for worker in node.workers
        )
        columns = ("WORKER", "PID", "STATE", "JOB", "FOR", "RSS", "SERVED")
        blocks.append(Table(columns, rows, frozenset({"PID", "FOR", "RSS", "SERVED"})))
    return blocks


def _doing(worker: WorkerState) -> str:
    if worker.job is None:
        return "-"
    more = len(worker.jobs) - 1
    return f"#{worker.job} {worker.task}" + (f" and {more} more" if more > 0 else "")


def _hint(picture: Picture) -> str | None:
    waiting = sum(counts.pending for counts in picture.queues.values())
    if waiting and not picture.living:
        return f"{waiting} jobs wait and no worker is running; start one: lq worker"
    return None


def _failure(picture: Picture, job: QueuedTaskRecord) -> tuple[Any, ...]:
    ended = job.completed_at
    when = "-" if ended is None else ago((to_datetime(picture.now) - ended).total_seconds())
    return f"#{job.number}", job.task_name, when, Cell(job.error or "", "red")


def _queue_json(picture: Picture, name: str, counts: QueueStatistics) -> dict[str, Any]:
    since = picture.oldest.get(name)
    return {
        "queue": name,
        **{str(status): getattr(counts, status) for status in Status},
        "oldest_waiting_seconds": None if since is None else (picture.now - since) / SECOND,
    }


def _node_json(picture: Picture, node: Node) -> dict[str, Any]:
    return {
        "id": node.id,
        "alive": node.id in picture.living,
        "draining": node.draining,
        "host": node.host,
        "pid": node.pid,
        "app": node.app,
        "version": node.version,
        "started_at": to_datetime(node.started_at),
        "last_beat_at": to_datetime(node.beat_at),
        "pools": [
            {
                "pool": pool.name,
                "processes": pool.processes,
                "slots": pool.slots,
                "queues": pool.queues,
                "problem": pool.problem,
            }
            for pool in node.pools
        ],
        "workers": [
            {
                "worker": worker.name,
                "pid": worker.pid,
                "pool": worker.pool,
                "state": worker.state,
                "job": worker.job,
                "task": worker.task,
                "jobs": worker.jobs,
                "waiting": worker.waiting,
                "running_since": None if worker.since is None else to_datetime(worker.since),
                "rss_bytes": worker.rss,
                "served": worker.served,
            }
            for worker in node.workers
        ],
    }
