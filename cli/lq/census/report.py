"""What came of the demonstration: the tables, and what is not as it should be."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from litestar_queues.models import QueuedTaskRecord, Receipt, Status
from litestar_queues.results import TaskResult
from litestar_queues.service import QueueService
from lq.census.live import what
from lq.census.tasks import Count
from lq.render.page import Block, Cell, Heading, Lines, Pairs, Table
from lq.render.text import duration, size

_LONGEST = 8
_LOGGED = 6
"""How many of each are shown."""

Records = dict[int, QueuedTaskRecord]


class Census(Struct, frozen=True):
    """The demonstration's jobs."""

    counts: list[TaskResult[Any]]
    twice: TaskResult[Any]
    """The first of ``counts``, enqueued once more under its key."""
    hang: TaskResult[Any]
    flaky: TaskResult[Any]

    @property
    def all(self) -> list[TaskResult[Any]]:
        """Every job, the one enqueued twice once."""
        return [*self.counts, self.hang, self.flaky]


async def unparsed(service: QueueService, census: Census) -> list[str]:
    """Return what the jobs logged about files that do not parse."""
    said: list[str] = []
    for result in census.counts:
        if isinstance(result.result, Count) and result.result.unparsed:
            events = await service.task_events(result.number)
            said += [event.message or "" for event in events if event.type == "task.log" and event.level == "warning"]
    return said


def summary(census: Census, records: Records, logged: list[str], *, seconds: float, is_right: bool) -> list[Block]:
    """Return the page that the demonstration ends with."""
    verdict = "Everything ended as it should." if is_right else "Not everything ended as it should."
    return [
        *_counted(census, records, seconds),
        *_logged(logged),
        Heading("Enqueued twice under one key"),
        Pairs((("second time", _second_time(census)),)),
        Heading("Fails twice, then succeeds"),
        _attempts(records[census.flaky.number]),
        Heading("Hangs in C code, killed from outside"),
        *_killed(records[census.hang.number]),
        Heading(verdict),
    ]


def wrongs(census: Census, records: Records) -> list[str]:
    """Return what did not end as it should."""
    found = [
        f"#{record.number} {what(record)} is {record.status}: {record.error}"
        for record in (records[result.number] for result in [*census.counts, census.flaky])
        if record.status != Status.COMPLETED
    ]
    hang, flaky = records[census.hang.number], records[census.flaky.number]
    if hang.status != Status.FAILED or [each.outcome for each in hang.attempts] != ["timed_out"]:
        found.append(f"the job that hangs is {hang.status}, and should be failed after its timeout")
    elif not hang.attempts[0].stack or "in hang" not in hang.attempts[0].stack:
        found.append("the stack of the job that hung does not show where it hung")
    if [each.outcome for each in flaky.attempts] != ["raised", "raised", "succeeded"]:
        found.append(f"the job that fails twice has the attempts {[each.outcome for each in flaky.attempts]}")
    if not census.twice.deduplicated or census.twice.number != census.counts[0].number:
        found.append("the second job with the same key is a job of its own")
    return found


def _counted(census: Census, records: Records, seconds: float) -> list[Block]:
    done = [(records[each.number], each.result) for each in census.counts if isinstance(each.result, Count)]
    done.sort(key=lambda each: -each[1].lines)
    counts = [count for _, count in done]
    columns = ("PACKAGE", "FILES", "LINES", "FUNCTIONS", "CLASSES", "ATTEMPT", "CPU", "RSS")
    longest = sorted((each for count in counts for each in count.longest), reverse=True)[:_LONGEST]
    totals = {
        "files": sum(count.files for count in counts),
        "lines": sum(count.lines for count in counts),
        "functions": sum(count.functions for count in counts),
        "classes": sum(count.classes for count in counts),
    }
    return [
        Heading("Census of the standard library", f"{len(counts)} packages in {duration(seconds)}"),
        Table(columns, tuple(_row(record, count) for record, count in done), frozenset(columns[1:])),
        Pairs(tuple((f"all {name}", f"{number:,}") for name, number in totals.items())),
        Heading("Longest functions"),
        Table(
            ("LINES", "NAME", "PLACE"),
            tuple((each.lines, each.name, each.place) for each in longest),
            frozenset({"LINES"}),
        ),
    ]


def _row(record: QueuedTaskRecord, count: Count) -> tuple[str | int, ...]:
    figures = (f"{number:,}" for number in (count.files, count.lines, count.functions, count.classes))
    return (count.package, *figures, record.attempt, *_cost(_receipt(record)))


def _cost(receipt: Receipt | None) -> tuple[str, str]:
    return ("", "") if receipt is None else (duration((receipt.cpu or 0) / 1e6), size(receipt.rss))


def _receipt(record: QueuedTaskRecord) -> Receipt | None:
    return record.attempts[-1].receipt if record.attempts else None


def _logged(said: list[str]) -> list[Block]:
    if not said:
        return []
    more = f"and {len(said) - _LOGGED} more" if len(said) > _LOGGED else ""
    return [Heading("Files that do not parse, as their jobs logged", more), Lines("\n".join(said[:_LOGGED]))]


def _second_time(census: Census) -> str:
    if census.twice.deduplicated:
        return f"job #{census.twice.number} again, deduplicated"
    return f"job #{census.twice.number}, not deduplicated"


def _attempts(flaky: QueuedTaskRecord) -> Block:
    rows = tuple((each.attempt, each.outcome, str(each.error or "")) for each in flaky.attempts)
    return Table(("ATTEMPT", "OUTCOME", "ERROR"), rows, frozenset({"ATTEMPT"}))


def _killed(hang: QueuedTaskRecord) -> list[Block]:
    facts: list[tuple[str, Any]] = [("job", f"#{hang.number}"), ("error", Cell(hang.error or "", "red"))]
    for attempt in hang.attempts:
        receipt = attempt.receipt
        if receipt is not None:
            took = duration((receipt.ended_at - receipt.started_at) / 1e6)
            cpu, rss = _cost(receipt)
            ending = f"pid {receipt.pid} {attempt.exit or 'lives'} after {took}, {cpu} of CPU, {rss}"
            facts.append(("process", ending))
    return [Pairs(tuple(facts)), *(Lines(attempt.stack or "(no stack)") for attempt in hang.attempts)]
