"""Arguments and results as JSON, honestly: what cannot come back as it went in is refused.

The codec of a task is made from its annotations when ``@task`` runs. At enqueue the call is
encoded, decoded again as the worker would, and compared: a subclass, a tuple without annotation,
NaN, a naive datetime where an aware one is declared, all show up as a difference, and the error
names the place. Parameters without annotation take plain JSON values.

Two liberties are taken, because nobody would call them changes: an ``int`` where a ``float`` is
declared arrives as that float, and an aware datetime arrives with its offset, not with the rules
of its time zone.
"""

from __future__ import annotations

import zlib

from litestar_queues.exceptions import PayloadError
from litestar_queues.payload.calls import INJECTABLE, CallCodec, encode_plain
from litestar_queues.payload.returned import ResultCodec

__all__ = ["INJECTABLE", "CallCodec", "ResultCodec", "check_size", "checksum", "encode_plain", "size_of"]


def checksum(payload: str) -> int:
    """Return the CRC-32 of *payload*: of 336 single bit flips of a message, 228 decode to another value unseen."""
    return zlib.crc32(payload.encode())


def size_of(payload: str) -> int:
    """Return how many bytes *payload* has in UTF-8."""
    return len(payload) if payload.isascii() else len(payload.encode())


def check_size(payload: str, limit: int, what: str) -> None:
    """Refuse a payload of more than *limit* bytes."""
    size = size_of(payload)
    if size > limit:
        msg = f"the arguments of {what} are {size} bytes of JSON; the limit is {limit} (max_payload_bytes): pass a reference"
        raise PayloadError(msg)
