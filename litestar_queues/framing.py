"""How a message gets through a channel: whole, in the message itself or as a file. Bytes here, frames in ``wire``.

A channel is a ``SOCK_SEQPACKET`` socket pair: the kernel keeps the borders of messages, a send
is one system call and complete when it returns, so a worker killed at any moment leaves whole
frames or none, and an exception raised in the middle of a task can never leave half of one.
A frame above ``INLINE_LIMIT``, or a large one where the channel is half full, travels as a file: the
message is empty and carries the descriptor of a memory file that holds it. So does one that is too large
for a channel whose buffer is small.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
import sys
import termios
from collections.abc import Sequence

INLINE_LIMIT = 128 * 1024
"""Bytes of a frame sent in the message itself at most: 100 KB cost both ends 14 µs of CPU together, as a file 70.
Above it the kernel would need ever larger pieces of memory."""
SMALL = 60_000
"""Bytes of a frame that waits for room in the channel instead of going as a file: of these several fit into the
default socket buffer of 208 KiB."""
MAX_FRAME = 64 * 1024 * 1024
"""Bytes of a frame at most; one that claims more is a protocol error."""
SEND_BUFFER = 1024 * 1024
_CLOEXEC, _TOO_LARGE, _WITHOUT_RIGHTS = int(socket.MSG_CMSG_CLOEXEC), int(socket.MSG_TRUNC), int(socket.MSG_CTRUNC)
"""Plain integers: an operation on the enumeration's members costs 1 µs, and each message has three."""
_buffer = bytearray(INLINE_LIMIT + 1024)
"""What is being received: one thread of a process does that, and decodes it before it receives again."""
_NO_ROOM = {errno.EAGAIN, errno.EMSGSIZE, errno.ENOBUFS, errno.ENOMEM}
"""What a large message meets in a channel that is full, or smaller than asked for, and where memory is in small pieces."""
_ANCILLARY = socket.CMSG_SPACE(16 * 4)
"""Room for more descriptors than any message carries."""
_FILE = b"\xc0"
"""What a message says whose frame is in the file that it carries."""

DONT_WAIT = int(socket.MSG_DONTWAIT)


class FrameError(Exception):
    """What came is not a frame of ours."""


class FrameRefused(FrameError):
    """The system refuses to send a frame now: it lacks a descriptor, memory or room. Nothing of it has been sent."""


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


def send(channel: socket.socket, body: bytes, descriptors: Sequence[int] = (), flags: int = 0) -> None:
    """Send one frame, whole; raises as ``wire.send`` does."""
    try:
        if len(body) > SMALL:
            _send_large(channel, body, flags)
        elif descriptors:
            _send_descriptors(channel, body, descriptors, flags)
        else:
            _send_small(channel, body, flags)
    except BlockingIOError:
        raise
    except (BrokenPipeError, ConnectionResetError) as error:
        raise ChannelClosed from error
    except OSError as error:
        if error.errno is None:  # not the system's: a task's own handler of a signal has raised it, a TimeoutError say
            raise
        msg = f"the system refuses to send it now: {error}"
        raise FrameRefused(msg) from error


def receive(channel: socket.socket, flags: int = 0) -> tuple[memoryview | bytes, list[int]]:
    """Return the next frame, to be decoded before the next one is received, and the descriptors that came with it.

    Raises ``BlockingIOError`` when none waits, ``FrameError`` for what is none.
    """
    try:
        size, ancillary, seen, _ = channel.recvmsg_into([_buffer], _ANCILLARY, _CLOEXEC | flags)
    except ConnectionResetError as error:
        raise ChannelClosed from error
    descriptors = _descriptors(ancillary) if ancillary else []
    if seen & (_TOO_LARGE | _WITHOUT_RIGHTS):
        close(descriptors)
        raise FrameError(_what_was_cut(seen))
    if not size:
        close(descriptors)
        raise ChannelClosed
    body = memoryview(_buffer)[:size]
    return (_read_file(descriptors), []) if descriptors and body == _FILE else (body, descriptors)


def close(descriptors: list[int]) -> None:
    """Close what came with a frame and is not wanted."""
    for descriptor in descriptors:
        os.close(descriptor)


def _what_was_cut(seen: int) -> str:
    if seen & _TOO_LARGE:
        return "a message is larger than any frame of ours"
    return "what a message carries could not be taken: no descriptor was left for it"


def _send_small(channel: socket.socket, body: bytes, flags: int) -> None:
    try:
        channel.send(body, flags)
    except OSError as error:
        if error.errno != errno.EMSGSIZE:
            raise
        _send_as_file(channel, body, flags)


def _send_large(channel: socket.socket, body: bytes, flags: int) -> None:
    if len(body) > INLINE_LIMIT or not _has_sent(channel, body, flags):
        _send_as_file(channel, body, flags)


def _has_sent(channel: socket.socket, body: bytes, flags: int) -> bool:
    """Send *body* in the message itself, if there is room for that now."""
    waiting = int.from_bytes(fcntl.ioctl(channel, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    # One half is left to small frames and descriptors, which have no other way.
    if waiting + len(body) > channel.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2:
        return False
    try:
        return channel.send(body, flags | DONT_WAIT) == len(body)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        return False


def _send_as_file(channel: socket.socket, body: bytes, flags: int) -> None:
    if len(body) > MAX_FRAME:
        msg = f"a frame of {len(body)} bytes is above the limit of {MAX_FRAME}"
        raise FrameError(msg)
    file = os.memfd_create("lq-frame", os.MFD_CLOEXEC)
    try:
        left = memoryview(body)
        while left:
            left = left[os.write(file, left) :]
        _send_descriptors(channel, _FILE, [file], flags)
    finally:
        os.close(file)


def _send_descriptors(channel: socket.socket, body: bytes, descriptors: Sequence[int], flags: int) -> None:
    # Not ``socket.send_fds``, which drops the flags, and would wait where it must not.
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
    channel.sendmsg([body], [rights], flags)


def _read_file(descriptors: list[int]) -> bytes:
    try:
        size = os.fstat(descriptors[0]).st_size
        if size > MAX_FRAME:
            msg = f"a frame claims {size} bytes; the limit is {MAX_FRAME}"
            raise FrameError(msg)
        return os.pread(descriptors[0], size, 0)
    except OSError as error:  # the descriptor is not that of a file
        msg = f"a message is not a frame of ours: {error}"
        raise FrameError(msg) from error
    finally:
        close(descriptors)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found: list[int] = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found += memoryview(data[: len(data) - len(data) % 4]).cast("i").tolist()
    return found
