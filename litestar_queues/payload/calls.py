"""The calls of a task, to JSON and back: arguments stay positional or named, as the caller gave them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from litestar_queues import redaction
from litestar_queues.exceptions import PayloadError, TaskDefinitionError
from litestar_queues.nodes import Parameter
from litestar_queues.payload.comparing import TOO_DEEP, difference, flaw
from litestar_queues.payload.conversion import ENCODE_ERRORS, Slot, encode, resolve, resolve_early, resolve_late, schema
from litestar_queues.redaction import RESULT

INJECTABLE = frozenset({"_job_id", "_task_context"})
"""Parameters that the worker fills in; not part of the caller's signature."""

_KINDS: dict[Any, Any] = {
    inspect.Parameter.POSITIONAL_ONLY: "positional",
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "either",
    inspect.Parameter.VAR_POSITIONAL: "args",
    inspect.Parameter.KEYWORD_ONLY: "keyword",
    inspect.Parameter.VAR_KEYWORD: "kwargs",
}
_TOO_DEEP = f"an argument {TOO_DEEP}"
_ANYTHING = Slot(Any, "known by name")


class _Call(msgspec.Struct):
    args: list[msgspec.Raw]
    kwargs: dict[str, msgspec.Raw]


_call_decoder = msgspec.json.Decoder(_Call)


