"""The options of a job: what ``@task`` declares, ``using`` changes and ``enqueue`` overrides.

One set of names for all three. ``None`` takes an option back to its default. Everything is checked
when it is given, with a message that names the option and the fix.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Literal, TypedDict

import msgspec
from msgspec import Struct

from litestar_queues.clock import from_datetime, to_datetime, to_microseconds
from litestar_queues.config import check_name
from litestar_queues.lifecycle import DEFAULT_BACKOFF, LONGEST_BACKOFF, RetryBackoff
from litestar_queues.models import FOREVER, OnDuplicate
from litestar_queues.sizes import to_bytes

KILL_GRACE = 2.0
"""Seconds between the request to stop and the kill, where a task does not say."""
_LARGEST_PRIORITY = 2**31
_LONGEST = 100 * 365 * 24 * 3600
"""Seconds; a longer duration is a mistake in the unit."""
_LONGEST_KEY = 500


class Options(Struct, frozen=True, kw_only=True):
    """Options as they are given; None is not given."""

    queue: str | None = None
    priority: int | None = None
    retries: int | None = None
    retry_backoff: float | RetryBackoff | None = None
    timeout: float | timedelta | None = None
    kill_grace: float | timedelta | None = None
    key: str | None = None
    key_scope: Literal["task", "global"] | None = None
    unique_until: Literal["terminal", "forever"] | None = None
    on_duplicate: OnDuplicate | None = None
    run_after: float | timedelta | None = None
    scheduled_at: datetime | None = None
    expires_in: float | timedelta | None = None
    expires_at: datetime | None = None
    execution_backend: str | None = None
    execution_profile: str | None = None
    max_rss: int | str | None = None
    allow_background: bool | None = None
    retention: float | timedelta | Literal["forever"] | None = None
    result_retention: float | timedelta | Literal["forever"] | None = None
    metadata: dict[str, Any] | None = None


class Changes(TypedDict, total=False):
    """The same for type checkers, as keywords of ``Task.using``."""

    queue: str | None
    priority: int | None
    retries: int | None
    retry_backoff: float | RetryBackoff | None
    timeout: float | timedelta | None
    kill_grace: float | timedelta | None
    key: str | None
    key_scope: Literal["task", "global"] | None
    unique_until: Literal["terminal", "forever"] | None
    on_duplicate: OnDuplicate | None
    run_after: float | timedelta | None
    scheduled_at: datetime | None
    expires_in: float | timedelta | None
    expires_at: datetime | None
    execution_backend: str | None
    execution_profile: str | None
    max_rss: int | str | None
    allow_background: bool | None
    retention: float | timedelta | Literal["forever"] | None
    result_retention: float | timedelta | Literal["forever"] | None
    metadata: dict[str, Any] | None


NAMES = frozenset(Options.__struct_fields__)
MOMENTS = frozenset({"scheduled_at", "expires_at"})
"""Options that mean one moment, and so make no sense for every job of a task."""
_EXCLUSIVE = (("run_after", "scheduled_at"), ("expires_in", "expires_at"))


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return *base* with *changes*; a change to None takes the option out.

    A change to one of two options that exclude each other replaces the other.
    """
    merged = {**base, **changes}
    for pair in _EXCLUSIVE:
        for one, other in (pair, pair[::-1]):
            if changes.get(one) is not None and changes.get(other) is None:
                merged.pop(other, None)
    return {name: value for name, value in merged.items() if value is not None}


def check(given: Mapping[str, Any], who: str) -> Options:
    """Return *given* as options of *who*; ``TypeError`` for an unknown one, ``ValueError`` for a bad value."""
    refuse_unknown(given, NAMES, who)
    for name, value in given.items():
        checker = _CHECKS.get(name)
        problem = checker(value) if checker is not None and value is not None else None
        if problem is not None:
            msg = f"{who}: {name} cannot be {value!r}; {problem}"
            raise ValueError(msg)
    for name in ("queue", "execution_backend", "execution_profile"):
        if given.get(name) is not None:
            check_name(f"{who}: {name}", given[name])
    for one, other in _EXCLUSIVE:
        if given.get(one) is not None and given.get(other) is not None:
            msg = f"{who}: {one} and {other} exclude each other; give one of them"
            raise ValueError(msg)
    return Options(**given)


def fields(chosen: Options, task: str) -> dict[str, Any]:
    """Return what *chosen* says of each job of *task*, as fields of a ``NewJob``: all but what hangs on the moment."""
    return {
        "task": task,
        "queue": chosen.queue or "default",
        "priority": chosen.priority or 0,
        "max_retries": chosen.retries or 0,
        "backoff": backoff_json(chosen.retry_backoff),
        "timeout": None if chosen.timeout is None else to_microseconds(chosen.timeout),
        "kill_grace": to_microseconds(KILL_GRACE if chosen.kill_grace is None else chosen.kill_grace),
        "key": chosen.key,
        "key_scope": "" if chosen.key_scope == "global" else task,
        "key_forever": chosen.unique_until == "forever",
        "on_duplicate": chosen.on_duplicate or "reuse",
        "profile": chosen.execution_profile,
        "max_rss": None if chosen.max_rss is None else to_bytes(chosen.max_rss),
        "allow_background": bool(chosen.allow_background),
        "retention": period(chosen.retention),
        "result_retention": period(chosen.result_retention),
        "metadata": None if not chosen.metadata else msgspec.json.encode(chosen.metadata).decode(),
    }


