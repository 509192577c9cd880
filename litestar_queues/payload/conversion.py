"""From values to JSON and back, by annotations: msgspec, and the few types that it leaves to us."""

from __future__ import annotations

import functools
import inspect
import math
import re
import types
import typing
from collections.abc import Callable
from datetime import date
from pathlib import PurePath
from typing import Any
from uuid import UUID

import msgspec

from litestar_queues.exceptions import PayloadError, TaskDefinitionError

ENCODE_ERRORS = (TypeError, ValueError, OverflowError, NotImplementedError)
"""What the encoder raises for a value that it cannot carry; UnicodeEncodeError is a ValueError."""

_PLAIN: frozenset[Any] = frozenset({str, int, bool, float, type(None)})
_TRUSTED = _PLAIN | {UUID, date, bytes}
_PLACE = re.compile(r" - at `\$([^`]*)`$")
_UNIONS = (typing.Union, types.UnionType)


class Slot:
    """What one parameter, or a return value, takes: a decoder, and the types that need no look back."""

    __slots__ = ("_decoder", "_takes_anything", "_trusted")

    def __init__(self, annotation: Any, what: str) -> None:
        self._takes_anything = annotation is Any or annotation is object
        self._trusted = _PLAIN if self._takes_anything else _trusted(annotation)
        try:
            self._decoder = msgspec.json.Decoder(Any if annotation is object else annotation, dec_hook=_from_json)
        except (TypeError, ValueError) as error:
            msg = f"task {what}: {str(error).splitlines()[0]}"
            msg += "; JSON could not tell these types apart" if "union" in msg else ""
            raise TaskDefinitionError(msg) from error

    def trusts(self, value: Any) -> bool:
        """Say whether *value*, once encoded, is known to come back as it is."""
        kind = type(value)
        if kind in self._trusted:
            return kind is not float or math.isfinite(value)
        if not self._takes_anything:
            return False
        try:
            return _is_plain(value)
        except RecursionError:  # deeper than Python goes here; whoever looks back says so in words
            return False

    def decode(self, raw: Any, what: str) -> Any:
        """Return the value in *raw*; ``PayloadError`` names *what* and the place in it."""
        try:
            return self._decoder.decode(raw)
        except RecursionError as error:
            msg = f"{what} is nested too deeply"
            raise PayloadError(msg) from error
        # A type's own validation may raise anything (Pydantic, a Struct's __post_init__).
        except Exception as error:
            raise PayloadError(_placed(what, _told(error))) from error


def encode(value: Any) -> bytes:
    """Return *value* as JSON; raises ``RecursionError`` and ``ENCODE_ERRORS``."""
    return _encoder.encode(value)


def resolve(function: Callable[..., Any], annotations: dict[str, Any]) -> dict[str, Any]:
    """Return *annotations* of *function* as types; ``NameError`` while a name in them is not defined."""
    owner = inspect.unwrap(function)
    source = types.SimpleNamespace(__annotations__=annotations, __type_params__=getattr(owner, "__type_params__", ()))
    return typing.get_type_hints(source, globalns=getattr(owner, "__globals__", {}), include_extras=True)


def resolve_early(name: str, function: Callable[..., Any], annotations: dict[str, Any]) -> dict[str, Any] | None:
    """Return *annotations* as types, for task *name*; None while a name in them is not defined yet."""
    try:
        return resolve(function, annotations)
    except NameError:
        return None
    except TypeError as error:
        msg = f"an annotation of task {name!r} is no type: {error}"
        raise TaskDefinitionError(msg) from error


def resolve_late(name: str, function: Callable[..., Any], annotations: dict[str, Any]) -> dict[str, Any]:
    """Return *annotations* as types, for task *name*, which is about to be used."""
    try:
        return resolve(function, annotations)
    except NameError as error:
        msg = f"an annotation of task {name!r} cannot be resolved: {error}; define it in the module, outside TYPE_CHECKING"
        raise TaskDefinitionError(msg) from error


def schema(annotation: Any) -> dict[str, Any]:
    """Return the JSON Schema of *annotation*; empty when there is none."""
    if annotation is Any or annotation is object:
        return {}
    try:
        return msgspec.json.schema(annotation, schema_hook=_schema_of)
    # Not every type that can be decoded can be described; the worker checks it all the same.
    except (TypeError, ValueError, RuntimeError, NotImplementedError):
        return {}


def is_pydantic(kind: Any) -> bool:
    """Say whether *kind* is a Pydantic model, without importing Pydantic."""
    return hasattr(kind, "model_validate") and hasattr(kind, "model_fields")


def _is_plain(value: Any) -> bool:
    """Say whether *value* is what JSON itself is made of, which comes back as it is."""
    kind = type(value)
    if kind is list:
        return all(map(_is_plain, value))
    if kind is dict:
        return all(type(key) is str for key in value) and all(map(_is_plain, value.values()))
    return kind in _PLAIN and (kind is not float or math.isfinite(value))


def _trusted(annotation: Any) -> frozenset[Any]:
    if typing.get_origin(annotation) in _UNIONS:
        members = typing.get_args(annotation)
        return frozenset(members) if _TRUSTED.issuperset(members) else frozenset()
    return frozenset({annotation}) if isinstance(annotation, type) and annotation in _TRUSTED else frozenset()


def _placed(what: str, message: str) -> str:
    """Put the place that msgspec names last to the name of the value: ``value[1]: Expected …``."""
    place = _PLACE.search(message)
    return f"{what}{place[1]}: {message[: place.start()]}" if place else f"{what}: {message}"


def _told(error: Exception) -> str:
    """Return what *error* says in one line; a Pydantic error without the values, which may be secret."""
    try:
        parts = error.errors(include_url=False, include_input=False)  # type: ignore[attr-defined]  # Pydantic's
        return "; ".join(".".join(map(str, each["loc"])) + ": " + each["msg"] for each in parts)
    except (AttributeError, TypeError, KeyError):
        return " ".join(str(error).split()) or type(error).__name__


def _to_json(value: Any) -> Any:
    kind: Any = type(value)
    if isinstance(value, PurePath):
        return str(value)
    if is_pydantic(kind):
        return value.model_dump(mode="json", by_alias=not _goes_by_name(kind), round_trip=True)
    msg = f"is a {kind.__qualname__}, which is not a JSON value; pass its id, or plain values"
    raise TypeError(msg)


def _from_json(kind: Any, value: Any) -> Any:
    if isinstance(kind, type) and issubclass(kind, PurePath):
        return kind(value)
    if is_pydantic(kind):
        how = {"by_name": True, "by_alias": False} if _goes_by_name(kind) else {}
        return kind.model_validate(value, **how)
    raise _refusal(kind)


@functools.cache
def _goes_by_name(kind: Any) -> bool:
    """Say whether a model can be made from the names of its fields; before Pydantic 2.11 only from their aliases."""
    return "by_name" in inspect.signature(kind.model_validate).parameters


def _schema_of(kind: Any) -> dict[str, Any]:
    if isinstance(kind, type) and issubclass(kind, PurePath):
        return {"type": "string", "format": "path"}
    if is_pydantic(kind):
        return dict(kind.model_json_schema(by_alias=not _goes_by_name(kind)))
    raise _refusal(kind)


def _refusal(kind: Any) -> NotImplementedError:
    msg = f"a {getattr(kind, '__qualname__', kind)} cannot be made from JSON; pass its id, or plain values"
    return NotImplementedError(msg)


_encoder = msgspec.json.Encoder(enc_hook=_to_json)
