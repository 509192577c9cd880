"""What a task returns, to JSON and back."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from litestar_queues.exceptions import PayloadError
from litestar_queues.payload.comparing import TOO_DEEP, difference, flaw
from litestar_queues.payload.conversion import ENCODE_ERRORS, Slot, encode, resolve_early, resolve_late

_ADVICE = "annotate its return type, or return plain values"


class ResultCodec:
    """What one function returns, to JSON and back."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self._name = name
        self._function = function
        declared = inspect.signature(function).return_annotation
        self._annotations = {} if declared is inspect.Signature.empty else {"return": declared}
        hints = resolve_early(name, function, self._annotations)
        self._slot = None if hints is None else self._make_slot(hints)

    def encode(self, value: Any, limit: int) -> str:
        """Return *value* as JSON of at most *limit* bytes; ``PayloadError`` when it cannot be kept as it is."""
        slot = self._slot or self._resolve()
        text = self._encode(value)
        if len(text) > limit:
            msg = f"the result of {self._name} is {len(text)} bytes of JSON; the limit is {limit} (max_result_bytes)"
            raise PayloadError(msg)
        if not slot.trusts(value):
            self._check(value, text, slot)
        return text.decode()

    def decode(self, text: str) -> Any:
        """Return the value in *text* as the type that the function declares."""
        return (self._slot or self._resolve()).decode(text, f"the result of {self._name}")

    def _encode(self, value: Any) -> bytes:
        try:
            return encode(value)
        except RecursionError as error:
            cause: Exception = error
            problem = f"result {TOO_DEEP}"
        except ENCODE_ERRORS as error:
            cause = error
            problem = _find_flaw(value) or f"result: {error}"
        raise PayloadError(self._told(problem)) from cause

    def _check(self, value: Any, text: bytes, slot: Slot) -> None:
        try:
            found = difference(value, slot.decode(text, f"the result of {self._name}"), "result")
        except PayloadError as error:
            problem = _find_flaw(value)
            if problem is None:
                raise
            raise PayloadError(self._told(problem)) from error
        except RecursionError:
            found = f"result {TOO_DEEP}"
        if found is not None:
            raise PayloadError(self._told(found))

    def _told(self, problem: str) -> str:
        return f"{self._name} returned what JSON cannot keep: {problem}; {_ADVICE}"

    def _resolve(self) -> Slot:
        self._slot = self._make_slot(resolve_late(self._name, self._function, self._annotations))
        return self._slot

    def _make_slot(self, hints: dict[str, Any]) -> Slot:
        return Slot(hints.get("return", Any), f"{self._name}, return type")


def _find_flaw(value: Any) -> str | None:
    try:
        return flaw(value, "result")
    except RecursionError:
        return f"result {TOO_DEEP}"
