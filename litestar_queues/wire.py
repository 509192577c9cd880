"""What master and worker say to each other; how it gets through a channel is ``framing``.

Three channels: the control channel between master and zygote; a worker's reports, up; and its
queue of jobs, down, whose reading end the master holds too, so that it can take back what has not
been started, also from a worker that hangs.

Frames are msgpack of tagged structs: ``Command`` goes down, ``Report`` comes up. Whoever sends
something that does not decode is broken or forging, and the master kills it; so is a number that no
column takes, and a moment that no screen can show: one such row would end every page that lists it.
Every report about a job names number and fence.

Not for other machines, and not stored: the two ends are always of one release.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Meta, Struct

from litestar_queues import framing
from litestar_queues.framing import DONT_WAIT as DONT_WAIT
from litestar_queues.framing import ChannelClosed as ChannelClosed
from litestar_queues.framing import FrameError as FrameError
from litestar_queues.framing import FrameRefused as FrameRefused
from litestar_queues.framing import pair as pair
from litestar_queues.models import Count, ErrorReport, Moment, NewJob, Receipt, Span
from litestar_queues.nodes import Catalogue

MAX_LEVEL = 40
"""Characters of the level of a line, which is one word."""
MAX_NAME = 200
"""Characters of the type of a task's own event."""

Figure = Annotated[float, Meta(ge=-1e300, le=1e300)]
"""A figure of progress; neither infinite nor NaN."""


class Boot(Struct):
    """What a zygote is told on its command line, as JSON: where its channel is, what to import."""

    control: int
    """Descriptor of its end of the control channel."""
    parent: int
    """Pid of the master; the zygote ends when that is not its parent any more."""
    app: str | None = None
    """``module:attribute`` of the application."""
    imports: tuple[str, ...] = ()
    """Modules to import beside it."""
    folder: str = "."
    """Put first on ``sys.path``."""


class Fork(Struct, tag="fork", array_like=True):
    """Fork a worker; carries its descriptors, in the order of ``WORKER_DESCRIPTORS``."""

    serial: int
    name: str
    """The worker's name as shown to people: ``default/2``."""
    cookie: str
    """What marks it and its descendants, in their environment."""
    url: str
    first_cell: int
    slots: int = 1
    nice: int = 0


COOKIE = "LITESTAR_QUEUES_COOKIE"
"""The environment variable that marks a worker and what it starts."""
WORKER_DESCRIPTORS = ("reports", "jobs", "stack", "stdout", "stderr", "cells", "lock")


class Run(Struct, tag="run", array_like=True):
    """Run this job."""

    number: int
    fence: int
    id: UUID
    task: str
    queue: str
    attempt: int
    payload: str
    checksum: int
    failures: int
    max_retries: int
    max_result_bytes: int
    allow_background: bool = False

    def __repr__(self) -> str:  # without the arguments, which may be secret
        return f"<Run #{self.number} {self.task}>"


class Imported(Struct, tag="imported", array_like=True):
    """The zygote has imported the application, which offers *catalogue*."""

    catalogue: Catalogue
    threads: tuple[str, ...] = ()
    """Names of threads that the import left running; a forked worker does not have them."""


class ImportFailed(Struct, tag="import_failed", array_like=True):
    """The application cannot be imported; the zygote ends."""

    error: ErrorReport


class Forked(Struct, tag="forked", array_like=True):
    """A worker has been forked; carries its pidfd."""

    serial: Count
    pid: Count


class ForkFailed(Struct, tag="fork_failed", array_like=True):
    """A worker could not be forked."""

    serial: Count
    reason: str


class Exited(Struct, tag="exited", array_like=True):
    """A worker is dead and has been reaped."""

    serial: Count
    status: Count
    """As ``wait4`` gives it."""
    cpu: Count
    """Microseconds, user and system."""
    rss: Count
    """The most resident memory it ever had, in bytes."""


class Ready(Struct, tag="ready", array_like=True):
    """The worker takes jobs."""

    pid: Count


class Done(Struct, tag="done", array_like=True):
    """The job's function returned; sent before the next job is taken."""

    number: Count
    fence: Count
    result: str
    receipt: Receipt
    dropped: Count = 0
    """Events and lines not sent because the job said more than its share."""
    is_last: bool = False
    """The worker ends now: the job was allowed to leave processes behind, and did."""
    successors: tuple[NewJob, ...] = ()
    """Jobs to add with the completion."""


