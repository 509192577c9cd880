"""Decide from three witnesses whether the queue kept its promises.

The witnesses are what clients were told (``history``), what the tasks wrote of their own runs
(``runs``), and the database, read with ``sqlite3`` and not by the code that is judged.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import os
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from support import history, runs

LIVE = {"scheduled", "pending", "running"}
ENDED = {"completed", "failed", "cancelled", "expired"}
CUT_SHORT = {"timed_out", "over_memory", "crashed", "suspected", "lost", "returned", "cancelled"}
"""Outcomes of runs that may have been ended from outside, before they could write a line."""
LATE = 100_000
"""Microseconds by which a claim may be dated too early: a master reads its clock a moment before it asks the store.
What it then waits for its turn is counted in."""
UNKNOWN = 0
"""The process of an attempt whose master died with it."""


@dataclass
class Evidence:
    """What the three witnesses say."""

    jobs: dict[int, dict[str, Any]]
    attempts: dict[int, list[dict[str, Any]]]
    runs: list[runs.Line]
    history: list[dict[str, Any]]
    recorded: set[str] = field(default_factory=lambda: set(runs.RECORDED))
    """The tasks whose runs must all be in ``runs``."""

    @property
    def starts(self) -> dict[int, list[runs.Line]]:
        found: dict[int, list[runs.Line]] = defaultdict(list)
        for line in self.runs:
            if line.what == "start":
                found[line.job].append(line)
        return found


def collect(database: Path, runs_file: Path, history_file: Path) -> Evidence:
    """Read what the witnesses say."""
    jobs: dict[int, dict[str, Any]] = {}
    attempts: dict[int, list[dict[str, Any]]] = defaultdict(list)
    if database.exists():
        with contextlib.closing(sqlite3.connect(database)) as connection:
            connection.row_factory = sqlite3.Row
            connection.text_factory = lambda text: text.decode(errors="replace")  # a test may have damaged it
            [(verdict,)] = connection.execute("PRAGMA integrity_check").fetchall()
            assert verdict == "ok", verdict
            jobs = {row["number"]: dict(row) for row in connection.execute("SELECT * FROM lq_job")}
            for row in connection.execute("SELECT * FROM lq_attempt ORDER BY job, fence"):
                attempts[row["job"]].append(dict(row))
    return Evidence(jobs, attempts, runs.read(runs_file), history.read(history_file))


def violations(evidence: Evidence, *, dated: bool = True) -> list[str]:
    """Return each broken promise in a sentence; *dated*: the database's dates are of one clock that did not step."""
    rules = [lost, live_twice, doubly_completed, miscounted, keys_overlap, revived, unfinished]
    if dated:
        rules.append(out_of_order)
    return [sentence for rule in rules for sentence in rule(evidence)]


def lost(evidence: Evidence) -> Iterator[str]:
    """Every job that a client was told of is there, under the id and number that it was told."""
    for line in evidence.history:
        if (line["action"], line["phase"]) != ("add", "ok"):
            continue
        for entry in line["entries"]:
            job = evidence.jobs.get(entry["number"])
            if job is None:
                yield f"#{entry['number']} was accepted and is lost"
            elif job["id"] != entry["id"]:
                yield f"#{entry['number']} was accepted as {entry['id']} and is {job['id']}"


def live_twice(evidence: Evidence) -> Iterator[str]:
    """No run begins while another of its job lives."""
    for line in evidence.runs:
        if line.what == "twice":
            yield f"#{line.job} was started by {line.pid} while another run of it lived"


def doubly_completed(evidence: Evidence) -> Iterator[str]:
    """A job completes once, by a run that returned."""
    returned = {(line.job, line.pid) for line in evidence.runs if line.what == "end" and line.how == "returned"}
    for number, job in evidence.jobs.items():
        completions = sum(attempt["outcome"] == "succeeded" for attempt in evidence.attempts.get(number, ()))
        if completions > 1:
            yield f"#{number} completed {completions} times"
        if completions and job["status"] != "completed":
            yield f"#{number} is {job['status']}, and one of its attempts has succeeded"
        if job["status"] == "completed" and job["task"] in evidence.recorded and (number, job["pid"]) not in returned:
            yield f"#{number} is completed, and no run of it in {job['pid']} has returned"


def miscounted(evidence: Evidence) -> Iterator[str]:
    """The attempts recorded are the runs that began, in their order, by process."""
    starts = evidence.starts
    for number, job in evidence.jobs.items():
        if job["task"] not in evidence.recorded:
            continue
        began = [line.pid for line in starts.get(number, [])]
        attempts = evidence.attempts.get(number, [])
        kept = [(attempt["pid"], attempt["outcome"], attempt["error"] or "") for attempt in attempts]
        if not kept and job["status"] == "completed":
            kept = [(job["pid"], "succeeded", "")]  # a first start that simply succeeds has no row of its own
        if len(kept) != job["attempts"]:
            yield f"#{number} counts {job['attempts']} attempts and has {len(kept)}"
        if job["status"] == "running" and len(began) == len(kept) + 1:
            began.pop()  # it runs, or its master is gone and nobody has adopted it
        if _agree(kept, began):
            continue
        spare = Counter(began)
        spare.subtract(pid for pid, outcome, error in kept if not _may_be_silent(outcome, error))
        for pid, outcome, error in kept:
            if spare[pid] < 0 and not _may_be_silent(outcome, error):
                yield f"#{number} has an attempt ({outcome}) in {pid} that never began"
                break
        else:
            yield f"#{number} began in {began} and has attempts {[each[:2] for each in kept]}"


