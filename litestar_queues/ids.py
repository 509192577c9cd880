"""Job ids: UUID version 7 (RFC 9562 §5.7), made by the caller so that they are known before the commit.

48 bits of milliseconds, then 74 random bits. Ids made later sort later, which keeps the
index on them growing at one end; the random part makes them unguessable.
"""

from __future__ import annotations

import os
from uuid import UUID


def uuid7(now: int) -> UUID:
    """Return a new id dated *now* (microseconds since 1970)."""
    random = int.from_bytes(os.urandom(10), "big")
    value = (now // 1_000 & (1 << 48) - 1) << 80
    value |= 0x7 << 76 | (random >> 62 & 0xFFF) << 64
    value |= 0b10 << 62 | random & (1 << 62) - 1
    return UUID(int=value)
