"""What master and worker say to each other, and how it is framed.

A channel is a ``SOCK_SEQPACKET`` socket pair: the kernel keeps the borders of messages, a send
is one system call and complete when it returns, so a worker killed at any moment leaves whole
frames or none, and an exception raised in the middle of a task can never leave half of one.
A frame above ``INLINE_LIMIT`` travels as a file: the message is empty and carries the descriptor
of a memory file that holds it.

Frames are msgpack of tagged structs, in two unions: ``Command`` goes down, ``Report`` comes up.
Whoever sends something that does not decode is broken or forging, and the master kills it.
Every report about a job names number and fence.

Not for other machines, and not stored: the two ends are always of one release.
"""

from __future__ import annotations

import os
import socket
from typing import Any
from uuid import UUID

import msgspec
from msgspec import Struct

from litestar_queues.models import Catalogue, Count, ErrorReport, Receipt

INLINE_LIMIT = 60_000
"""Bytes of a frame sent in the message itself: well below the default socket buffer of 208 KiB,
so that several fit before a sender has to wait."""
MAX_FRAME = 64 * 1024 * 1024
"""Bytes of a frame at most; one that claims more is a protocol error."""
SEND_BUFFER = 1024 * 1024


class Boot(Struct):
    """What a worker process is told on its command line, as JSON: where its channel is, what to import."""

    channel: int
    """Descriptor of the worker's end."""
    stack: int
    """Descriptor of the memory file that ``faulthandler`` writes to."""
    parent: int
    """Pid of the master; the worker ends when that is not its parent any more."""
    app: str | None = None
    """``module:attribute`` of the application."""
    imports: tuple[str, ...] = ()
    """Modules to import beside it."""
    folder: str = "."
    """Put first on ``sys.path``."""


class Start(Struct, tag="start", array_like=True):
    """The first command after ``Ready``; carries the cell file and the node's lock as descriptors."""

    slot: int
    """Which cell of the file is this worker's."""
    name: str
    """The worker's name as shown to people: ``default/2``."""
    node: str
    url: str


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


class Ready(Struct, tag="ready", array_like=True):
    """The application is imported; ``catalogue`` is what it offers."""

    pid: Count
    catalogue: Catalogue


class BootFailed(Struct, tag="boot_failed", array_like=True):
    """The application cannot be imported."""

    error: ErrorReport


class Done(Struct, tag="done", array_like=True):
    """The job's function returned; sent before the next job is taken."""

    number: Count
    fence: Count
    result: str
    receipt: Receipt
    dropped: Count = 0
    """Events and lines not sent because the job said more than its share."""


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
    delay: Count | None = None
    """Microseconds, where the task decided."""
    dropped: Count = 0


class Progress(Struct, tag="progress", array_like=True):
    """How far a job is."""

    number: Count
    fence: Count
    at: Count
    current: float | None
    total: float | None
    percent: float | None
    message: str | None
    payload: str | None
    """JSON."""


class Log(Struct, tag="log", array_like=True):
    """A line: logged by the task, or written to its standard output or error."""

    number: Count
    fence: Count
    at: Count
    level: str
    message: str
    payload: str | None
    stream: str | None = None
    """``stdout`` or ``stderr``; None for a log record."""


class Event(Struct, tag="event", array_like=True):
    """Something the task published under a type of its own."""

    number: Count
    fence: Count
    at: Count
    name: str
    message: str | None
    payload: str | None


Command = Start | Run
Report = Ready | BootFailed | Done | Failed | Progress | Log | Event

_encode = msgspec.msgpack.Encoder().encode
_decode_command: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
_decode_report: msgspec.msgpack.Decoder[Report] = msgspec.msgpack.Decoder(Report)
_ANCILLARY = socket.CMSG_SPACE(2 * 4)


class FrameError(Exception):
    """What came is not a frame of ours."""


class ChannelClosed(Exception):
    """The other end is gone."""


def pair() -> tuple[socket.socket, socket.socket]:
    """Return the master's end (non-blocking) and the worker's end (blocking) of a new channel."""
    master, worker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (master, worker):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    master.setblocking(False)
    return master, worker


def send(channel: socket.socket, frame: Command | Report, descriptors: tuple[int, ...] = ()) -> None:
    """Send one frame, whole.

    Raises ``BlockingIOError`` on a non-blocking channel that is full, ``ChannelClosed`` when
    nobody is there to read it, ``FrameError`` for one above ``MAX_FRAME``.
    """
    body = _encode(frame)
    try:
        if len(body) > INLINE_LIMIT:
            _send_as_file(channel, body)
        elif descriptors:
            socket.send_fds(channel, [body], list(descriptors))
        else:
            channel.send(body)
    except (BrokenPipeError, ConnectionResetError) as error:
        raise ChannelClosed from error


def receive_command(channel: socket.socket) -> tuple[Command, list[int]]:
    """Wait for the next command, with the descriptors it carries; ``ChannelClosed`` when there is none to come."""
    return _decode(_decode_command, *_receive(channel))


def receive_report(channel: socket.socket) -> Report:
    """Return the next report; ``BlockingIOError`` when none waits, ``FrameError`` for what is not one."""
    report: Report
    report, descriptors = _decode(_decode_report, *_receive(channel))
    _close(descriptors)  # a report carries none; one that did would leak into the master
    return report


def _send_as_file(channel: socket.socket, body: bytes) -> None:
    if len(body) > MAX_FRAME:
        msg = f"a frame of {len(body)} bytes is above the limit of {MAX_FRAME}"
        raise FrameError(msg)
    file = os.memfd_create("lq-frame", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(file), "wb") as writer:
            writer.write(body)
        socket.send_fds(channel, [b"\xc0"], [file])
    finally:
        os.close(file)


def _receive(channel: socket.socket) -> tuple[bytes, list[int]]:
    try:
        body, ancillary, flags, _ = channel.recvmsg(INLINE_LIMIT + 1024, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError as error:
        raise ChannelClosed from error
    descriptors = _descriptors(ancillary)
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        _close(descriptors)
        msg = "a message is larger than any frame of ours"
        raise FrameError(msg)
    if not body:
        raise ChannelClosed
    return body, descriptors


def _decode(decoder: msgspec.msgpack.Decoder[Any], body: bytes, descriptors: list[int]) -> tuple[Any, list[int]]:
    try:
        if body == b"\xc0" and descriptors:
            files, descriptors = descriptors, []
            body = _read_file(files)
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
