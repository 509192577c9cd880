"""What a job says, on its way to the master: one send by the thread that says it.

A job has a share: so many events, so many bytes. What is past it is counted and dropped here,
before it costs the master anything; the count comes with the job's end. Progress past its share
goes on at ten a second.
"""

from __future__ import annotations

import io
import logging
import select
import socket
import sys
import traceback
from typing import Any

import msgspec

from litestar_queues import wire
from litestar_queues.clock import Clock
from litestar_queues.events import secrets
from litestar_queues.events.context import MAX_MESSAGE, TaskExecutionContext, get_current_task_context

MAX_EVENTS = 10_000
"""Events of one run that are sent, lines of output included."""
MAX_BYTES = 5 * 1024 * 1024
"""Characters of one run that are sent: messages, payloads, levels, names. Progress goes on without them."""
PROGRESS_SHARE = 1_000
"""Progress reports of one run that are sent as they come; then one in ``PROGRESS_PAUSE``."""
PROGRESS_PAUSE = 100_000_000
"""Nanoseconds."""


class Speaker:
    """The sink of one run: sends what it says, within its share."""

    def __init__(self, channel: socket.socket, clock: Clock) -> None:
        self._channel = channel
        self._clock = clock
        self.dropped = 0
        self._events = 0
        self._bytes = 0
        self._progress = 0
        self._last_progress = 0

    def say(self, report: wire.Progress | wire.Log | wire.Event) -> None:
        """Send *report*, or count it as dropped."""
        if not self._has_room(report):
            self.dropped += 1
            return
        try:
            wire.send(self._channel, report)
        except wire.FrameRefused:  # no descriptor is left for a long line, no memory: it is no end of the job
            self.dropped += 1

    def _has_room(self, report: wire.Progress | wire.Log | wire.Event) -> bool:
        if isinstance(report, wire.Progress):
            return self._has_room_for_progress(report)
        self._events += 1
        self._bytes += _length(report)
        return self._events <= MAX_EVENTS and self._bytes <= MAX_BYTES

    def _has_room_for_progress(self, report: wire.Progress) -> bool:
        """Say so; of one whose words are past the share, the figures alone are sent."""
        self._progress += 1
        now = self._clock.monotonic()  # the wall clock may step back, and would hold it up for so long
        if self._progress > PROGRESS_SHARE and now - self._last_progress < PROGRESS_PAUSE:
            return False
        self._last_progress = now
        length = _length(report)
        self._bytes += length
        if length and self._bytes > MAX_BYTES:
            self.dropped += 1
            report.message = report.payload = None
        return True