class Failed(Struct, tag="failed", array_like=True):
    """The job's function did not return."""

    number: Count
    fence: Count
    kind: str
    """``raised``, ``interrupted``, ``cancelled``, ``snoozed`` or ``unknown``."""
    error: ErrorReport
    receipt: Receipt | None
    """None when the function was never called."""
    retryable: bool = True
    delay: Span | None = None
    """Microseconds, where the task decided."""
    dropped: Count = 0
    is_last: bool = False


class Progress(Struct, tag="progress", array_like=True):
    """How far a job is."""

    number: Count
    fence: Count
    at: Moment
    current: Figure | None
    total: Figure | None
    percent: Figure | None
    message: str | None
    payload: str | None
    """JSON."""


class Log(Struct, tag="log", array_like=True):
    """A line: logged by the task, or written to its standard output or error."""

    number: Count
    fence: Count
    at: Moment
    level: Annotated[str, Meta(max_length=MAX_LEVEL)]
    message: str
    payload: str | None
    stream: str | None = None
    """``stdout`` or ``stderr``; None for a log record."""


class Event(Struct, tag="event", array_like=True):
    """Something the task published under a type of its own."""

    number: Count
    fence: Count
    at: Moment
    name: Annotated[str, Meta(max_length=MAX_NAME)]
    message: str | None
    payload: str | None


class Stood(Struct, tag="stood", array_like=True):
    """Where a coroutine waited when it was asked to stop: the stack of its thread does not show that."""

    number: Count
    fence: Count
    stack: str


Command = Fork | Run
Report = Ready | Done | Failed | Progress | Log | Event | Stood
ZygoteReport = Imported | ImportFailed | Forked | ForkFailed | Exited

_encode = msgspec.msgpack.Encoder().encode
_decode_run: msgspec.msgpack.Decoder[Run] = msgspec.msgpack.Decoder(Run)
_decode_fork: msgspec.msgpack.Decoder[Fork] = msgspec.msgpack.Decoder(Fork)
_decode_zygote: msgspec.msgpack.Decoder[ZygoteReport] = msgspec.msgpack.Decoder(ZygoteReport)
_decode_report: msgspec.msgpack.Decoder[Report] = msgspec.msgpack.Decoder(Report)


def send(
    channel: socket.socket,
    frame: Command | Report | ZygoteReport,
    descriptors: Sequence[int] = (),
    *,
    flags: int = 0,
) -> None:
    """Send one frame, whole.

    Raises ``BlockingIOError`` when the channel is full and does not block (or *flags* has
    ``MSG_DONTWAIT``), ``ChannelClosed`` when nobody is there to read it, ``FrameError`` for one
    above ``MAX_FRAME``, and of these ``FrameRefused`` for one that the system refuses to send now.
    """
    framing.send(channel, _encode(frame), descriptors, flags)


def receive_run(jobs: socket.socket, flags: int = 0) -> Run:
    """Take the next job from the queue; with ``MSG_DONTWAIT``, ``BlockingIOError`` when none waits."""
    run: Run
    run, descriptors = _decode(_decode_run, *framing.receive(jobs, flags))
    if descriptors:
        framing.close(descriptors)
    return run


def receive_fork(control: socket.socket) -> tuple[Fork, list[int]]:
    """Return the next request of the master to its zygote, with the worker's descriptors."""
    return _decode(_decode_fork, *framing.receive(control))


def receive_from_zygote(control: socket.socket) -> tuple[ZygoteReport, list[int]]:
    """Return the zygote's next report, with the pidfd it may carry; ``BlockingIOError`` when none waits."""
    return _decode(_decode_zygote, *framing.receive(control))


def receive_report(channel: socket.socket) -> Report:
    """Return the next report; ``BlockingIOError`` when none waits, ``FrameError`` for what is not one."""
    report: Report
    report, descriptors = _decode(_decode_report, *framing.receive(channel))
    if descriptors:  # a report carries none; one that did would leak into the master
        framing.close(descriptors)
    return report


def _decode(
    decoder: msgspec.msgpack.Decoder[Any], body: memoryview | bytes, descriptors: list[int]
) -> tuple[Any, list[int]]:
    try:
        return decoder.decode(body), descriptors
    # msgspec raises UnicodeDecodeError and RecursionError too: 53 k of 800 k fuzzed frames did.
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        framing.close(descriptors)
        msg = f"a message is not a frame of ours: {error}"
        raise FrameError(msg) from error
