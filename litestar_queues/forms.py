"""The ways in which a value may stand in a text: as JSON has it, and as Python writes it. Pure.

Used to find values that nobody is to see: rather a form too many than one too few.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any
from urllib.parse import quote, quote_plus
from uuid import UUID

import msgspec

SHORTEST_LINE = 8
"""Characters of a line that is looked for without the others of its text; tracebacks and formatters indent each line."""

_WHOLE = (str, bytes, bytearray, int, float, Decimal, UUID, date, time, timedelta, PurePath)
"""What has no parts to be looked at by themselves."""
_SEVERAL = (list, tuple, set, frozenset, deque)


def of_values(values: Iterable[Any]) -> set[str]:
    """Return what *values*, and all that is in them, read as."""
    found: set[str] = set()
    seen: dict[int, Any] = {}  # the values too: an id is another's once its value is gone
    rest = list(values)
    while rest:
        value = rest.pop()
        if value is None or isinstance(value, bool) or id(value) in seen:
            continue
        seen[id(value)] = value
        found.update(_texts(value))
        rest += _parts(value)
    return found


def written(text: str) -> set[str]:
    """Return *text*, and its lines, as they stand in JSON, in a ``repr``, in a URL."""
    text = text.encode("utf-8", "backslashreplace").decode()
    lines = [line.strip() for line in text.splitlines()]
    longer = [line for line in lines if len(line) >= SHORTEST_LINE] if len(lines) > 1 else []
    return {form for each in (text, *longer) for form in _escaped(each)}


def _escaped(text: str) -> Iterator[str]:
    yield text
    if not (text.isascii() and text.isalnum()):
        yield msgspec.json.encode(text).decode()[1:-1]
        yield repr(text)[1:-1]
        yield ascii(text)[1:-1]
        yield from (quote(text), quote(text, safe=""), quote_plus(text))


def _texts(value: Any) -> Iterator[str]:
    match value:
        case Enum():
            yield from (str(value), repr(value), value.name)
        case str():
            yield str(value)
        case bytes() | bytearray():
            yield from (repr(bytes(value))[2:-1], value.decode("utf-8", "backslashreplace"))
            yield value.hex() if len(value) > 3 else ""  # two digits a byte: those of fewer are in many words
        case date() | time():
            yield from (str(value), repr(value), value.isoformat())
        case UUID():
            yield from (str(value), value.hex)
        case _ if not isinstance(value, (Mapping, *_SEVERAL)):
            yield from (_written_by(str, value), _written_by(repr, value))


def _written_by(write: Callable[[Any], str], value: Any) -> str:
    try:
        return write(value)
    # The __str__ and __repr__ of the application's types, which may raise anything; nobody can show it so.
    except Exception:
        return ""


def _parts(value: Any) -> Iterable[Any]:
    match value:
        case Enum():
            return [value.value]
        case Mapping():
            return [*value.keys(), *value.values()]
        case _ if isinstance(value, _SEVERAL):
            return value
        case _ if isinstance(value, _WHOLE):
            return ()
    names = {*getattr(value, "__dict__", ()), *getattr(value, "__struct_fields__", ())}
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        names.update([slots] if isinstance(slots, str) else slots)
    return [getattr(value, name, None) for name in names]
