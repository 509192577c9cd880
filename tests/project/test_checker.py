"""The checker finds each kind of broken promise, and nothing in a run where all were kept."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from litestar_queues import QueueService, TaskRequest
from litestar_queues.models import Status
from support import checker, history, runs, zoo
from support.checker import Evidence
from support.masters import RunningMaster

pytestmark = pytest.mark.anyio


@pytest.fixture
def witnesses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Evidence]:
    monkeypatch.setenv(runs.VARIABLE, str(tmp_path / "runs"))
    monkeypatch.setenv(history.VARIABLE, str(tmp_path / "history"))
    return lambda: checker.collect(tmp_path / "queues.db", tmp_path / "runs", tmp_path / "history")


@pytest.fixture
async def evidence(
    witnesses: Callable[[], Evidence], service: QueueService, start_master: Callable[..., RunningMaster], tmp_path: Path
) -> Evidence:
    """#1 to #9 succeed, #10 fails twice and then succeeds, #11 is cancelled unstarted, #12 has a key and succeeds."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("LQ_TEST_LOGBOOK", str(tmp_path / "logbook"))
    results = await service.enqueue_many([TaskRequest(zoo.good, (number,)) for number in range(9)])
    results.append(await service.enqueue(zoo.fails.using(retries=2, retry_backoff=0.01)))
    later = await service.enqueue(zoo.good, 0, run_after=3600)
    results.append(await service.enqueue(zoo.good, 0, key="only"))
    assert await service.cancel_task(later.id)
    start_master("--concurrency", "1").until_serving()
    for result in results:
        await result.wait(30)
    monkeypatch.undo()
    return witnesses()


async def test_a_run_that_kept_its_promises_is_passed_and_every_spoilt_one_is_not(evidence: Evidence) -> None:
    assert checker.violations(evidence) == []
    assert {job["status"] for job in evidence.jobs.values()} == {"completed", "failed", "cancelled"}
    assert len(evidence.attempts[10]) == 3
    for spoil, sentence in SPOILT.items():
        spoilt = copy.deepcopy(evidence)
        spoil(spoilt)
        found = checker.violations(spoilt)
        assert any(sentence in each for each in found), f"{spoil.__name__}: {found}"


async def test_a_run_that_was_killed_before_it_could_write_is_not_taken_for_the_next(evidence: Evidence) -> None:
    [start] = evidence.starts[3]
    lost = {**evidence.attempts[10][0], "outcome": "lost", "pid": checker.UNKNOWN, "error": None}
    evidence.attempts[3] = [lost, {**lost, "fence": 2, "outcome": "succeeded", "pid": start.pid}]
    evidence.jobs[3]["attempts"] = 2
    assert checker.violations(evidence) == []
    evidence.runs.insert(0, start._replace(pid=7))
    assert checker.violations(evidence) == [], "or it has written its line"


def a_job_is_gone(evidence: Evidence) -> None:
    del evidence.jobs[3]


def a_job_is_another(evidence: Evidence) -> None:
    evidence.jobs[3]["id"] = evidence.jobs[4]["id"]


def two_runs_are_alive(evidence: Evidence) -> None:
    evidence.runs.append(runs.Line(evidence.runs[-1].at, 7, "twice", 3, 2, "-"))


def it_completes_twice(evidence: Evidence) -> None:
    succeeded = {**evidence.attempts[10][0], "outcome": "succeeded"}
    evidence.attempts[3] = [succeeded, {**succeeded, "fence": 2}]


def a_success_is_run_again_and_fails(evidence: Evidence) -> None:
    evidence.attempts[10][0]["outcome"] = "succeeded"


def it_completes_without_a_run(evidence: Evidence) -> None:
    evidence.runs[:] = [line for line in evidence.runs if line.job != 3]


def a_run_is_not_recorded(evidence: Evidence) -> None:
    [start] = evidence.starts[3]
    evidence.runs.insert(0, start._replace(pid=7))


def a_recorded_run_never_was(evidence: Evidence) -> None:
    evidence.runs[:] = [line for line in evidence.runs if line != evidence.starts[10][0]]


def the_counter_is_wrong(evidence: Evidence) -> None:
    evidence.jobs[3]["attempts"] = 2


def the_younger_goes_first(evidence: Evidence) -> None:
    evidence.jobs[3]["claimed_at"] += 10_000_000


def the_urgent_one_waits(evidence: Evidence) -> None:
    evidence.jobs[1]["priority"] = 5
    evidence.jobs[1]["claimed_at"] += 10_000_000


def a_key_has_two_live_jobs(evidence: Evidence) -> None:
    for number in (11, 12):
        evidence.jobs[number].update(key="only", key_scope=evidence.jobs[12]["key_scope"], status="pending")


def runs_of_a_key_overlap(evidence: Evidence) -> None:
    evidence.jobs[3].update(key="only", key_scope=evidence.jobs[12]["key_scope"])
    end = next(line for line in evidence.runs if (line.job, line.what) == (3, "end"))
    evidence.runs.remove(end)
    evidence.runs.append(evidence.starts[3][0]._replace(at=evidence.runs[-1].at + 1))


def what_was_cancelled_begins(evidence: Evidence) -> None:
    last = evidence.runs[-1]
    evidence.runs.append(runs.Line(last.at + 1, last.pid, "start", 11, 1, "-"))


def what_was_cancelled_is_pending(evidence: Evidence) -> None:
    evidence.jobs[11].update(status="pending", ended_at=None)


def it_runs_nowhere(evidence: Evidence) -> None:
    evidence.jobs[3].update(status="running", node=None, ended_at=None)


def an_end_has_no_time(evidence: Evidence) -> None:
    evidence.jobs[3]["ended_at"] = None


def a_status_is_none_of_the_seven(evidence: Evidence) -> None:
    evidence.jobs[3]["status"] = "done"
    assert "done" not in set(Status)


SPOILT: dict[Callable[[Evidence], Any], str] = {
    a_job_is_gone: "#3 was accepted and is lost",
    a_job_is_another: "#3 was accepted as",
    two_runs_are_alive: "while another run of it lived",
    it_completes_twice: "completed 2 times",
    a_success_is_run_again_and_fails: "one of its attempts has succeeded",
    it_completes_without_a_run: "no run of it",
    a_run_is_not_recorded: "#3 began in",
    a_recorded_run_never_was: "never began",
    the_counter_is_wrong: "counts 2 attempts and has 1",
    the_younger_goes_first: "older and as urgent",
    the_urgent_one_waits: "more urgent",
    a_key_has_two_live_jobs: "2 live jobs have the key",
    runs_of_a_key_overlap: "of the same key was live",
    what_was_cancelled_begins: "#11 began after it was cancelled",
    what_was_cancelled_is_pending: "was cancelled and is pending",
    it_runs_nowhere: "#3 runs nowhere",
    an_end_has_no_time: "its end is None",
    a_status_is_none_of_the_seven: "has the status 'done'",
}