def _agree(kept: list[tuple[int, str, str]], began: list[int]) -> bool:
    """Say whether the attempts are the starts in their order, but for attempts that ended before they could write a line.

    All ways are tried: a lost attempt, whose process is not known, may be the next start, or one that wrote nothing.
    """
    if not kept:
        return not began
    pid, outcome, error = kept[0]
    if began and pid in (began[0], UNKNOWN) and _agree(kept[1:], began[1:]):
        return True
    return _may_be_silent(outcome, error) and _agree(kept[1:], began)


def _may_be_silent(outcome: str, error: str) -> bool:
    return outcome in CUT_SHORT or "PayloadError" in error  # its arguments were refused


def out_of_order(evidence: Evidence) -> Iterator[str]:
    """Among jobs that could go at once, none was claimed before one that is more urgent, or as urgent and older."""
    groups: dict[tuple[str, str, int], list[dict[str, Any]]] = defaultdict(list)
    for job in evidence.jobs.values():
        claimed_once = job["fence"] == 1 and job["claimed_at"] is not None
        if claimed_once and job["run_at"] <= job["created_at"]:
            groups[job["queue"], job["backend"], job["priority"]].append(job)
    for same in groups.values():
        same.sort(key=lambda job: job["number"])
        for older, newer in itertools.pairwise(same):
            if newer["claimed_at"] + LATE < older["claimed_at"]:
                yield f"#{newer['number']} was claimed before #{older['number']}, which is older and as urgent"
    for (queue, backend, priority), urgent in groups.items():
        for (other_queue, other_backend, lower), less in groups.items():
            if (queue, backend) == (other_queue, other_backend) and lower < priority:
                yield from _overtaken(urgent, less)


def _overtaken(urgent: list[dict[str, Any]], less: list[dict[str, Any]]) -> Iterator[str]:
    """Both are sorted by number. A smaller number was stored before: it was there when the other was claimed."""
    first_claimed: list[dict[str, Any]] = []  # of each and all after it
    for job in reversed(less):
        best = first_claimed[-1] if first_claimed else job
        first_claimed.append(job if job["claimed_at"] < best["claimed_at"] else best)
    first_claimed.reverse()
    numbers = [job["number"] for job in less]
    for job in urgent:
        at = bisect.bisect(numbers, job["number"])
        if at < len(less) and first_claimed[at]["claimed_at"] + LATE < job["claimed_at"]:
            yield f"#{first_claimed[at]['number']} was claimed before #{job['number']}, which is more urgent"


def keys_overlap(evidence: Evidence) -> Iterator[str]:
    """No two jobs of one key are live at a time: by the database now, and by the tasks' own lines ever."""
    key_of = {number: (job["key_scope"], job["key"]) for number, job in evidence.jobs.items() if job["key"]}
    live = Counter(key_of[number] for number in key_of if evidence.jobs[number]["status"] in LIVE)
    for key, count in live.items():
        if count > 1:
            yield f"{count} live jobs have the key {key}"
    last_start = {line.job: line.at for line in evidence.runs if line.what == "start"}
    running: dict[Any, int] = {}
    for line in evidence.runs:
        key = key_of.get(line.job)
        if key is None or line.what == "twice":
            continue
        other = running.get(key)
        if line.what == "end":
            running.pop(key, None)
            continue
        # A run without an end was killed: then its job has ended by now, and does not begin again.
        is_another = other is not None and other != line.job
        if is_another and (evidence.jobs[other]["ended_at"] is None or last_start[other] > line.at):
            yield f"#{line.job} began while #{other} of the same key was live"
        running[key] = line.job


def revived(evidence: Evidence) -> Iterator[str]:
    """What was cancelled before it began never begins."""
    starts = evidence.starts
    for line in evidence.history:
        if (line["action"], line["phase"]) != ("cancel", "ok"):
            continue
        for number, stood in zip(line["numbers"], line["stood"], strict=True):
            if stood in ("pending", "scheduled"):
                if evidence.jobs[number]["status"] != "cancelled":
                    yield f"#{number} was cancelled and is {evidence.jobs[number]['status']}"
                if any(start.at > line["at"] for start in starts.get(number, ())):
                    yield f"#{number} began after it was cancelled"


def unfinished(evidence: Evidence) -> Iterator[str]:
    """Every job stands in one of the seven statuses, and has what belongs to it."""
    for number, job in evidence.jobs.items():
        if job["status"] not in LIVE | ENDED:
            yield f"#{number} has the status {job['status']!r}"
        if (job["status"] in ENDED) != (job["ended_at"] is not None):
            yield f"#{number} is {job['status']} and its end is {job['ended_at']}"
        if job["status"] == "running" and job["node"] is None:
            yield f"#{number} runs nowhere"


@contextlib.contextmanager
def judging(folder: Path, database: Path, *, dated: bool = True) -> Iterator[None]:
    """Have what happens in the block witnessed, in *folder*, and judged at its end; *dated*: see ``violations``."""
    runs_file, history_file = folder / "runs", folder / "history"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(runs.VARIABLE, str(runs_file))
        patch.setenv(history.VARIABLE, str(history_file))
        yield
    evidence = collect(database, runs_file, history_file)
    print(f"judged: {len(evidence.jobs)} jobs, {len(evidence.runs)} lines of runs, {len(evidence.history)} of clients")
    broken = violations(evidence, dated=dated)
    assert not broken, os.linesep.join(broken[:20])
