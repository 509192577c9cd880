"""From a call and its options to the job that is stored."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import msgspec

from litestar_queues import options as opts
from litestar_queues import redaction
from litestar_queues.clock import from_datetime, to_microseconds
from litestar_queues.config import QueueConfig, check_name
from litestar_queues.ids import uuid7
from litestar_queues.lifecycle import RetryBackoff
from litestar_queues.models import FOREVER, NewJob
from litestar_queues.nodes import Parameter, TaskEntry
from litestar_queues.payload import check_size, checksum, encode_plain
from litestar_queues.registry import tasks
from litestar_queues.tasks import Task


def split_options(task: Task[..., Any] | None, kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return which of *kwargs* are options and which are the task's.

    A name that the task has as a parameter is the task's, whatever it means elsewhere: give that
    option with ``using``. A task that is not known here takes what is no option.
    """
    if not kwargs:
        return {}, {}
    own = set() if task is None else set(task.codec.signature.parameters)
    options = {name: value for name, value in kwargs.items() if name in opts.NAMES and name not in own}
    return options, {name: value for name, value in kwargs.items() if name not in options}


def build_job(
    task: Task[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    config: QueueConfig,
    now: int,
) -> NewJob:
    """Return the job of one call; refuses what the signature, the codec, the limits or the options refuse."""
    task.codec.bind(args, kwargs)
    payload = task.codec.encode(args, kwargs)
    chosen = task.using(**options) if options else task
    return _new_job(payload, chosen.checked, chosen.fields, config=config, now=now)


def build_known_job(
    task: Task[..., Any] | str,
    args: tuple[Any, ...],
    options_and_kwargs: Mapping[str, Any],
    *,
    config: QueueConfig,
    now: int,
) -> NewJob:
    """Return the job of one call of a task that is registered here; ``UnknownTaskError`` for another name."""
    known = tasks.get(task) if isinstance(task, str) else task
    if not isinstance(known, Task):
        msg = f"{task!r} is no task; decorate the function with @task, or give a task's name"
        raise TypeError(msg)
    options, kwargs = split_options(known, options_and_kwargs)
    return build_job(known, args, kwargs, options, config=config, now=now)


def build_named_job(
    name: str,
    entry: TaskEntry | None,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    config: QueueConfig,
    now: int,
) -> NewJob:
    """Return the job of a task that is known by name only, or by its entry in the catalogue."""
    check_name("a task's name", name)
    defaults: dict[str, Any] = {}
    if entry is not None:
        _check_call(entry, args, kwargs)
        defaults = _defaults(entry)
    payload = encode_plain(name, args, kwargs, _secret_places(entry, args, kwargs))
    chosen = opts.check(opts.merge(defaults, options), f"task {name!r}")
    return _new_job(payload, chosen, opts.fields(chosen, name), config=config, now=now)


def entry_of(task: Task[..., Any]) -> TaskEntry:
    """Return what the catalogue says of *task*."""
    chosen, fields = task.checked, task.fields
    return TaskEntry(
        name=task.name,
        parameters=task.codec.parameters(),
        queue=fields["queue"],
        priority=fields["priority"],
        retries=fields["max_retries"],
        backoff=fields["backoff"],
        has_own_backoff=task.has_own_backoff,
        timeout=fields["timeout"],
        kill_grace=fields["kill_grace"],
        key=fields["key"],
        key_scope=fields["key_scope"],
        unique_until=chosen.unique_until,
        on_duplicate=chosen.on_duplicate,
        run_after=None if chosen.run_after is None else to_microseconds(chosen.run_after),
        expires_in=None if chosen.expires_in is None else to_microseconds(chosen.expires_in),
        max_rss=fields["max_rss"],
        allow_background=fields["allow_background"],
        retention=fields["retention"],
        result_retention=fields["result_retention"],
        metadata=chosen.metadata,
        backend=chosen.execution_backend,
        profile=chosen.execution_profile,
        description=task.description,
        secret_result=redaction.RESULT in task.codec.secrets,
    )


def _secret_places(entry: TaskEntry | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[redaction.Place]:
    """Return which values are secret, as far as the catalogue knows the task."""
    if entry is None:
        return []
    secrets = [each.name for each in entry.parameters if each.secret] + [redaction.RESULT] * entry.secret_result
    return redaction.places([(each.name, each.kind) for each in entry.parameters], secrets, len(args), kwargs)


def _new_job(payload: str, chosen: opts.Options, fields: dict[str, Any], *, config: QueueConfig, now: int) -> NewJob:
    """Return the job; *fields* are those of *chosen*, made once for all jobs of a task."""
    check_size(payload, config.max_payload_bytes, fields["task"])
    backend = chosen.execution_backend or config.execution_backend
    config.kind_of(backend)
    return NewJob(
        id=uuid7(now),
        payload=payload,
        checksum=checksum(payload),
        created_at=now,
        run_at=_run_at(chosen, now),
        expires_at=_expires_at(chosen, now),
        backend=backend,
        **fields,
    )


def _run_at(chosen: opts.Options, now: int) -> int:
    if chosen.scheduled_at is not None:
        return max(from_datetime(chosen.scheduled_at), now)
    return now if chosen.run_after is None else now + to_microseconds(chosen.run_after)


def _expires_at(chosen: opts.Options, now: int) -> int | None:
    if chosen.expires_at is not None:
        return from_datetime(chosen.expires_at)
    return None if chosen.expires_in is None else now + to_microseconds(chosen.expires_in)


def _defaults(entry: TaskEntry) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "queue": entry.queue,
        "priority": entry.priority,
        "retries": entry.retries,
        "kill_grace": timedelta(microseconds=entry.kill_grace),
        "key": entry.key,
        "key_scope": "task" if entry.key_scope else "global",
        "unique_until": entry.unique_until,
        "on_duplicate": entry.on_duplicate,
        "execution_backend": entry.backend,
        "execution_profile": entry.profile,
        "max_rss": entry.max_rss,
        "allow_background": entry.allow_background or None,
        "metadata": entry.metadata,
    }
    for name in ("timeout", "run_after", "expires_in"):
        duration = getattr(entry, name)
        if duration is not None:
            defaults[name] = timedelta(microseconds=duration)
    for name in ("retention", "result_retention"):
        period = getattr(entry, name)
        defaults[name] = "forever" if period == FOREVER else period and timedelta(microseconds=period)
    if entry.backoff is not None:
        defaults["retry_backoff"] = msgspec.json.decode(entry.backoff, type=RetryBackoff)
    return opts.merge({}, defaults)


def _check_call(entry: TaskEntry, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Check names and number of arguments, as the call itself would."""
    parameters = entry.parameters
    positional = [each for each in parameters if each.kind in ("positional", "either")]
    problem = _too_many(positional, parameters, args) or _unknown(parameters, kwargs)
    given = {each.name for each in positional[: len(args)]}
    twice = sorted(given & set(kwargs))
    missing = [each.name for each in parameters if each.required and each.name not in given | set(kwargs)]
    if problem is None and twice:
        problem = f"got several values for argument {twice[0]!r}"
    if problem is None and missing:
        problem = f"missing a required argument: {missing[0]!r}"
    if problem is not None:
        msg = f"{shown_signature(entry)}: {problem}"
        raise TypeError(msg)


def shown_signature(entry: TaskEntry) -> str:
    """Return a task as its author wrote it: ``reports.render(report_id: str, deep: bool = …)``."""
    stars = {"args": "*", "kwargs": "**"}
    shown = []
    for each in entry.parameters:
        text = stars.get(each.kind, "") + each.name + (f": {each.annotation}" if each.annotation else "")
        shown.append(text if each.required or each.kind in stars else f"{text} = …")
    return f"{entry.name}({', '.join(shown)})"


def _too_many(positional: list[Parameter], parameters: tuple[Parameter, ...], args: tuple[Any, ...]) -> str | None:
    takes_more = any(each.kind == "args" for each in parameters)
    if len(args) > len(positional) and not takes_more:
        return f"too many positional arguments: {len(args)} given, {len(positional)} taken"
    return None


def _unknown(parameters: tuple[Parameter, ...], kwargs: Mapping[str, Any]) -> str | None:
    if any(each.kind == "kwargs" for each in parameters):
        return None
    known = {each.name for each in parameters if each.kind in ("either", "keyword")}
    unknown = sorted(set(kwargs) - known)
    return f"got an unexpected keyword argument {unknown[0]!r}" if unknown else None
