"""What clients asked of the queue and what they were told, outside the database."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from litestar_queues import QueueService
from litestar_queues.models import Added, NewJob, Status

VARIABLE = "LQ_TEST_HISTORY"
_calls = itertools.count(1)


def record(service: QueueService) -> QueueService:
    """Have every later ``add`` and ``cancel`` of *service* written down: before the call, and what came of it."""
    path = os.environ.get(VARIABLE)
    if path is None:
        return service
    store: Any = service.store
    add, cancel = store.add, store.cancel

    async def recorded_add(jobs: Sequence[NewJob]) -> list[Added]:
        call = f"{os.getpid()}-{next(_calls)}"
        asked = [{"id": str(job.id), "task": job.task, "key": job.key} for job in jobs]
        write(path, "add", call, "invoke", jobs=asked)
        try:
            added: list[Added] = await add(jobs)
        except BaseException as error:
            write(path, "add", call, "error", error=type(error).__name__)
            raise
        entries = [{"id": str(e.id), "number": e.number, "deduplicated": e.deduplicated} for e in added]
        refused = any(entry.refused for entry in added)
        write(path, "add", call, "refused" if refused else "ok", entries=entries)
        return added

    async def recorded_cancel(numbers: Sequence[int], **options: Any) -> list[Status | None]:
        call = f"{os.getpid()}-{next(_calls)}"
        write(path, "cancel", call, "invoke", numbers=list(numbers))
        stood: list[Status | None] = await cancel(numbers, **options)
        write(path, "cancel", call, "ok", numbers=list(numbers), stood=[each and str(each) for each in stood])
        return stood

    store.add, store.cancel = recorded_add, recorded_cancel
    return service


def write(path: str, action: str, call: str, phase: str, **more: object) -> None:
    """Append a line, with one write."""
    line = {"at": time.monotonic_ns(), "pid": os.getpid(), "action": action, "call": call, "phase": phase, **more}
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, (json.dumps(line) + "\n").encode())
    finally:
        os.close(descriptor)


def read(path: Path) -> list[dict[str, Any]]:
    """Return the lines in order of time; a client that was killed may have left half of its last one."""
    lines = path.read_text().splitlines() if path.exists() else []
    whole = [json.loads(line) for line in lines if line.endswith("}")]
    return sorted(whole, key=lambda line: line["at"])
