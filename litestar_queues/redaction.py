"""Values that nobody is to see: which of a call's they are, and texts without them. Pure.

A call says of itself which of its values are secret (``"secret": [0, "card", "return"]`` beside
``args`` and ``kwargs``), so that who shows it need not know the task.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, AnyStr, TypeVar

import msgspec
from msgspec import Struct

from litestar_queues import forms

HIDDEN = "[redacted]"
SHORTEST = 4
"""Characters of a value that is looked for in texts; shorter ones are in many words by chance."""
RESULT = "return"
"""The place of what the function returns, as in its annotations."""

DAMAGED = "[damaged]"
"""Shown in place of arguments that cannot be read any more."""
_PASSWORD = re.compile(r"((?:^|[&;])[^=&;]*(?:password|passwd|secret|token)[^=&;]*=)[^&;#]*", re.IGNORECASE)

T = TypeVar("T")
Place = int | str
"""A position among the positional arguments, a keyword, or ``RESULT``."""


class _Mark:
    def __repr__(self) -> str:
        return "secret"


_SECRET = _Mark()
Secret = Annotated[T, _SECRET]
"""``Secret[str]`` is a ``str`` that is stored, and reaches the task, and is never shown."""


class _Call(Struct):
    args: list[Any]
    kwargs: dict[str, Any]
    secret: tuple[Place, ...] = ()


_decoder = msgspec.json.Decoder(_Call)


def is_secret(annotation: Any) -> bool:
    """Say whether *annotation* is ``Secret[…]``, or has one in it."""
    if typing.get_origin(annotation) is Annotated and _SECRET in annotation.__metadata__:
        return True
    return any(is_secret(inner) for inner in typing.get_args(annotation))


def places(
    parameters: Sequence[tuple[str, str]], secrets: Collection[str], count: int, names: Collection[str]
) -> list[Place]:
    """Return which values of a call are secret.

    *parameters* are the task's, by name and kind (as in ``nodes.Parameter``), *secrets* the names of
    those that are secret; the call has *count* positional arguments, and *names* as keywords.
    """
    if not secrets:
        return []
    of_kind: dict[str, list[str]] = {}
    for name, kind in parameters:
        of_kind.setdefault("positional" if kind == "either" else kind, []).append(name)
    positional, [rest, *_] = of_kind.get("positional", []), [*of_kind.get("args", []), ""]
    [others, *_] = [*of_kind.get("kwargs", []), ""]
    named = {name for name, kind in parameters if kind in ("either", "keyword")}
    found: list[Place] = [at for at in range(count) if (positional[at] if at < len(positional) else rest) in secrets]
    found += [name for name in names if (name if name in named else others) in secrets]
    return found + [RESULT] * (RESULT in secrets)


def shown_call(payload: str) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments in *payload* as plain JSON values, those that are secret as ``HIDDEN``.

    Of a damaged one nothing is shown: nobody knows what in it is secret.
    """
    try:
        call = _decoder.decode(payload)
    except msgspec.DecodeError:
        return [DAMAGED], {}
    args = [HIDDEN if at in call.secret else value for at, value in enumerate(call.args)]
    return args, {name: HIDDEN if name in call.secret else value for name, value in call.kwargs.items()}


def shown_result(payload: str, result: str) -> str:
    """Return the *result* (JSON) of the call in *payload* as it is shown: hidden, or without the call's secret values."""
    if hides_result(payload):
        return f'"{HIDDEN}"'
    redactor = Redactor.of(payload)
    return result if redactor is None else redactor.clean_json(result)


def hides_result(payload: str) -> bool:
    """Say whether the result of the call in *payload* is secret."""
    try:
        return _has_secrets(payload) and RESULT in _decoder.decode(payload).secret
    except msgspec.DecodeError:
        return True