class CleanBytes(io.FileIO):
    """Standard output or error, for bytes: what is written here has no secret of this process in it."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "wb", closefd=False)

    def write(self, data: Any, /) -> int:
        """Write *data*, all of it, and return its length."""
        view = memoryview(data)
        rest = memoryview(secrets.clean_bytes(view.tobytes()))
        while rest:
            taken = super().write(rest)
            if taken is None:  # a job has made the pipe one that does not block, and it is full
                select.select([], [self], [])
            rest = rest[taken or 0 :]
        return view.nbytes


class JobStream(io.TextIOBase):
    """``sys.stdout`` or ``sys.stderr`` of a worker: lines of a job are its events, the rest goes through.

    What reaches the descriptor itself (C code, subprocesses) does not come here; the master reads it.
    """

    def __init__(self, name: str, descriptor: int, clock: Clock) -> None:
        super().__init__()
        self._name = name
        self._descriptor = descriptor
        self._clock = clock
        self._partial: dict[TaskExecutionContext, str] = {}
        self._raw = CleanBytes(descriptor)

    @property
    def name(self) -> str:
        """``<stdout>`` or ``<stderr>``."""
        return f"<{self._name}>"

    @property
    def encoding(self) -> str:  # type: ignore[override]  # the base declares an attribute
        """UTF-8."""
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]  # the base declares an attribute
        """What cannot be encoded is shown escaped."""
        return "backslashreplace"

    @property
    def buffer(self) -> io.FileIO:
        """The stream of bytes below, for code that writes bytes."""
        return self._raw

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str) -> int:
        """Send the whole lines; keep the rest for the next write."""
        context = get_current_task_context()
        if context is None:
            self._raw.write(text.encode("utf-8", "backslashreplace"))
            return len(text)
        # Before it is cut into lines: a value may have several.
        *lines, rest = secrets.clean(self._partial.pop(context, "") + text).split("\n")
        for line in lines:
            self._say(context, line)
        whole = len(rest) // MAX_MESSAGE * MAX_MESSAGE
        for start in range(0, whole, MAX_MESSAGE):
            self._say(context, rest[start : start + MAX_MESSAGE])
        if whole < len(rest):
            self._partial[context] = rest[whole:]
        return len(text)

    def flush(self) -> None:
        """Do nothing: whole lines are sent already, and half a line is not worth an event."""

    def finish(self, context: TaskExecutionContext) -> None:
        """Send the last line of *context*, if it has no end."""
        rest = self._partial.pop(context, "")
        if rest:
            self._say(context, rest)

    def _say(self, context: TaskExecutionContext, line: str) -> None:
        level = "info" if self._name == "stdout" else "warning"
        context.say(wire.Log(context.number, context.fence, self._clock.now(), level, line, None, self._name))


class JobLogHandler(logging.Handler):
    """Log records of a job are its events; records of nobody go to standard error."""

    def __init__(self, clock: Clock, errors: JobStream) -> None:
        super().__init__()
        self._clock = clock
        self._errors = errors

    def emit(self, record: logging.LogRecord) -> None:
        """Send *record* now."""
        try:
            message = _text(record)
        # The arguments of a log call are the user's, and may not fit its format.
        except Exception:
            self.handleError(record)
            return
        context = get_current_task_context()
        if context is None:
            line = f"{record.levelname} {record.name}: {message}\n"
            self._errors.buffer.write(line.encode("utf-8", "backslashreplace"))
            return
        payload = msgspec.json.encode({"logger": record.name}).decode()
        level = record.levelname.lower()
        context.say(wire.Log(context.number, context.fence, self._clock.now(), level, message, payload))


def take_over_logging(handler: JobLogHandler) -> None:
    """Make *handler* the way out for all loggers, in place of handlers that write to the terminal.

    Those would say everything twice: as an event and as output. Handlers that write elsewhere
    (files, services) stay. A root logger that nobody configured lets INFO through.
    """
    root = logging.getLogger()
    if not root.handlers and root.level == logging.WARNING:
        root.setLevel(logging.INFO)
    named = [logger for logger in logging.Logger.manager.loggerDict.values() if isinstance(logger, logging.Logger)]
    for logger in (root, *named):
        replaced = [existing for existing in logger.handlers if _writes_to_terminal(existing)]
        for existing in replaced:
            logger.removeHandler(existing)
            for behind in _behind(existing):
                logger.addHandler(behind)
        if logger is root or (replaced and not logger.propagate):
            logger.addHandler(handler)


def make_output_clean() -> None:
    """Let the streams that the application's modules may keep at their import write through ``CleanBytes``.

    A logging library does that: what it writes later, in a worker, comes by no other way.
    """
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = io.TextIOWrapper(
            CleanBytes(descriptor),
            encoding="utf-8",
            errors="backslashreplace",
            write_through=True,
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def take_over_output(clock: Clock) -> tuple[JobStream, JobStream]:
    """Replace ``sys.stdout`` and ``sys.stderr``, and return what they are now."""
    out = JobStream("stdout", 1, clock)
    err = JobStream("stderr", 2, clock)
    sys.stdout, sys.stderr = out, err
    return out, err


def _length(report: wire.Progress | wire.Log | wire.Event) -> int:
    """Return how many characters of a report are the task's own."""
    length = len(report.message or "") + len(report.payload or "")
    match report:
        case wire.Log():
            return length + len(report.level)
        case wire.Event():
            return length + len(report.name)
        case wire.Progress():
            return length


def _behind(handler: logging.Handler) -> list[logging.Handler]:
    """Return what a queue's handler hands records to, but for the terminal: its listener does not run here."""
    listener = getattr(handler, "listener", None)
    return [behind for behind in getattr(listener, "handlers", ()) if not _writes_to_terminal(behind)]


def _writes_to_terminal(handler: logging.Handler) -> bool:
    if hasattr(handler, "listener") or type(handler).__name__.endswith("QueueListenerHandler"):
        return True  # Litestar's default: a queue whose listener writes to standard error
    if not isinstance(handler, logging.StreamHandler) or isinstance(handler, logging.FileHandler):
        return False
    stream: Any = handler.stream
    try:
        return stream.fileno() in (1, 2)
    except (AttributeError, OSError, ValueError):
        return False


def _text(record: logging.LogRecord) -> str:
    message = record.getMessage()
    if record.exc_info and record.exc_info[0] is not None:
        message += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
    return message
