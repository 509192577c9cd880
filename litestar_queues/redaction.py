"""Values that nobody is to see: which of a call's they are, and texts without them. Pure.

A call says of itself which of its values are secret (``"secret": [0, "card", "return"]`` beside
``args`` and ``kwargs``), so that who shows it need not know the task.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Collection, Iterator, Sequence
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Struct

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


def hides_result(payload: str) -> bool:
    """Say whether the result of the call in *payload* is secret."""
    try:
        return _has_secrets(payload) and RESULT in _decoder.decode(payload).secret
    except msgspec.DecodeError:
        return True


class Redactor:
    """Takes the secret values of one call out of texts, as they are and as JSON and Python write them."""

    def __init__(self, values: Collection[str]) -> None:
        written = {form for value in values for form in _written(value)}
        self._needles = sorted(written, key=len, reverse=True)

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
        return cls([leaf for value in secret for leaf in _leaves(value) if len(leaf) >= SHORTEST])

    def clean(self, text: str) -> str:
        """Return *text* without the values."""
        for needle in self._needles:
            text = text.replace(needle, HIDDEN)
        return text


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


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield from (key, *_leaves(each))
    elif isinstance(value, list):
        for each in value:
            yield from _leaves(each)
    elif isinstance(value, (str, int, float)) and not isinstance(value, bool):
        yield str(value)


def _written(value: str) -> set[str]:
    return {value, msgspec.json.encode(value).decode()[1:-1], repr(value)[1:-1], ascii(value)[1:-1]}