class Redactor:
    """Takes the secret values of one call out of whatever is said, in every way that JSON and Python write them."""

    def __init__(self, texts: Iterable[str], places: Collection[Place] = ()) -> None:
        self._places = places
        self._needles: tuple[str, ...] = ()
        self._raw: tuple[bytes, ...] = ()
        self._look_for(texts)

    @classmethod
    def of(cls, payload: str) -> Redactor | None:
        """Return the redactor for the call in *payload*; None where nothing in it is secret."""
        if not _has_secrets(payload):
            return None
        try:
            call = _decoder.decode(payload)
        except (ValueError, RecursionError):  # damaged: whoever runs it finds out
            return None
        secret = [value for at, value in enumerate(call.args) if at in call.secret]
        secret += [value for name, value in call.kwargs.items() if name in call.secret]
        return cls(forms.of_values(secret), call.secret)

    def learn(self, args: Sequence[Any], kwargs: Mapping[str, Any], names: Sequence[str]) -> None:
        """Look for the values as the task gets them too: dates, enumerations, structs, bytes.

        *names* are the task's parameters; an argument may have become a keyword since the call was stored.
        """
        secret = [args[at] if at < len(args) else kwargs.get(names[at]) for at in self._places if isinstance(at, int)]
        secret += [kwargs[at] for at in self._places if isinstance(at, str) and at in kwargs]
        self._look_for(forms.of_values(secret))
        self._raw += tuple(value for value in secret if isinstance(value, bytes) and len(value) >= SHORTEST)

    def clean(self, text: str) -> str:
        """Return *text* without the values."""
        found = [needle for needle in self._needles if needle in text]
        return _without(text, found, HIDDEN) if found else text

    def clean_bytes(self, data: bytes) -> bytes:
        """Return *data*, a text in UTF-8 or anything else, without the values."""
        found = [needle for needle in self._raw if needle in data]
        return _without(data, found, HIDDEN.encode()) if found else data

    def clean_value(self, value: Any) -> Any:
        """Return a JSON value without the values; a number that holds one is a text then."""
        if isinstance(value, dict):
            return {self.clean(key): self.clean_value(each) for key, each in value.items()}
        if isinstance(value, list):
            return [self.clean_value(each) for each in value]
        if value is None or isinstance(value, bool):
            return value
        shown = self.clean(str(value))
        return value if shown == str(value) else shown if isinstance(value, str) else HIDDEN

    def clean_json(self, text: str) -> str:
        """Return JSON without the values; all of it is hidden where it cannot be read."""
        try:
            return msgspec.json.encode(self.clean_value(msgspec.json.decode(text))).decode()
        except (ValueError, RecursionError):
            return f'{{"{HIDDEN}":true}}'

    def _look_for(self, texts: Iterable[str]) -> None:
        written = {each for text in texts for each in forms.written(text) if len(each) >= SHORTEST}
        self._needles = tuple(written.union(self._needles))
        self._raw = tuple({*self._raw, *(each.encode("utf-8", "backslashreplace") for each in written)})


def shown_url(url: str) -> str:
    """Return *url* for screens and logs: its password, also one among its parameters, as ``***``."""
    # By hand: what is no proper URL may hold a password all the same, and ``urlsplit`` refuses it.
    main, question, parameters = url.partition("?")
    head, separator, rest = main.partition("://")
    user, at, host = rest.rpartition("@")
    name, colon, _ = user.partition(":")
    hidden = "***" if colon else ""
    return f"{head}{separator}{name}{colon}{hidden}{at}{host}{question}{_PASSWORD.sub(_hide_value, parameters)}"


def _hide_value(found: re.Match[str]) -> str:
    return f"{found[1]}***"


def _has_secrets(payload: str) -> bool:
    # It is the last of a call, and without it that ends in two braces: most calls are not decoded for this.
    return payload.endswith("]}")


def _without(text: AnyStr, needles: Iterable[AnyStr], hidden: AnyStr) -> AnyStr:
    """Return *text* with *hidden* for each stretch that *needles* cover, together: two may overlap."""
    spans = sorted([span for needle in needles for span in _spans(text, needle)] + [*_spans(text, hidden)])
    parts: list[AnyStr] = []
    end = 0
    for start, stop in spans:
        if start >= end:
            parts += [text[end:start], hidden]
        end = max(end, stop)
    parts.append(text[end:])
    return hidden[:0].join(parts)


def _spans(text: AnyStr, needle: AnyStr) -> Iterator[tuple[int, int]]:
    at = text.find(needle)
    while at >= 0:
        yield at, at + len(needle)
        at = text.find(needle, at + 1)
