"""What comes up a channel is taken whole and within bounds, or refused; what clients make always fits."""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from litestar_queues import QueueConfig, QueueConfigurationError, framing, task, wire
from litestar_queues.clock import to_datetime
from litestar_queues.config import LARGEST_LIMIT
from litestar_queues.events.context import MAX_SUCCESSOR_BYTES
from litestar_queues.models import ErrorReport, NewJob, Receipt
from litestar_queues.request import build_job

CONFIG = QueueConfig(queue_backend="memory")
NOW = 1_800_000_000_000_000
CENTURY = timedelta(days=36500)


@task("frames.nothing")
def nothing() -> None:
    return None


def make(**options: Any) -> NewJob:
    return build_job(nothing, (), {}, options, config=CONFIG, now=NOW)


def come_up(job: NewJob) -> NewJob:
    """Return what the master gets where a worker reports *job* with a completion."""
    here, there = wire.pair()
    with here, there:
        wire.send(here, wire.Done(1, 1, "null", Receipt(0, 0), successors=(job,)))
        report = wire.receive_report(there)
    assert isinstance(report, wire.Done)
    [same] = report.successors
    return same


OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "priority": st.integers(-(2**31), 2**31),
        "retries": st.integers(0, 1_000_000),
        "timeout": st.timedeltas(timedelta(microseconds=1), CENTURY),
        "kill_grace": st.timedeltas(timedelta(0), CENTURY),
        "scheduled_at": st.datetimes(timezones=st.just(UTC)),
        "expires_at": st.datetimes(timezones=st.just(UTC)),
        "key": st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=500),
        "max_rss": st.integers(16 * 1024 * 1024, 1 << 50),
        "metadata": st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.integers(-9, 9)),
    },
)


@given(OPTIONS)
def test_every_job_that_a_client_can_make_comes_up_as_it_is(options: dict[str, Any]) -> None:
    job = make(**options)
    assert come_up(job) == job
    assert to_datetime(job.run_at) >= to_datetime(NOW)


NUMBERS = [
    "priority",
    "checksum",
    "created_at",
    "run_at",
    "max_retries",
    "timeout",
    "kill_grace",
    "expires_at",
    "max_rss",
]


@pytest.mark.parametrize("field", NUMBERS)
@pytest.mark.parametrize("value", [1 << 63, -(1 << 63)])
@pytest.mark.fault("D17", "numbers that no column takes, in a worker's frame", "no frame of ours")
def test_a_number_that_no_column_takes_is_no_frame_of_ours(field: str, value: int) -> None:
    with pytest.raises(wire.FrameError, match="not a frame of ours"):
        come_up(msgspec.structs.replace(make(), **{field: value}))


YEAR_9999 = 253_402_300_799_999_999
FAR = [YEAR_9999 + 1, 1 << 61, -(1 << 56)]
ERROR = ErrorReport("E", "m")
UNSHOWABLE: list[wire.Report] = [
    *(wire.Done(1, 1, "null", Receipt(at, 0)) for at in FAR),
    *(wire.Failed(1, 1, "raised", ERROR, Receipt(0, at)) for at in FAR),
    *(wire.Log(1, 1, at, "info", "m", None) for at in FAR),
    *(wire.Event(1, 1, at, "t", None, None) for at in FAR),
    *(wire.Progress(1, 1, at, None, None, None, None, None) for at in FAR),
    *(wire.Progress(1, 1, 1, figure, None, None, None, None) for figure in (float("nan"), float("inf"))),
    wire.Failed(1, 1, "snoozed", ERROR, Receipt(0, 0), delay=YEAR_9999),
    wire.Log(1, 1, 1, "L" * (wire.MAX_LEVEL + 1), "m", None),
    wire.Event(1, 1, 1, "T" * (wire.MAX_NAME + 1), None, None),
]


@pytest.mark.parametrize("report", UNSHOWABLE, ids=repr)
@pytest.mark.fault("A16", "moments and figures that no screen can show, in a forged frame", "no frame of ours")
def test_what_no_screen_can_show_is_no_frame_of_ours(report: wire.Report) -> None:
    here, there = wire.pair()
    with here, there:
        wire.send(here, report)
        with pytest.raises(wire.FrameError, match="not a frame of ours"):
            wire.receive_report(there)


def test_every_number_of_a_new_job_has_bounds() -> None:
    plain = [field.name for field in msgspec.structs.fields(NewJob) if field.type in (int, int | None)]
    assert plain == []


def test_a_report_with_all_that_it_may_carry_fits_a_frame() -> None:
    largest = msgspec.structs.replace(make(), payload="x" * MAX_SUCCESSOR_BYTES)
    done = wire.Done(1, 1, "x" * LARGEST_LIMIT, Receipt(0, 0, "w" * 200), successors=(largest,))
    assert len(msgspec.msgpack.encode(done)) < framing.MAX_FRAME


@pytest.mark.parametrize("name", ["max_payload_bytes", "max_result_bytes"])
def test_a_limit_that_no_frame_could_carry_is_refused(name: str) -> None:
    QueueConfig(**{name: LARGEST_LIMIT})
    with pytest.raises(QueueConfigurationError, match=f"{name} cannot be {LARGEST_LIMIT + 1}; give at most"):
        QueueConfig(**{name: LARGEST_LIMIT + 1})