class _Slots:
    """Which slot and which name an argument has, by its position or its keyword."""

    def __init__(self, signature: inspect.Signature, hints: Mapping[str, Any], task: str) -> None:
        self.positional: list[tuple[str, Slot]] = []
        self.named: dict[str, Slot] = {}
        self.rest: tuple[str, Slot] | None = None
        self.others: Slot | None = None
        for each in signature.parameters.values():
            slot = Slot(hints.get(each.name, Any), f"{task}, parameter {each.name!r}")
            if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD):
                self.positional.append((each.name, slot))
            if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY):
                self.named[each.name] = slot
            if each.kind == each.VAR_POSITIONAL:
                self.rest = (each.name, slot)
            if each.kind == each.VAR_KEYWORD:
                self.others = slot

    def at(self, index: int) -> tuple[str, Slot]:
        """Return name and slot of the argument at *index*."""
        if index < len(self.positional):
            return self.positional[index]
        if self.rest is None:
            return f"args[{index}]", _ANYTHING
        name, slot = self.rest
        return f"{name}[{index - len(self.positional)}]", slot

    def of(self, name: str) -> Slot:
        """Return the slot of the keyword argument *name*."""
        return self.named.get(name) or self.others or _ANYTHING

    def trust(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Say whether a call, once encoded, is known to come back as it is."""
        for index, value in enumerate(args):
            if not self.at(index)[1].trusts(value):
                return False
        return all(self.of(name).trusts(value) for name, value in kwargs.items())


class CallCodec:
    """The calls of one function, to JSON and back."""

    def __init__(self, name: str, function: Callable[..., Any], redact: Collection[str] = ()) -> None:
        self._name = name
        self._function = function
        whole = inspect.signature(function)
        self.injected = frozenset(whole.parameters) & INJECTABLE
        parameters = [each for each in whole.parameters.values() if each.name not in INJECTABLE]
        self.signature = whole.replace(parameters=parameters)
        self._is_plain = all(each.kind == each.POSITIONAL_OR_KEYWORD for each in parameters)
        names = [each.name for each in parameters]
        required = {each.name for each in parameters if each.default is each.empty}
        self._left = [frozenset(names[index:]) for index in range(len(names) + 1)]
        """The names that remain for keywords after so many positional arguments, and those of them that must be given."""
        self._still_required = [left & required for left in self._left]
        self._as_given = _count_before_injected(name, whole)
        self._annotations = {each.name: each.annotation for each in parameters if each.annotation is not each.empty}
        self._returned = {} if whole.return_annotation is whole.empty else {RESULT: whole.return_annotation}
        self._redact = _checked(name, redact, [*names, RESULT])
        self._kinds = [(each.name, str(_KINDS[each.kind])) for each in parameters]
        hints = resolve_early(name, function, self._annotations)
        self.secrets = self._redact
        """Names of the parameters whose values are never shown; ``return`` for the result."""
        self._slots = None if hints is None else self._take(hints)

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Check a call against the signature; ``TypeError`` as the call itself would raise it."""
        count = len(args)
        if self._is_plain and count < len(self._left):
            given = kwargs.keys()
            if given <= self._left[count] and self._still_required[count] <= given:
                return
        try:
            for name in self.injected & kwargs.keys():
                msg = f"got an unexpected keyword argument {name!r}; the worker fills it in"
                raise TypeError(msg)
            self.signature.bind(*args, **kwargs)
        except TypeError as error:
            msg = f"{self._name}{self.signature}: {error}"
            raise TypeError(msg) from None

    def encode(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """Return the call as JSON.

        Raises ``TypeError`` for a value that is not of its parameter's type, ``PayloadError`` for one
        that would not come back as it is; both name the place.
        """
        slots = self._slots or self._resolve()
        secret = redaction.places(self._kinds, self.secrets, len(args), kwargs)
        places = _Places(self._name, slots, args, kwargs, secret)
        text = places.encode()
        if not slots.trust(args, kwargs):
            places.check(text)
        return text.decode()

    def decode(self, payload: str) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments in *payload* as the types that the parameters declare.

        Positional arguments that stand behind an injected parameter come back as keywords, so that the
        function can be called with both. Raises ``PayloadError`` for a call that does not fit.
        """
        slots = self._slots or self._resolve()
        call = _read(payload, self._name)
        try:
            self.bind(tuple(call.args), call.kwargs)
        except TypeError as error:
            msg = f"the stored call does not fit {error}; was it enqueued by another release of the code?"
            raise PayloadError(msg) from error
        args = []
        for index, raw in enumerate(call.args):
            name, slot = slots.at(index)
            args.append(slot.decode(raw, f"{self._name}: {name}"))
        kwargs = {name: slots.of(name).decode(raw, f"{self._name}: {name}") for name, raw in call.kwargs.items()}
        if self._as_given is not None:
            named = (name for name, _ in slots.positional[self._as_given :])
            kwargs.update(zip(named, args[self._as_given :], strict=False))
            del args[self._as_given :]
        return args, kwargs

    def parameters(self) -> tuple[Parameter, ...]:
        """Return the parameters as the catalogue tells them."""
        hints = resolve_early(self._name, self._function, self._annotations) or {}
        return tuple(
            Parameter(
                each.name,
                _KINDS[each.kind],
                required=each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD),
                annotation=_shown(each.annotation),
                schema=schema(hints.get(each.name, Any)),
                secret=each.name in self.secrets,
            )
            for each in self.signature.parameters.values()
        )

    def _resolve(self) -> _Slots:
        hints = resolve_late(self._name, self._function, self._annotations)
        self._slots = self._take(hints)
        return self._slots

    def _take(self, hints: Mapping[str, Any]) -> _Slots:
        hints = {**hints, **(_resolve_if_possible(self._function, self._returned))}
        self.secrets = self._redact | {each for each, hint in hints.items() if redaction.is_secret(hint)}
        return _Slots(self.signature, hints, self._name)


class _Places:
    """The arguments of one call with their names, for what is to be said of them."""

    __slots__ = ("_args", "_kwargs", "_secret", "_slots", "_who")

    def __init__(
        self,
        who: str,
        slots: _Slots,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        secret: Sequence[redaction.Place] = (),
    ) -> None:
        self._secret = secret
        self._who = who
        self._slots = slots
        self._args = args
        self._kwargs = kwargs

    def encode(self) -> bytes:
        try:
            call: dict[str, Any] = {"args": self._args, "kwargs": self._kwargs}
            return encode({**call, "secret": self._secret} if self._secret else call)
        except RecursionError as error:
            raise self._error(_TOO_DEEP) from error
        except ENCODE_ERRORS as error:
            raise self._error(self._first_flaw() or str(error)) from error

    def check(self, text: bytes) -> None:
        """Decode *text* as the worker would, and refuse what comes back as something else."""
        call = _read(text, self._who)
        raws = [*call.args, *call.kwargs.values()]
        for (place, name, slot, value), raw in zip(self._each(), raws, strict=True):
            if slot.trusts(value):
                continue
            if place in self._secret:
                self._check_secret(name, slot, value, raw)
                continue
            try:
                found = difference(value, slot.decode(raw, f"{self._who}: {name}"), name)
            except PayloadError as error:
                problem = self._first_flaw()
                if problem is not None:
                    raise self._error(problem) from error
                raise TypeError(str(error)) from error.__cause__
            except RecursionError:
                found = f"{name} {TOO_DEEP}"
            if found is not None:
                raise self._error(found)

    def _check_secret(self, name: str, slot: Slot, value: Any, raw: Any) -> None:
        """Do the same, and say nothing of the value, nor of what others say of it."""
        try:
            found = difference(value, slot.decode(raw, name), name)
        except PayloadError:
            msg = f"{self._who}: {name} is not of its parameter's type (its value is {redaction.HIDDEN})"
            raise TypeError(msg) from None
        except RecursionError:
            found = TOO_DEEP
        if found is not None:
            problem = f"{name} would come back as something else (its value is {redaction.HIDDEN})"
            raise self._error(problem)

    def _each(self) -> Iterator[tuple[redaction.Place, str, Slot, Any]]:
        for index, value in enumerate(self._args):
            yield (index, *self._slots.at(index), value)
        for name, value in self._kwargs.items():
            yield name, name, self._slots.of(name), value

    def _first_flaw(self) -> str | None:
        try:
            flaws = ((place, name, flaw(value, name)) for place, name, _, value in self._each())
            place, name, found = next((each for each in flaws if each[2] is not None), (0, "", None))
        except RecursionError:
            return _TOO_DEEP
        is_hidden = found is not None and place in self._secret
        return f"{name} cannot be stored (its value is {redaction.HIDDEN})" if is_hidden else found

    def _error(self, problem: str) -> PayloadError:
        return PayloadError(f"{self._who} cannot be enqueued: {problem}")


def encode_plain(
    what: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], secret: Sequence[redaction.Place] = ()
) -> str:
    """Return a call of a task that is known by name only: plain JSON values, some of them *secret*."""
    slots = _Slots(inspect.Signature(), {}, what)
    places = _Places(what, slots, args, kwargs, secret)
    text = places.encode()
    if not slots.trust(args, kwargs):
        places.check(text)
    return text.decode()


def _read(payload: str | bytes, name: str) -> _Call:
    try:
        return _call_decoder.decode(payload)
    # A damaged text raises DecodeError or UnicodeError, both ValueErrors; nesting without end RecursionError.
    except (ValueError, RecursionError) as error:
        msg = f"the stored arguments of {name} are not a call: {error}"
        raise PayloadError(msg) from error


def _count_before_injected(name: str, signature: inspect.Signature) -> int | None:
    """Return how many positional parameters stand before an injected one; None when none stands behind it."""
    positional: list[str] = []
    first = None
    for each in signature.parameters.values():
        if each.name in INJECTABLE:
            if each.kind not in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY):
                msg = f"task {name!r}: the worker passes {each.name} by name; make it an ordinary parameter"
                raise TaskDefinitionError(msg)
            if first is None and each.kind == each.POSITIONAL_OR_KEYWORD:
                first = len(positional)
        elif each.kind == each.VAR_POSITIONAL and first is not None:
            msg = f"task {name!r}: *{each.name} would fill the injected parameter before it; put that one behind *{each.name}"
            raise TaskDefinitionError(msg)
        elif each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD):
            positional.append(each.name)
    return first if first is not None and first < len(positional) else None


def _resolve_if_possible(function: Callable[..., Any], annotations: dict[str, Any]) -> dict[str, Any]:
    """Return *annotations* as types; none where they are no types here, which is for the results' codec to say."""
    try:
        return resolve(function, annotations)
    except (NameError, TypeError):
        return {}


def _checked(task: str, redact: Collection[str], names: Collection[str]) -> frozenset[str]:
    if isinstance(redact, str):
        msg = f"task {task!r}: redact takes names, not one text; write redact=({redact!r},)"
        raise TaskDefinitionError(msg)
    for name in redact:
        if name not in names:
            msg = f"task {task!r}: redact names {name!r}, which is no parameter of it (they are: {', '.join(names)})"
            raise TaskDefinitionError(msg)
    return frozenset(redact)


def _shown(annotation: Any) -> str:
    if annotation is inspect.Parameter.empty:
        return ""
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