def refuse_unknown(given: Mapping[str, Any], known: frozenset[str], who: str) -> None:
    """Raise ``TypeError`` for the first name in *given* that is not *known*, with those that are."""
    unknown = sorted(set(given) - known)
    if unknown:
        msg = f"{who} has no option {unknown[0]!r} (options: {', '.join(sorted(known))})"
        raise TypeError(msg)


def backoff_json(backoff: float | RetryBackoff | None) -> str | None:
    """Return a declared backoff as it is stored; None for the default."""
    if backoff is None or backoff == DEFAULT_BACKOFF:
        return None
    if isinstance(backoff, (int, float)):
        backoff = RetryBackoff(initial_delay=backoff, multiplier=1.0, max_delay=backoff, jitter=0.0)
    return msgspec.json.encode(backoff).decode()


def period(given: float | timedelta | Literal["forever"] | None) -> int | None:
    """Return how long something is kept, as it is stored."""
    if given is None:
        return None
    return FOREVER if isinstance(given, str) else to_microseconds(given)


def _period(value: Any) -> str | None:
    problem: str | None = None if value == "forever" else _duration(0)(value)
    return problem and problem.replace(" or a timedelta", ', a timedelta, or "forever"')


def _duration(least: float, *, exclusive: bool = False) -> Any:
    word = f"more than {least:g}" if exclusive else f"{least:g} or more"

    def problem(value: Any) -> str | None:
        advice = f"give seconds ({word}) or a timedelta"
        if isinstance(value, bool) or not isinstance(value, (int, float, timedelta)):
            return advice
        seconds = value.total_seconds() if isinstance(value, timedelta) else float(value)
        within = math.isfinite(seconds) and (seconds > least if exclusive else seconds >= least) and seconds <= _LONGEST
        return None if within and (not exclusive or to_microseconds(value) > 0) else advice

    return problem


def _moment(value: Any) -> str | None:
    if not isinstance(value, datetime):
        return "give an aware datetime"
    try:
        to_datetime(from_datetime(value))
    except ValueError as error:
        return str(error)
    except OverflowError:
        return "give a moment that is in the years 1 to 9999 in UTC too"
    return None


def _whole(least: int, most: int) -> Any:
    def problem(value: Any) -> str | None:
        within = isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
        return None if within else f"give a whole number from {least} to {most}"

    return problem


def _size(value: Any) -> str | None:
    try:
        to_bytes(value)
    except ValueError as error:
        return str(error)
    return None


def _truth(value: Any) -> str | None:
    return None if isinstance(value, bool) else "give True or False"


def _one_of(*choices: str) -> Any:
    return lambda value: None if value in choices else f"use one of {', '.join(map(repr, choices))}"


def _key(value: Any) -> str | None:
    good = (
        isinstance(value, str)
        and 0 < len(value) <= _LONGEST_KEY
        and value.encode("utf-8", "ignore").decode() == value
        and "\0" not in value  # where SQLite's JSON functions, and people's tools, end a text
    )
    return None if good else f"give a text of 1 to {_LONGEST_KEY} characters, none of them NUL"


def _metadata(value: Any) -> str | None:
    if not isinstance(value, dict):
        return "give a dictionary"
    try:
        back = msgspec.json.decode(msgspec.json.encode(value))
    except (TypeError, ValueError, RecursionError) as error:
        return f"it must be a JSON object: {error}"
    return None if back == value else "it must hold plain JSON values"


def _backoff(value: Any) -> str | None:
    if isinstance(value, RetryBackoff):
        return None  # it has checked itself
    if isinstance(value, (int, float)) and value > LONGEST_BACKOFF:
        return f"give at most {LONGEST_BACKOFF:.0f} seconds (a year)"
    problem: str | None = _duration(0)(value) if not isinstance(value, timedelta) else "give seconds"
    return problem and "give seconds, or a RetryBackoff; a callable belongs to @task"


_CHECKS: dict[str, Any] = {
    "priority": _whole(-_LARGEST_PRIORITY, _LARGEST_PRIORITY),
    "retries": _whole(0, 1_000_000),
    "retry_backoff": _backoff,
    "timeout": _duration(0, exclusive=True),
    "kill_grace": _duration(0),
    "key": _key,
    "key_scope": _one_of("task", "global"),
    "unique_until": _one_of("terminal", "forever"),
    "on_duplicate": _one_of("reuse", "replace", "raise"),
    "run_after": _duration(0),
    "scheduled_at": _moment,
    "expires_in": _duration(0, exclusive=True),
    "expires_at": _moment,
    "max_rss": _size,
    "allow_background": _truth,
    "retention": _period,
    "result_retention": _period,
    "metadata": _metadata,
}
