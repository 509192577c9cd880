"""What becomes of a job, by outcome; and what holds for every job and every outcome."""

from __future__ import annotations

import math
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from litestar_queues import lifecycle as lc
from litestar_queues.models import TERMINAL, ClaimedJob, ErrorReport, Receipt, Status

ERROR = ErrorReport("ValueError", "no")
NOW = 1_000_000_000_000
RECEIPT = Receipt(NOW - 5, NOW)


def claimed(**changes: Any) -> ClaimedJob:
    facts: dict[str, Any] = {
        "number": 1, "id": uuid4(), "task": "t", "queue": "q", "priority": 0, "fence": 3, "payload": "", "checksum": 0,
        "attempts": 0, "failures": 0, "crashes": 0, "losses": 0, "max_retries": 0, "backoff": None, "timeout": None,
        "kill_grace": 0, "run_at": NOW - 10, "created_at": NOW - 10,
    }  # fmt: skip
    return ClaimedJob(**{**facts, **changes})


OUTCOMES = st.sampled_from(
    [
        lc.Succeeded("1"), lc.Raised(ERROR), lc.Raised(ERROR, retryable=False), lc.Raised(ERROR, delay=7),
        lc.TimedOut(ERROR, "stack"), lc.Crashed("exit"), lc.Lost(), lc.Returned("why"), lc.Cancelled(), lc.Snoozed(9),
        lc.Unknown(ERROR), lc.Suspected("was killed by SIGSEGV"), lc.OverMemory(ERROR),
    ]
)  # fmt: skip
JOBS = st.builds(
    claimed,
    attempts=st.integers(0, 20),
    failures=st.integers(0, 20),
    crashes=st.integers(0, 2),
    losses=st.integers(0, 5),
    max_retries=st.integers(0, 20),
    unknown_since=st.none() | st.integers(NOW - 10**10, NOW),
)


@given(JOBS, OUTCOMES, st.sampled_from([None, RECEIPT]))
def test_a_settlement_names_the_claim_leaves_running_and_never_lowers_a_count(
    job: ClaimedJob, outcome: lc.Outcome, receipt: Receipt | None
) -> None:
    change = lc.settle(job, outcome, receipt, now=NOW)
    assert (change.number, change.fence) == (job.number, job.fence)
    assert change.status != Status.RUNNING
    for count in ("failures", "crashes", "losses"):
        assert getattr(change, count) - getattr(job, count) in (0, 1)
    assert change.attempts - job.attempts == (receipt is not None)
    spent = sum(getattr(change, count) - getattr(job, count) for count in ("failures", "crashes", "losses"))
    assert spent <= 1
    assert (change.status == Status.SCHEDULED) == (change.status not in TERMINAL and change.run_at > NOW)
    assert (change.attempt is not None) <= (receipt is not None)


@given(JOBS)
def test_what_is_handed_back_costs_nothing(job: ClaimedJob) -> None:
    change = lc.settle(job, lc.Returned(), None, now=NOW)
    assert change.status == Status.PENDING
    assert (change.attempts, change.failures, change.crashes, change.losses) == (
        job.attempts, job.failures, job.crashes, job.losses,
    )  # fmt: skip


def test_a_job_with_n_retries_has_n_plus_one_attempts() -> None:
    job = claimed(max_retries=2)
    for expected in (Status.SCHEDULED, Status.SCHEDULED, Status.FAILED):
        change = lc.settle(job, lc.Raised(ERROR), RECEIPT, now=NOW)
        assert change.status == expected
        job = claimed(max_retries=2, failures=change.failures, attempts=change.attempts)


@pytest.mark.fault("A10", "the third crash of a job with no retries", "failed")
def test_the_third_crash_fails_the_job_and_the_first_two_cost_no_retry() -> None:
    statuses = [lc.settle(claimed(crashes=crashes), lc.Crashed("x"), RECEIPT, now=NOW) for crashes in (0, 1, 2)]
    assert [change.status for change in statuses] == ["pending", "pending", "failed"]
    assert {change.failures for change in statuses} == {0}


def test_five_losses_are_allowed_and_the_sixth_fails_the_job() -> None:
    assert lc.settle(claimed(losses=4), lc.Lost(), RECEIPT, now=NOW).status == "pending"
    assert lc.settle(claimed(losses=5), lc.Lost(), RECEIPT, now=NOW).status == "failed"


