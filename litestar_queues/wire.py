"""What master and worker say to each other, and how it is framed.

A channel is a ``SOCK_SEQPACKET`` socket pair: the kernel keeps the borders of messages, a send
is one system call and complete when it returns, so a worker killed at any moment leaves whole
frames or none, and an exception raised in the middle of a task can never leave half of one.
A frame above ``INLINE_LIMIT`` travels as a file: the message is empty and carries the descriptor
of a memory file that holds it.

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

import os
import socket
from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Meta, Struct

from litestar_queues.models import Count, ErrorReport, Moment, NewJob, Receipt, Span
from litestar_queues.nodes import Catalogue

INLINE_LIMIT = 60_000
"""Bytes of a frame sent in the message itself: well below the default socket buffer of 208 KiB,
so that several fit before a sender has to wait."""
MAX_FRAME = 64 * 1024 * 1024
"""Bytes of a frame at most; one that claims more is a protocol error."""
SEND_BUFFER = 1024 * 1024
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
_CLOEXEC, _CUT = int(socket.MSG_CMSG_CLOEXEC), int(socket.MSG_TRUNC | socket.MSG_CTRUNC)
"""Plain integers: an operation on the enumeration's members costs 1 µs, and each message has three."""
_buffer = bytearray(INLINE_LIMIT + 1024)
"""What is being received: one thread of a process does that, and decodes it before it receives again."""
_ANCILLARY = socket.CMSG_SPACE(len(WORKER_DESCRIPTORS) * 4)


DONT_WAIT = int(socket.MSG_DONTWAIT)


class FrameError(Exception):
    """What came is not a frame of ours."""


class ChannelClosed(Exception):
    """The other end is gone."""


def pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a new channel, both blocking.

    An end may be held by several processes: each message is received by one of them.
    """
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    return ends


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
    above ``MAX_FRAME``.
    """
    body = _encode(frame)
    try:
        if len(body) > INLINE_LIMIT:
            _send_as_file(channel, body, flags)
        elif descriptors:
            socket.send_fds(channel, [body], list(descriptors), flags)
        else:
            channel.send(body, flags)
    except (BrokenPipeError, ConnectionResetError) as error:
        raise ChannelClosed from error


def receive_run(jobs: socket.socket, flags: int = 0) -> Run:
    """Take the next job from the queue; with ``MSG_DONTWAIT``, ``BlockingIOError`` when none waits."""
    run: Run
    run, descriptors = _decode(_decode_run, *_receive(jobs, flags))
    if descriptors:
        _close(descriptors)
    return run


def receive_fork(control: socket.socket) -> tuple[Fork, list[int]]:
    """Return the next request of the master to its zygote, with the worker's descriptors."""
    return _decode(_decode_fork, *_receive(control))


def receive_from_zygote(control: socket.socket) -> tuple[ZygoteReport, list[int]]:
    """Return the zygote's next report, with the pidfd it may carry; ``BlockingIOError`` when none waits."""
    return _decode(_decode_zygote, *_receive(control))


def receive_report(channel: socket.socket) -> Report:
    """Return the next report; ``BlockingIOError`` when none waits, ``FrameError`` for what is not one."""
    report: Report
    report, descriptors = _decode(_decode_report, *_receive(channel))
    if descriptors:  # a report carries none; one that did would leak into the master
        _close(descriptors)
    return report


def _send_as_file(channel: socket.socket, body: bytes, flags: int) -> None:
    if len(body) > MAX_FRAME:
        msg = f"a frame of {len(body)} bytes is above the limit of {MAX_FRAME}"
        raise FrameError(msg)
    file = os.memfd_create("lq-frame", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(file), "wb") as writer:
            writer.write(body)
        socket.send_fds(channel, [b"\xc0"], [file], flags)
    finally:
        os.close(file)


def _receive(channel: socket.socket, flags: int = 0) -> tuple[memoryview, list[int]]:
    try:
        size, ancillary, seen, _ = channel.recvmsg_into([_buffer], _ANCILLARY, _CLOEXEC | flags)
    except ConnectionResetError as error:
        raise ChannelClosed from error
    descriptors = _descriptors(ancillary) if ancillary else []
    if seen & _CUT:
        _close(descriptors)
        msg = "a message is larger than any frame of ours"
        raise FrameError(msg)
    if not size:
        raise ChannelClosed
    return memoryview(_buffer)[:size], descriptors


def _decode(decoder: msgspec.msgpack.Decoder[Any], body: memoryview, descriptors: list[int]) -> tuple[Any, list[int]]:
    try:
        if descriptors and bytes(body) == b"\xc0":
            files, descriptors = descriptors, []
            return decoder.decode(_read_file(files)), descriptors
        return decoder.decode(body), descriptors
    # msgspec raises UnicodeDecodeError and RecursionError too: 53 k of 800 k fuzzed frames did.
    # OSError: the descriptor is not that of a file.
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OSError) as error:
        _close(descriptors)
        msg = f"a message is not a frame of ours: {error}"
        raise FrameError(msg) from error


def _read_file(descriptors: list[int]) -> bytes:
    try:
        size = os.fstat(descriptors[0]).st_size
        if size > MAX_FRAME:
            msg = f"a frame claims {size} bytes; the limit is {MAX_FRAME}"
            raise FrameError(msg)
        return os.pread(descriptors[0], size, 0)
    finally:
        _close(descriptors)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found: list[int] = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found += memoryview(data[: len(data) - len(data) % 4]).cast("i").tolist()
    return found


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
