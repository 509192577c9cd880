"""What a job says: cleaned, then cut, and within its share, before it leaves the worker."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import msgspec
import pytest

from litestar_queues import wire
from litestar_queues.clock import SECOND
from litestar_queues.events import TaskExecutionContext, bound, secrets
from litestar_queues.events.context import LARGEST_FIGURE, MAX_MESSAGE
from litestar_queues.redaction import Redactor
from litestar_queues.worker import speaking

NOW = 1_800_000_000 * SECOND


class OwnClock:
    """Clocks that the test sets, each by itself."""

    def __init__(self) -> None:
        self.wall, self.nanoseconds = NOW, 10**12

    def now(self) -> int:
        return self.wall

    def monotonic(self) -> int:
        return self.nanoseconds

    def pass_by(self, seconds: float) -> None:
        self.wall += int(seconds * SECOND)
        self.nanoseconds += int(seconds * 10**9)


class Heard:
    """A job's context, and the other end of its channel."""

    def __init__(self) -> None:
        here, self._there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._here = here
        self.clock = OwnClock()
        self.speaker = speaking.Speaker(here, self.clock)
        self.context = TaskExecutionContext(
            task_id=UUID(int=1), number=1, fence=1, task_name="t", queue="q", attempt=1, retry_count=0, max_retries=0,
            worker_id="w", sink=self.speaker, clock=self.clock,
        )  # fmt: skip
        self._there.setblocking(False)

    def all(self) -> list[Any]:
        """Return the reports that have come since the last look."""
        found = []
        while True:
            try:
                found.append(wire.receive_report(self._there))
            except BlockingIOError:
                return found

    def close(self) -> None:
        self._here.close()
        self._there.close()


@pytest.fixture
def heard() -> Iterator[Heard]:
    heard = Heard()
    yield heard
    heard.close()


def keep(*values: str) -> Redactor:
    """Make *values* secrets of this process, for as long as the redactor is held."""
    redactor = Redactor(values)
    secrets.keep(redactor)
    return redactor


def test_progress_goes_on_at_its_pace_when_the_wall_clock_steps_back(heard: Heard) -> None:
    for _ in range(speaking.PROGRESS_SHARE):
        heard.context.progress_sync(1, 2)
        heard.all()
    heard.clock.wall -= 3600 * SECOND
    for _ in range(100):
        heard.clock.pass_by(0.05)
        heard.context.progress_sync(1, 2)
    assert len(heard.all()) == 50, "one in a tenth of a second"
    assert heard.speaker.dropped == 50


def test_all_that_a_report_holds_counts_for_the_share_and_progress_goes_on_without_words(heard: Heard) -> None:
    characters = 0
    for _ in range(100):
        heard.context.log_sync("", level="A" * 1_000_000)  # type: ignore[arg-type]  # as programs do
        heard.context.event_sync("A" * 1_000_000)
        heard.context.progress_sync(1, 2, message="A" * MAX_MESSAGE, payload={"A": "A" * 60_000})
        reports = heard.all()
        characters += sum(len(msgspec.json.encode(each)) for each in reports)
        assert reports[-1].percent == 50.0
    assert characters < speaking.MAX_BYTES + 200_000
    assert reports[-1].message is None
    assert heard.speaker.dropped > 20


def test_a_level_or_a_type_of_any_length_and_kind_is_sent_as_a_word(heard: Heard) -> None:
    heard.context.log_sync("x", level="\ud800" + "L" * 500)  # type: ignore[arg-type]
    heard.context.event_sync("\ud800" + "T" * 500)
    log, event = heard.all()
    assert (len(log.level), len(event.name)) == (wire.MAX_LEVEL, wire.MAX_NAME)


@pytest.mark.parametrize("figure", [float("nan"), float("inf"), 10**400, 2**63, "half", LARGEST_FIGURE * 2])
def test_a_figure_that_no_screen_can_show_is_an_error_in_the_task(heard: Heard, figure: Any) -> None:
    for given in ({"percent": figure}, {"current": figure, "total": 2}, {"current": 1, "total": figure}):
        with pytest.raises(ValueError, match="progress takes finite numbers of at most 1e"):
            heard.context.progress_sync(**given)
    assert heard.all() == []
    heard.context.progress_sync(1e18, 5e-324)
    assert heard.all()[0].percent is None, "a share that is past the largest number"


def test_a_payload_without_its_secrets_is_still_json(heard: Heard) -> None:
    kept = keep("98765", 'quo"te')
    payload = {"pin": 98765, 'a quo"te': ['in quo"te', 12, True, None], "nested": '{"a": "quo\\"te"}'}
    heard.context.event_sync("paid", payload=payload)
    heard.context.progress_sync(98765, 98766, message="98765")
    event, progress = heard.all()
    assert msgspec.json.decode(event.payload) == {
        "pin": "[redacted]",
        "a [redacted]": ["in [redacted]", 12, True, None],
        "nested": '{"a": "[redacted]"}',
    }
    assert (progress.current, progress.total, progress.message) == (None, 98766, "[redacted]")
    assert kept


def test_secrets_are_kept_while_a_run_lasts_and_a_while_longer_and_not_for_ever() -> None:
    running = keep("of the running job")
    keep("of the first that ended")
    assert secrets.clean("of the first that ended") == "[redacted]"
    for number in range(secrets.LATEST):
        keep(f"number {number} of many")
    assert secrets.clean("of the first that ended") == "of the first that ended"
    assert secrets.clean("of the running job") == "[redacted]"
    assert running


def test_bytes_and_lines_for_standard_output_are_cleaned_whoever_writes_them(heard: Heard) -> None:
    kept = keep("first line\nsecond line", "4111-1111")
    reader, writer = os.pipe()
    stream = speaking.JobStream("stdout", writer, heard.clock)
    assert stream.buffer.write(memoryview(b"raw 4111-1111\n")) == 14
    stream.write("nobody's 4111-1111\n")
    assert os.read(reader, 1000) == b"raw [redacted]\nnobody's [redacted]\n"
    with bound(heard.context):
        for part in ("says ", "first line\nsecond line", " and 41", "11-1111", " | second line", "\n"):
            stream.write(part)
    assert [report.message for report in heard.all()] == ["says [redacted] and [redacted] | [redacted]"]
    stream.buffer.close()
    os.close(reader)
    os.close(writer)
    assert kept
