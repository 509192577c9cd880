"""What a master shows of its workers, for those who look at its row."""

from __future__ import annotations

from litestar_queues.cell import Phase
from litestar_queues.master import strays
from litestar_queues.master.assignments import Assignment
from litestar_queues.master.lanes import Lane
from litestar_queues.nodes import WorkerState


def state_of(lane: Lane, pool: str) -> WorkerState:
    """Return what a worker of *pool* does, by its cells."""
    worker = lane.worker
    running: list[tuple[Assignment, int]] = []
    for assignment in lane.assignments.values():
        shown = assignment.shown()
        if shown is not None and shown.phase == Phase.RUNNING:
            running.append((assignment, shown.started_at))
    first, since = running[0] if running else (None, None)
    return WorkerState(
        name=worker.name,
        pid=worker.pid,
        pool=pool,
        state="running" if running else "idle",
        job=first.job.number if first else None,
        task=first.job.task if first else None,
        since=since,
        rss=strays.memory_of(worker.pid),
        served=worker.served,
        jobs=tuple(assignment.job.number for assignment, _ in running),
        waiting=len(lane.assignments) - len(running),
    )
