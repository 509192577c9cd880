"""Arguments and results as JSON, honestly: what cannot come back as it went in is refused.

The codec of a task is made from its annotations when ``@task`` runs. At enqueue the call is
encoded, decoded again as the worker would, and compared: a subclass, a tuple without annotation,
NaN, a naive datetime where an aware one is declared, all show up as a difference, and the error
names the place. Parameters without annotation take plain JSON values.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import typing
import zlib
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

import msgspec

from litestar_queues.exceptions import PayloadError, TaskDefinitionError
from litestar_queues.models import Parameter

INJECTABLE = frozenset({"_job_id", "_task_context"})
"""Parameters that the worker fills in; not part of the caller's signature."""

_KINDS: dict[Any, Any] = {
    inspect.Parameter.POSITIONAL_ONLY: "positional",
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "either",
    inspect.Parameter.VAR_POSITIONAL: "args",
    inspect.Parameter.KEYWORD_ONLY: "keyword",
    inspect.Parameter.VAR_KEYWORD: "kwargs",
}
_ATOMS = frozenset({str, int, bool, type(None)})


class _Call(msgspec.Struct):
    args: list[msgspec.Raw]
    kwargs: dict[str, msgspec.Raw]


_call_decoder = msgspec.json.Decoder(_Call)


class CallCodec:
    """The calls of one function, to JSON and back."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self._name = name
        self._function = function
        whole = inspect.signature(function)
        self.injected = frozenset(whole.parameters) & INJECTABLE
        parameters = [each for each in whole.parameters.values() if each.name not in INJECTABLE]
        self.signature = whole.replace(parameters=parameters)
        self._positional = [
            each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
        ]
        self._is_plain = all(each.kind == each.POSITIONAL_OR_KEYWORD for each in parameters)
        self._required = frozenset(each.name for each in parameters if each.default is each.empty)
        self._names = [each.name for each in parameters]
        self._decoders: dict[str, msgspec.json.Decoder[Any]] | None = None
        hints = _hints(name, function)
        if hints is not None:
            self._decoders = self._make_decoders(hints)

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Check a call against the signature; ``TypeError`` as the call itself would raise it."""
        if self._is_plain and len(args) <= len(self._names):
            given = {*self._names[: len(args)], *kwargs}
            complete = len(given) == len(args) + len(kwargs) and self._required <= given
            if complete and given <= set(self._names):
                return
        try:
            self.signature.bind(*args, **kwargs)
        except TypeError as error:
            msg = f"{self._name}{self.signature}: {error}"
            raise TypeError(msg) from None

    def encode(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """Return the call as JSON.

        Raises ``TypeError`` for a value that is not of its parameter's type, ``PayloadError`` for one
        that would not come back as it is; both name the place.
        """
        text = _encode({"args": list(args), "kwargs": dict(kwargs)}, self._name)
        try:
            back_args, back_kwargs = self._decode(text, TypeError)
            difference = _difference(list(args), back_args, "args") or _difference(dict(kwargs), back_kwargs, "kwargs")
        except RecursionError:
            difference = "the arguments are nested too deeply"
        if difference is not None:
            msg = f"{self._name} cannot be enqueued: {self._place(difference)}"
            raise PayloadError(msg)
        return text.decode()

    def decode(self, payload: str) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments in *payload* as the types that the parameters declare."""
        return self._decode(payload.encode(), PayloadError)

    def parameters(self) -> tuple[Parameter, ...]:
        """Return the parameters as the catalogue tells them."""
        hints = _hints(self._name, self._function) or {}
        return tuple(
            Parameter(
                each.name,
                _KINDS[each.kind],
                required=each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD),
                annotation=_shown(each.annotation),
                schema=_schema(hints.get(each.name, Any)),
            )
            for each in self.signature.parameters.values()
        )

    def _decode(self, text: bytes, error_type: type[Exception]) -> tuple[list[Any], dict[str, Any]]:
        call = _call_decoder.decode(text)
        decoders = self._get_decoders()
        args = [
            _decode_one(decoders[self._name_of(index)], raw, f"{self._name}: {self._name_of(index)}", error_type)
            for index, raw in enumerate(call.args)
        ]
        kwargs = {
            name: _decode_one(decoders.get(name) or decoders["**"], raw, f"{self._name}: {name}", error_type)
            for name, raw in call.kwargs.items()
            if name in decoders or "**" in decoders or self._refuse(name)
        }
        return args, kwargs

    def _refuse(self, name: str) -> bool:
        msg = f"{self._name} takes no argument {name!r}; was it enqueued by another release of the code?"
        raise PayloadError(msg)

    def _name_of(self, index: int) -> str:
        if index < len(self._positional):
            return self._positional[index].name
        if any(each.kind == each.VAR_POSITIONAL for each in self.signature.parameters.values()):
            return "*"
        msg = f"{self._name} takes {len(self._positional)} positional arguments, and was enqueued with more"
        raise PayloadError(msg)

    def _get_decoders(self) -> dict[str, msgspec.json.Decoder[Any]]:
        if self._decoders is None:
            hints = _hints(self._name, self._function, is_last_chance=True)
            self._decoders = self._make_decoders(hints or {})
        return self._decoders

    def _make_decoders(self, hints: dict[str, Any]) -> dict[str, msgspec.json.Decoder[Any]]:
        stars: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
        return {
            stars.get(each.kind, each.name): _decoder(
                hints.get(each.name, Any), f"{self._name}, parameter {each.name!r}"
            )
            for each in self.signature.parameters.values()
        }

    def _place(self, difference: str) -> str:
        for index in range(len(self._positional)):
            difference = difference.replace(f"args[{index}]", self._positional[index].name, 1)
        return difference.removeprefix("kwargs.")


class ResultCodec:
    """What one function returns, to JSON and back."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self._name = name
        self._function = function
        self._decoder: msgspec.json.Decoder[Any] | None = None
        hints = _hints(name, function)
        if hints is not None:
            self._decoder = _decoder(hints.get("return", Any), f"{name}, return type")

    def encode(self, value: Any, limit: int) -> str:
        """Return *value* as JSON of at most *limit* bytes; ``PayloadError`` when it cannot be kept as it is."""
        text = _encode(value, f"the result of {self._name}")
        if len(text) > limit:
            msg = f"the result of {self._name} is {len(text)} bytes of JSON; the limit is {limit} (max_result_bytes)"
            raise PayloadError(msg)
        try:
            difference = _difference(value, self._decode(text), "result")
        except RecursionError:
            difference = "the result is nested too deeply"
        if difference is not None:
            msg = f"{self._name} returned what JSON cannot keep: {difference}; annotate its return type, or return plain values"
            raise PayloadError(msg)
        return text.decode()

    def decode(self, text: str) -> Any:
        """Return the value in *text* as the type that the function declares."""
        return self._decode(text.encode())

    def _decode(self, text: bytes) -> Any:
        if self._decoder is None:
            hints = _hints(self._name, self._function, is_last_chance=True) or {}
            self._decoder = _decoder(hints.get("return", Any), f"{self._name}, return type")
        return _decode_one(self._decoder, msgspec.Raw(text), f"the result of {self._name}", PayloadError)


def encode_plain(what: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Return a call of a task that is known by name only: plain JSON values."""
    call = {"args": list(args), "kwargs": dict(kwargs)}
    text = _encode(call, what)
    try:
        difference = _difference(call, msgspec.json.decode(text), "call")
    except RecursionError:
        difference = "the arguments are nested too deeply"
    if difference is not None:
        msg = f"{what} cannot be enqueued by name: {difference}"
        raise PayloadError(msg)
    return text.decode()


def checksum(payload: str) -> int:
    """Return the CRC-32 of *payload*: of 336 single bit flips of a message, 228 decode to another value unseen."""
    return zlib.crc32(payload.encode())


def check_size(payload: str, limit: int, what: str) -> None:
    """Refuse a payload of more than *limit* bytes."""
    size = len(payload) if payload.isascii() else len(payload.encode())
    if size > limit:
        msg = f"the arguments of {what} are {size} bytes of JSON; the limit is {limit} (max_payload_bytes): pass a reference"
        raise PayloadError(msg)


def _hints(name: str, function: Callable[..., Any], *, is_last_chance: bool = False) -> dict[str, Any] | None:
    """Return the annotations as types; None while a name in them is not defined yet."""
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        if is_last_chance:
            msg = f"an annotation of task {name!r} cannot be resolved: {error}; import it outside TYPE_CHECKING"
            raise TaskDefinitionError(msg) from error
        return None
    except TypeError as error:
        msg = f"an annotation of task {name!r} is no type: {error}"
        raise TaskDefinitionError(msg) from error


def _decoder(annotation: Any, what: str) -> msgspec.json.Decoder[Any]:
    try:
        return msgspec.json.Decoder(Any if annotation is object else annotation, dec_hook=_from_json)
    except (TypeError, ValueError) as error:
        msg = f"task {what}: {str(error).splitlines()[0]}; JSON could not tell these types apart"
        raise TaskDefinitionError(msg) from error


def _encode(value: Any, what: str) -> bytes:
    try:
        return msgspec.json.encode(value, enc_hook=_to_json)
    except RecursionError:
        why = "it is nested too deeply, or contains itself"
    except UnicodeEncodeError:
        why = "a string has a lone surrogate, which UTF-8 cannot carry"
    except (TypeError, ValueError, OverflowError, NotImplementedError) as error:
        why = str(error)
    msg = f"{what} cannot be made JSON: {why}"
    raise PayloadError(msg)


def _decode_one(decoder: msgspec.json.Decoder[Any], raw: Any, what: str, error_type: type[Exception]) -> Any:
    try:
        return decoder.decode(raw)
    except RecursionError:
        raise
    # A type's own validation may raise anything (Pydantic, a Struct's __post_init__).
    except Exception as error:
        msg = f"{what}: {error}"
        raise error_type(msg) from error


def _to_json(value: Any) -> Any:
    if isinstance(value, PurePath):
        return str(value)
    if hasattr(type(value), "model_validate"):
        return value.model_dump(mode="json")
    msg = f"a {type(value).__qualname__} is not a JSON value; pass its id, or plain values"
    raise TypeError(msg)


def _from_json(kind: type[Any], value: Any) -> Any:
    if issubclass(kind, PurePath):
        return kind(value)
    if hasattr(kind, "model_validate"):
        return kind.model_validate(value)
    msg = f"a {kind.__qualname__} cannot be made from JSON"
    raise NotImplementedError(msg)


def _difference(sent: Any, back: Any, path: str) -> str | None:
    """Return where and how *back* differs from *sent*, or None when it is the same."""
    kind = type(sent)
    if kind is not type(back):
        return _other_type(sent, back, path)
    if kind in _ATOMS:
        return None if sent == back else f"{path} comes back as {back!r}"
    if kind is list or kind is tuple:
        return _in_order(sent, back, path)
    if kind is dict:
        return _in_mapping(sent, back, path)
    if isinstance(sent, (set, frozenset)):
        same = sent == back and {type(each) for each in sent} == {type(each) for each in back}
        return None if same else f"{path} comes back as another set"
    fields = _fields(sent)
    if fields is not None:
        for name in fields:
            difference = _difference(getattr(sent, name), getattr(back, name), f"{path}.{name}")
            if difference is not None:
                return difference
        return None
    return None if sent == back else f"{path} comes back as {back!r}"


def _other_type(sent: Any, back: Any, path: str) -> str | None:
    if type(sent) is int and type(back) is float and sent == back:
        return None  # typing lets an int stand for a float
    if isinstance(sent, PurePath) and isinstance(back, PurePath) and sent == back:
        return None  # Path(…) makes a PosixPath
    if isinstance(sent, float) and not math.isfinite(sent):
        return f"{path} is {sent!r}, which JSON has no number for"
    shown = f"{path} is a {type(sent).__qualname__} and would come back as a {type(back).__qualname__}"
    return f"{shown}; annotate the parameter, or pass a plain value"


def _in_order(sent: Any, back: Any, path: str) -> str | None:
    if len(sent) != len(back):
        return f"{path} comes back with {len(back)} items instead of {len(sent)}"
    for index, (one, other) in enumerate(zip(sent, back, strict=True)):
        difference = _difference(one, other, f"{path}[{index}]")
        if difference is not None:
            return difference
    return None


def _in_mapping(sent: dict[Any, Any], back: dict[Any, Any], path: str) -> str | None:
    for key, value in sent.items():
        if key not in back:
            return f"{path} has the key {key!r} of type {type(key).__qualname__}, which would come back as a str"
        where = f"{path}.{key}" if isinstance(key, str) and key.isidentifier() else f"{path}[{key!r}]"
        difference = _difference(value, back[key], where)
        if difference is not None:
            return difference
    if len(sent) != len(back):
        return f"{path} comes back with other keys"
    return None


def _fields(value: Any) -> tuple[str, ...] | None:
    """Return the names of a record's fields, for records that can be walked; else None."""
    kind = type(value)
    if isinstance(value, (Enum, PurePath)) or hasattr(kind, "model_validate"):
        return None
    if isinstance(value, msgspec.Struct):
        return tuple(kind.__struct_fields__)
    if dataclasses.is_dataclass(value):
        return tuple(field.name for field in dataclasses.fields(value))
    if hasattr(kind, "__attrs_attrs__"):
        return tuple(attribute.name for attribute in kind.__attrs_attrs__)
    return None


def _schema(annotation: Any) -> dict[str, Any]:
    if annotation is Any or annotation is object:
        return {}
    try:
        schema = msgspec.json.schema(annotation, schema_hook=_schema_of)
    # Not every type that can be decoded can be described; the worker checks it all the same.
    except (TypeError, RuntimeError, NotImplementedError):
        return {}
    return schema


def _schema_of(kind: type[Any]) -> dict[str, Any]:
    if issubclass(kind, PurePath):
        return {"type": "string", "format": "path"}
    if hasattr(kind, "model_json_schema"):
        return dict(kind.model_json_schema())
    raise NotImplementedError


def _shown(annotation: Any) -> str:
    if annotation is inspect.Parameter.empty:
        return ""
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