def test_an_unknown_task_is_tried_for_ten_minutes() -> None:
    first = lc.settle(claimed(), lc.Unknown(ERROR), None, now=NOW)
    assert (first.status, first.unknown_since, first.run_at) == ("scheduled", NOW, NOW + lc.UNKNOWN_SHORTEST)
    for waited, delay in ((lc.SECOND, lc.SECOND), (60 * lc.SECOND, lc.UNKNOWN_LONGEST)):
        again = lc.settle(claimed(unknown_since=NOW - waited), lc.Unknown(ERROR), None, now=NOW)
        assert (again.unknown_since, again.run_at) == (NOW - waited, NOW + delay)
    late = lc.settle(claimed(unknown_since=NOW - lc.UNKNOWN_LIMIT), lc.Unknown(ERROR), None, now=NOW)
    assert late.status == "failed"


def test_a_first_attempt_that_simply_succeeds_leaves_no_row_and_a_later_one_does() -> None:
    assert lc.settle(claimed(), lc.Succeeded("1"), RECEIPT, now=NOW).attempt is None
    later = lc.settle(claimed(attempts=1), lc.Succeeded("1"), RECEIPT, now=NOW).attempt
    assert later is not None
    assert (later.attempt, later.outcome) == (2, "succeeded")


@given(st.integers(1, 10**6), st.integers(0, 2**64))
def test_a_backoff_grows_to_its_limit_and_is_the_same_for_the_same_job(failures: int, seed: int) -> None:
    backoff = lc.RetryBackoff()
    delay = backoff.delay(failures, seed)
    assert delay == backoff.delay(failures, seed)
    assert 0 <= delay <= 3600 * 1_000_000
    plain = min(2.0 ** min(failures - 1, 64), 3600.0) * 1_000_000
    assert 0.9 * plain - 1 <= delay <= 1.1 * plain + 1


def test_a_backoff_is_stored_as_json_and_read_again() -> None:
    backoff = lc.RetryBackoff(initial_delay=3, jitter=0)
    job = claimed(backoff=msgspec.json.encode(backoff).decode())
    assert lc.backoff_of(job) == backoff
    change = lc.settle(claimed(backoff=job.backoff, max_retries=1), lc.Raised(ERROR), RECEIPT, now=NOW)
    assert change.run_at == NOW + 3_000_000


@pytest.mark.parametrize(
    "figures",
    [
        {"initial_delay": math.inf}, {"max_delay": math.inf}, {"multiplier": 1e300}, {"multiplier": 0.5}, {"jitter": 2},
        {"initial_delay": -1}, {"initial_delay": math.nan},
    ],
)  # fmt: skip
def test_a_backoff_that_would_overflow_or_go_backwards_is_refused(figures: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="is not a backoff"):
        lc.RetryBackoff(**figures)


@pytest.mark.parametrize("stored", ["", "no json", '{"multiplier":1e300}', "[]"])
def test_a_damaged_backoff_is_the_default_and_ends_nothing(stored: str) -> None:
    assert lc.backoff_of(claimed(backoff=stored)) == lc.DEFAULT_BACKOFF


def test_a_suspect_pays_nothing_and_is_one_until_it_has_run_alone() -> None:
    change = lc.settle(claimed(), lc.Suspected("was killed by SIGSEGV"), RECEIPT, now=NOW)
    assert (change.status, change.failures, change.crashes, change.losses) == (Status.PENDING, 0, 0, 0)
    assert change.suspect
    assert change.attempt is not None
    assert change.attempt.error is not None
    unstarted = lc.settle(claimed(suspect=True), lc.Returned("no room"), None, now=NOW)
    assert unstarted.suspect
    for outcome in (lc.Crashed("exit"), lc.Raised(ERROR), lc.Returned("drained")):
        assert not lc.settle(claimed(suspect=True), outcome, RECEIPT, now=NOW).suspect


def test_a_run_above_its_memory_limit_costs_what_a_timeout_costs() -> None:
    first = lc.settle(claimed(max_retries=1), lc.OverMemory(ERROR), RECEIPT, now=NOW)
    assert (first.status, first.failures) == (Status.SCHEDULED, 1)
    last = lc.settle(claimed(max_retries=1, failures=1), lc.OverMemory(ERROR), RECEIPT, now=NOW)
    assert (last.status, last.error) == (Status.FAILED, ERROR)