@pytest.mark.parametrize("name", ["scheduled_at", "expires_at"])
@pytest.mark.parametrize("written", ["9999-12-31T23:00-12:00", "0001-01-01T01:00+12:00"])
def test_a_moment_that_no_datetime_in_utc_can_tell_is_refused(name: str, written: str) -> None:
    with pytest.raises(ValueError, match="years 1 to 9999"):
        make(**{name: datetime.fromisoformat(written)})


@pytest.mark.parametrize("size", [100, framing.SMALL, 100_000, framing.INLINE_LIMIT, 3_000_000])
def test_a_frame_of_any_size_comes_as_it_was_sent(size: int) -> None:
    here, there = wire.pair()
    done = wire.Done(1, 1, "x" * size, Receipt(0, 0))
    with here, there:
        wire.send(here, done)
        assert wire.receive_report(there) == done


def test_large_frames_go_on_where_the_channel_has_no_room_for_their_bytes() -> None:
    here, there = wire.pair()
    sent = [wire.Done(number, 1, "x" * 100_000, Receipt(0, 0)) for number in range(100)]
    with here, there:
        for done in sent:  # 10 MB, in a channel of 1 MiB or less that nobody reads
            wire.send(here, done, flags=wire.DONT_WAIT)
        assert [wire.receive_report(there) for _ in sent] == sent


def shrink(channel: socket.socket, size: int) -> None:
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)


@contextmanager
def limit(which: int, soft: int) -> Iterator[None]:
    """Lower a limit of this process."""
    before = resource.getrlimit(which)
    resource.setrlimit(which, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(which, before)


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    lowest = os.dup(0)
    os.close(lowest)
    with limit(resource.RLIMIT_NOFILE, lowest):
        yield


@pytest.mark.parametrize("buffer", [2_304, 8_192, 65_536])
@pytest.mark.parametrize("size", [100, 7_000, 30_000, framing.SMALL - 100, 100_000])
def test_a_frame_that_a_small_buffer_cannot_hold_comes_as_it_was_sent(buffer: int, size: int) -> None:
    here, there = wire.pair()
    done = wire.Done(1, 1, "x" * size, Receipt(0, 0))
    with here, there:
        shrink(here, buffer)
        wire.send(here, done, flags=wire.DONT_WAIT)
        assert wire.receive_report(there) == done


LARGE = wire.Done(1, 1, "x" * 200_000, Receipt(0, 0))


def test_a_frame_for_which_no_descriptor_is_left_is_refused_and_a_smaller_one_goes_on() -> None:
    here, there = wire.pair()
    small = wire.Done(2, 1, "x" * 20_000, Receipt(0, 0))
    with here, there:
        with no_descriptor_left():
            with pytest.raises(wire.FrameRefused, match="the system refuses to send it now: .*Too many open files"):
                wire.send(here, LARGE)
            wire.send(here, small)
        assert wire.receive_report(there) == small


def test_a_frame_above_the_limit_of_a_files_size_is_refused() -> None:
    here, there = wire.pair()
    with here, there, limit(resource.RLIMIT_FSIZE, 1_000), pytest.raises(wire.FrameRefused, match="File too large"):
        wire.send(here, LARGE)


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.ENOBUFS, errno.ETOOMANYREFS])
def test_a_frame_that_the_system_has_no_means_for_is_refused(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*call: object) -> None:
        raise OSError(number, os.strerror(number))

    here, there = wire.pair()
    with here, there:
        monkeypatch.setattr(framing, "_send_descriptors", refuse)
        with pytest.raises(wire.FrameRefused, match=os.strerror(number)):
            wire.send(here, LARGE)


def fill(channel: socket.socket, done: wire.Done) -> None:
    while True:
        wire.send(channel, done, flags=wire.DONT_WAIT)


@pytest.mark.parametrize("size", [100, 200_000])
def test_a_channel_that_is_closed_or_full_is_told_from_a_system_that_refuses(size: int) -> None:
    here, there = wire.pair()
    done = wire.Done(1, 1, "x" * size, Receipt(0, 0))
    with here, there:
        with pytest.raises(BlockingIOError):
            fill(here, done)
        there.close()
        with pytest.raises(wire.ChannelClosed):
            wire.send(here, done)


def test_what_a_tasks_own_handler_of_a_signal_raises_goes_through() -> None:
    class Interrupted:
        def send(self, body: bytes, flags: int) -> None:
            raise TimeoutError("the task's own alarm")

    with pytest.raises(TimeoutError, match="the task's own alarm"):
        framing.send(Interrupted(), b"x")  # type: ignore[arg-type]  # it is asked for no more


def test_a_message_that_is_too_large_is_told_from_one_for_which_no_descriptor_is_left() -> None:
    here, there = wire.pair()
    with here, there:
        here.send(b"x" * (framing.INLINE_LIMIT + 4_096))
        with pytest.raises(wire.FrameError, match="larger than any frame of ours"):
            wire.receive_report(there)
        wire.send(here, LARGE)
        with no_descriptor_left(), pytest.raises(wire.FrameError, match="no descriptor was left for it"):
            wire.receive_report(there)
