"""Sizes of memory as people write them. Pure."""

from __future__ import annotations

import re

_UNITS = {"": 1, "b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "kib": 1024, "mib": 1024**2, "gib": 1024**3}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([a-z]*)")
LEAST = 16 * 1024 * 1024
"""Bytes; an interpreter alone needs about as much, so a smaller limit is a mistake in the unit."""
MOST = 1 << 50


def to_bytes(size: int | str) -> int:
    """Return *size* in bytes: a whole number of them, or ``"512MiB"``, ``"1.5 GiB"``, ``"200MB"``.

    Raises ``ValueError`` for what is no size, or less than 16 MiB.
    """
    found = _parse(size)
    if found is None or not LEAST <= found <= MOST:
        msg = 'give bytes, or a text like "512MiB" or "1.5GiB"; 16 MiB or more'
        raise ValueError(msg)
    return found


def _parse(size: int | str) -> int | None:
    if isinstance(size, bool) or not isinstance(size, (int, str)):
        return None
    if isinstance(size, int):
        return size
    match = _SIZE.fullmatch(size.strip().lower())
    if match is None or match[2] not in _UNITS:
        return None
    return round(float(match[1]) * _UNITS[match[2]])
