"""Clocks that step, suspends, and calendars: what is measured is measured by the monotonic clock."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from litestar_queues import QueueConfig, QueueService
from support import history, logbook, skew, zoo
from support.masters import RunningMaster
from support.waiting import wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.undated("the clock that dates the claims steps")]
StartMaster = Callable[..., RunningMaster]
HOUR = 3600.0
STEPS = pytest.mark.parametrize(
    "step", [-HOUR, HOUR, 24 * HOUR, 365 * 24 * HOUR], ids=["back an hour", "an hour", "a day", "a year"]
)


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "skew"
    monkeypatch.setenv(skew.VARIABLE, str(file))
    return file


@pytest.fixture
async def service(url: str, clock: Path, anyio_backend: str) -> AsyncIterator[QueueService]:
    async with QueueService(QueueConfig(queue_backend=url), clock=skew.SkewedClock(clock)) as service:
        yield history.record(service)


@pytest.fixture
def start_skewed(start_master: StartMaster) -> StartMaster:
    def start(*arguments: str, **options: object) -> RunningMaster:
        more = ("--import", "support.skew", "--concurrency", "1", *arguments)
        return start_master(*more, module="support.skew", **options).until_serving()

    return start


@STEPS
@pytest.mark.fault(
    "B11", "the machine was suspended: the wall clock jumps, the monotonic one stands", "no mass timeout"
)
@pytest.mark.fault("D8", "the wall clock steps back or forward while jobs run", "no timeout early or late")
async def test_a_step_of_the_clock_ends_no_run_early_and_none_late(
    service: QueueService, start_skewed: StartMaster, clock: Path, tmp_path: Path, logbook_file: Path, step: float
) -> None:
    start_skewed("--concurrency", "2")
    flag = tmp_path / "go"
    patient = await service.enqueue(zoo.until_told.using(timeout=60), "patient", str(flag))
    hanging = await service.enqueue(zoo.hang_in_c)  # half a second
    wait_until(lambda: logbook.started(logbook_file, "patient"), "one runs")
    skew.shift(clock, step)
    ended = await hanging.wait(30)
    assert (ended.status, ended.failure and ended.failure.type) == ("failed", "TimeoutError")
    assert (await service.enqueue(zoo.good, 1)).number == 3
    assert await (await service.get_result(3)).get(30) == 2
    assert (await patient.refresh()).status == "running"
    flag.touch()
    record = await patient.wait(30)
    assert (record.status, record.attempt) == ("completed", 1)
    for done in (record, ended):
        assert done.started_at is not None
        assert done.completed_at is not None
        assert timedelta(0) <= done.completed_at - done.started_at < timedelta(seconds=60)


@STEPS
@pytest.mark.fault("D8", "the wall clock steps while one of two masters dies", "its jobs are taken over all the same")
async def test_a_step_of_the_clock_does_not_keep_a_master_from_taking_over(
    service: QueueService, start_skewed: StartMaster, clock: Path, tmp_path: Path, logbook_file: Path, step: float
) -> None:
    flag = tmp_path / "go"
    dies = start_skewed()
    result = await service.enqueue(zoo.until_told, "taken", str(flag))
    wait_until(lambda: logbook.started(logbook_file, "taken"), "it has started")
    lives = start_skewed()
    skew.shift(clock, step)
    dies.signal(signal.SIGKILL)
    dies.wait()
    wait_until(lambda: len(logbook.started(logbook_file, "taken")) == 2, "the other one runs it again", deadline=10)
    flag.touch()
    assert [attempt.outcome for attempt in (await result.wait(30)).attempts] == ["lost", "succeeded"]
    assert lives.process.poll() is None


async def test_a_job_is_due_by_the_wall_clock_and_expires_by_it(
    service: QueueService, start_skewed: StartMaster, clock: Path
) -> None:
    in_an_hour = await service.enqueue(zoo.good, 1, run_after=HOUR)
    tomorrow = await service.enqueue(zoo.good, 2, run_after=timedelta(days=1))
    start_skewed()
    skew.shift(clock, HOUR + 1)
    assert await in_an_hour.get(30) == 2
    assert (await tomorrow.refresh()).status == "scheduled"
    skew.shift(clock, 25 * HOUR)
    assert await tomorrow.get(30) == 3


@pytest.mark.fault("D8", "the wall clock steps back while jobs wait", "what was due stays due; nothing has expired")
async def test_a_clock_that_goes_back_holds_up_nothing_that_was_due(
    service: QueueService, start_skewed: StartMaster, clock: Path
) -> None:
    results = [await service.enqueue(zoo.good, number, expires_in=HOUR / 2) for number in range(20)]
    skew.shift(clock, -HOUR)
    start_skewed()
    assert [await result.get(30) for result in results] == list(range(1, 21))
    after = await service.enqueue(zoo.good, 20)
    assert await after.get(30) == 21


@pytest.mark.fault("D8", "the wall clock is ahead for a while", "what ran then slows nothing down afterwards")
async def test_a_duration_measured_over_a_step_does_not_slow_the_pool_down(
    service: QueueService, start_skewed: StartMaster, clock: Path, tmp_path: Path, logbook_file: Path
) -> None:
    start_skewed()
    flag = tmp_path / "go"
    result = await service.enqueue(zoo.until_told, "over", str(flag))
    wait_until(lambda: logbook.started(logbook_file, "over"), "it runs")
    skew.shift(clock, -365 * 24 * HOUR)
    flag.touch()
    record = await result.wait(30)
    [attempt] = await service.store.attempts(record.number)
    assert attempt.receipt is not None
    assert 0 <= attempt.receipt.ended_at - attempt.receipt.started_at < 60 * 1_000_000


@pytest.mark.parametrize(
    ("zone", "local", "instant"),
    [
        # The clocks go from 2 to 3: by the offset before the gap, as ``zoneinfo`` has it.
        ("Europe/Berlin", datetime(2027, 3, 28, 2, 30), "2027-03-28T01:30:00+00:00"),
        # Half past two comes twice.
        ("Europe/Berlin", datetime(2027, 10, 31, 2, 30), "2027-10-31T00:30:00+00:00"),
        ("Europe/Berlin", datetime(2027, 10, 31, 2, 30, fold=1), "2027-10-31T01:30:00+00:00"),
        ("America/New_York", datetime(2028, 2, 29, 23, 59, 59, 999999), "2028-03-01T04:59:59.999999+00:00"),
        ("Asia/Kathmandu", datetime(2028, 2, 29, 0, 0), "2028-02-28T18:15:00+00:00"),
    ],
)
@pytest.mark.fault(
    "D8", "gaps and folds of daylight saving, leap days", "the instant that the zone means, to the microsecond"
)
async def test_a_local_time_is_kept_as_the_instant_that_it_means(
    service: QueueService, zone: str, local: datetime, instant: str
) -> None:
    zoneinfo = pytest.importorskip("zoneinfo")
    try:
        when = local.replace(tzinfo=zoneinfo.ZoneInfo(zone))
    except zoneinfo.ZoneInfoNotFoundError:
        pytest.skip("this machine has no time zones")
    record = await (await service.enqueue(zoo.good, 1, scheduled_at=when)).refresh()
    assert record.scheduled_at.isoformat() == instant


async def test_a_day_from_the_28th_of_february_is_the_29th_in_a_leap_year(service: QueueService, clock: Path) -> None:
    leap = datetime(2028, 2, 28, 12, tzinfo=UTC)
    skew.shift(clock, (leap - datetime.now(UTC)).total_seconds())
    record = await (await service.enqueue(zoo.good, 1, run_after=timedelta(days=1))).refresh()
    assert (record.scheduled_at.month, record.scheduled_at.day) == (2, 29)
