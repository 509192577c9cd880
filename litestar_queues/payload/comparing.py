"""Where a value differs from what comes back for it, and where in it is what JSON cannot carry.

Both walk the values that the codec knows, and answer with a sentence that begins with the place:
``options["when"].x is a tuple and would come back as a list``. Pure.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from datetime import datetime, time
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any

import msgspec

from litestar_queues.payload.conversion import ENCODE_ERRORS, encode, is_pydantic

_ATOMS = frozenset({str, int, bool, type(None)})
_ABSENT = object()
TOO_DEEP = "is nested too deeply, or contains itself"


def difference(sent: Any, back: Any, path: str) -> str | None:
    """Return where and how *back* differs from *sent*, or None when it is the same."""
    kind = type(sent)
    if kind is not type(back):
        return _other_type(sent, back, path)
    if kind in _ATOMS:
        return None if sent == back else _changed(back, path)
    if kind is list or isinstance(sent, (list, tuple)):
        return _in_order(sent, back, path)
    if kind is dict or isinstance(sent, dict):
        return _in_mapping(sent, back, path)
    if isinstance(sent, (set, frozenset)):
        return _in_set(sent, back, path)
    fields = _fields(sent)
    if fields is not None:
        return _in_record(sent, back, path, fields)
    return None if _is_same(sent, back) else _changed(back, path)


def flaw(value: Any, path: str) -> str | None:
    """Return where in *value* is something that JSON cannot carry, and what; None when all of it can be."""
    for where, inner in _parts(value, path):
        found = flaw(inner, where)
        if found is not None:
            return found
    if isinstance(value, float) and not math.isfinite(value):
        return f"{path} is {value!r}, which JSON has no number for"
    if isinstance(value, (list, tuple, set, frozenset)):
        return None
    if isinstance(value, dict):
        return next(filter(None, (_refusal({key: None}, f"the key {key!r} of {path}") for key in value)), None)
    return _refusal(value, path)


def _refusal(value: Any, path: str) -> str | None:
    try:
        encode(value)
    except UnicodeEncodeError:
        return f"{path} has a lone surrogate, which UTF-8 cannot carry"
    except ENCODE_ERRORS as error:
        return f"{path} {error}" if isinstance(error, TypeError) else f"{path}: {error}"
    return None


def _parts(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield what *value* is made of, each with its place."""
    if isinstance(value, (list, tuple)):
        yield from ((f"{path}[{index}]", each) for index, each in enumerate(value))
    elif isinstance(value, (set, frozenset)):
        yield from ((f"an item of {path}", each) for each in value)
    elif isinstance(value, dict):
        for key, each in value.items():
            yield f"the key {key!r} of {path}", key
            yield _below(path, key), each
    else:
        for name in _fields(value) or ():
            yield f"{path}.{name}", getattr(value, name, None)


def _below(path: str, key: Any) -> str:
    return f"{path}.{key}" if isinstance(key, str) and key.isidentifier() else f"{path}[{key!r}]"


def _changed(back: Any, path: str) -> str:
    return f"{path} comes back as {back!r}"


def _other_type(sent: Any, back: Any, path: str) -> str | None:
    if type(sent) is int and type(back) is float and sent == back:
        return None  # typing lets an int stand for a float
    if isinstance(sent, PurePath) and isinstance(back, PurePath) and sent == back:
        return None  # Path(…) makes a PosixPath
    if isinstance(sent, float) and not math.isfinite(sent):
        return f"{path} is {sent!r}, which JSON has no number for"
    shown = f"{path} is a {type(sent).__qualname__} and would come back as a {type(back).__qualname__}"
    return f"{shown}; annotate the parameter, or pass a plain value"


def _is_same(sent: Any, back: Any) -> bool:
    if isinstance(sent, (datetime, time)):
        # Python never calls a moment of a repeated hour equal to one of another zone (PEP 495), so compare the parts.
        is_aware = (sent.tzinfo is None) == (back.tzinfo is None)
        return is_aware and sent.utcoffset() == back.utcoffset() and _wall(sent) == _wall(back)
    if isinstance(sent, Decimal):
        return str(sent) == str(back)  # 1.0 equals 1.00, a NaN nothing, and a signalling one raises
    return bool(sent == back)


def _wall(when: datetime | time) -> datetime | time:
    return when.replace(tzinfo=None)


def _in_order(sent: Any, back: Any, path: str) -> str | None:
    if len(sent) != len(back):
        return f"{path} comes back with {len(back)} items instead of {len(sent)}"
    for index, (one, other) in enumerate(zip(sent, back, strict=True)):
        if type(one) in _ATOMS and type(one) is type(other) and one == other:
            continue  # most items are, and their place need not be put in words
        found = difference(one, other, f"{path}[{index}]")
        if found is not None:
            return found
    return None


def _in_mapping(sent: dict[Any, Any], back: dict[Any, Any], path: str) -> str | None:
    there = {key: key for key in back}
    for key, value in sent.items():
        if key not in there:
            why = "which its type does not have" if isinstance(key, str) else "which would come back as a str"
            return f"{path} has the key {key!r} of type {type(key).__qualname__}, {why}"
        found = None
        if type(key) is not str or type(there[key]) is not str:
            # An equal key may be of another type: an enum's member, a subclass of str.
            found = difference(key, there[key], f"the key {key!r} of {path}")
        found = found or difference(value, back[key], _below(path, key))
        if found is not None:
            return found
    return None if len(sent) == len(back) else f"{path} comes back with other keys"


def _in_set(sent: Any, back: Any, path: str) -> str | None:
    there = {each: each for each in back}
    for each in sent:
        if each not in there:
            return f"{path} comes back without its item {each!r}"
        found = difference(each, there[each], f"an item of {path}")
        if found is not None:
            return found
    return None if len(sent) == len(back) else f"{path} comes back as another set"


def _in_record(sent: Any, back: Any, path: str, fields: tuple[str, ...]) -> str | None:
    for name in fields:
        found = difference(getattr(sent, name, _ABSENT), getattr(back, name, _ABSENT), f"{path}.{name}")
        if found is not None:
            return found
    if getattr(sent, "__pydantic_private__", None) != getattr(back, "__pydantic_private__", None):
        return f"{path} has private attributes, which do not come back"
    return None


def _fields(value: Any) -> tuple[str, ...] | None:
    """Return the names of a record's fields; None for what is no record."""
    kind = type(value)
    if isinstance(value, (Enum, PurePath)):
        return None
    if isinstance(value, msgspec.Struct):
        return tuple(kind.__struct_fields__)
    if is_pydantic(kind):
        return (*kind.model_fields, *(getattr(value, "__pydantic_extra__", None) or ()))
    if dataclasses.is_dataclass(value):
        return tuple(field.name for field in dataclasses.fields(value))
    if hasattr(kind, "__attrs_attrs__"):
        return tuple(attribute.name for attribute in kind.__attrs_attrs__)
    return None
