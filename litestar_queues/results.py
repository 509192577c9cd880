"""``TaskResult``: an enqueued job in the hands of its enqueuer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar
from uuid import UUID

import msgspec

from litestar_queues.clock import to_datetime
from litestar_queues.events.stored import QueueEvent
from litestar_queues.exceptions import JobGone, ResultGone, TaskCancelled, TaskExpired, TaskFailed
from litestar_queues.models import TERMINAL, Added, NewJob, QueuedTaskRecord, Status
from litestar_queues.registry import tasks

if TYPE_CHECKING:
    from litestar_queues.service import QueueService

R = TypeVar("R")


class AsAdded(NamedTuple):
    """A job as it was added: its record is made when somebody asks for it, which few enqueuers do (4 µs)."""

    job: NewJob
    entry: Added


class TaskResult(Generic[R]):
    """One job, and what was last known of it; ``refresh``, ``wait`` and ``get`` look again."""

    _is_gone = False
    """It had ended, and had been pruned, when another enqueue met the key that it keeps for ever."""

    def __init__(self, service: QueueService, seen: QueuedTaskRecord | AsAdded, *, deduplicated: bool = False) -> None:
        self._service = service
        self._seen = seen
        self._deduplicated = deduplicated

    def __repr__(self) -> str:
        return f"<TaskResult #{self.number} {self.task_name} {self.status}>"

    @property
    def id(self) -> UUID:
        """The job's id."""
        return self.record.id

    @property
    def number(self) -> int:
        """The job's number, which people type: ``lq inspect 4821``."""
        return self.record.number

    @property
    def task_name(self) -> str:
        """The task's name."""
        return self.record.task_name

    @property
    def status(self) -> Status:
        """Where the job stood when it was last looked at."""
        return self.record.status

    @property
    def record(self) -> QueuedTaskRecord:
        """The job as it was last read."""
        if isinstance(self._seen, AsAdded):
            self._is_gone = self._seen.entry.status in TERMINAL
            self._seen = _first_record(self._seen.job, self._seen.entry)
        return self._seen

    @property
    def deduplicated(self) -> bool:
        """True when a live job held the key: this is that job, and the call made none."""
        return self._deduplicated

    @property
    def error(self) -> str | None:
        """The error in one line: the one that ended the job, or the last one while it is retried."""
        return self.record.error

    @property
    def result(self) -> R | None:
        """The value, None until the job has completed.

        As the type the task declares; plain JSON values where the task is not known here. Raises
        ``ResultGone`` when the result is kept for less long than the job, and has been dropped.
        """
        record = self.record
        if self._is_gone:
            raise self._gone()
        if record.is_result_gone:
            raise ResultGone(record.number, record.task_name)
        if record.result_json is None:
            return None
        task = tasks.find(self.task_name)
        value: R = record.result if task is None else task.results.decode(record.result_json)
        return value

    async def refresh(self) -> QueuedTaskRecord:
        """Read the job again; ``JobGone`` when it has been pruned."""
        record = await self._service.get_task(self.id)
        if record is None:
            raise self._gone()
        self._seen = record
        return record

    async def wait(self, timeout: float | None = None, poll_interval: float | None = None) -> QueuedTaskRecord:
        """Return the record once the job has ended, however it ended.

        Woken by the store's doorbell. Should that be silent, the store is looked at after 50 ms, then
        less and less often, but at least every *poll_interval* seconds (1 s when not given). Raises
        ``TimeoutError`` after *timeout* seconds, ``JobGone`` when the job has been pruned.
        """
        if self.record.is_terminal and not self._is_gone:
            return self.record
        try:
            async with asyncio.timeout(timeout):
                await self._service.watcher.wait_until_ended(self.number, poll_interval=poll_interval)
        except TimeoutError:
            if (await self.refresh()).is_terminal:
                return self.record
            msg = f"job #{self.number} ({self.task_name}, {self.id}) is still {self.status} after {timeout:g} s"
            raise TimeoutError(msg) from None
        return await self.refresh()

    async def get(self, timeout: float | None = None) -> R:
        """Return the value once the job has completed.

        Raises ``TaskFailed``, ``TaskCancelled`` or ``TaskExpired`` (the first two with the stored
        traceback) when it ended otherwise, and what ``wait`` and ``result`` raise.
        """
        record = await self.wait(timeout)
        if record.status == Status.COMPLETED:
            return self.result  # type: ignore[return-value]  # completed: the value is there
        kind = {Status.CANCELLED: TaskCancelled, Status.EXPIRED: TaskExpired}.get(record.status, TaskFailed)
        trace = record.failure.traceback if record.failure else None
        why = f": {record.error}" if record.error else ""
        msg = f"job #{self.number} ({self.task_name}) {record.status}{why}"
        raise kind(msg, task_name=self.task_name, job_id=str(self.id), traceback=trace)

    def _gone(self) -> JobGone:
        return JobGone(
            f"job #{self.number} ({self.task_name}) is not in the store any more: it has ended and was pruned; "
            "a longer retention keeps it longer"
        )

    async def cancel(self) -> bool:
        """Cancel the job; False when it had ended already. A running one ends soon after."""
        return await self._service.cancel_task(self.number)

    async def events(self) -> list[QueueEvent]:
        """Return the job's life so far, in order."""
        return await self._service.task_events(self.number)


def _first_record(job: NewJob, added: Added) -> QueuedTaskRecord:
    created = to_datetime(job.created_at)
    return QueuedTaskRecord(
        id=added.id,
        number=added.number,
        task_name=job.task,
        queue=job.queue,
        status=added.status,
        priority=job.priority,
        payload=job.payload,
        max_retries=job.max_retries,
        retry_count=0,
        attempt=0,
        crashes=0,
        fence=0,
        scheduled_at=to_datetime(job.run_at),
        created_at=created,
        queued_at=created,
        expires_at=None if job.expires_at is None else to_datetime(job.expires_at),
        execution_backend=job.backend,
        execution_profile=job.profile,
        key=job.key,
        timeout=None if job.timeout is None else job.timeout / 1_000_000,
        metadata=_metadata(job),
    )


def _metadata(job: NewJob) -> dict[str, Any]:
    return msgspec.json.decode(job.metadata) if job.metadata else {}
