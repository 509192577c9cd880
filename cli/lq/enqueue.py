"""``lq enqueue``: enqueue a task by its name, checked against what the masters have published."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click
import msgspec

from litestar_queues.config import URL_VARIABLE, QueueConfig, resolve_url
from litestar_queues.exceptions import PayloadError, QueueConfigurationError, QueueError, StoreMissing, UnknownTaskError
from litestar_queues.models import Status
from litestar_queues.nodes import Parameter, TaskEntry
from litestar_queues.redaction import HIDDEN
from litestar_queues.request import shown_signature
from litestar_queues.results import TaskResult
from litestar_queues.service import QueueService
from lq import exits
from lq.duration import Duration
from lq.render.page import complain, write_json
from lq.render.text import printable

_JSON_TYPES: dict[str, tuple[type, ...]] = {
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
    "string": (str,),
}


@click.command(
    short_help="Enqueue a task by its name.",
    context_settings={"ignore_unknown_options": False, "allow_interspersed_args": True},
)
@click.argument("task")
@click.argument("arguments", nargs=-1, metavar="[VALUE | NAME=VALUE]...")
@click.option("-q", "--queue", help="Another queue than the task's.")
@click.option("-p", "--priority", type=int, help="Higher runs first.")
@click.option("--in", "delay", type=Duration(), metavar="10m", help="Not before this much time has passed.")
@click.option("--at", type=click.DateTime(["%Y-%m-%dT%H:%M:%S%z"]), help="Not before this moment, with its time zone.")
@click.option("--key", help="At most one live job with this key.")
@click.option("--retries", type=click.IntRange(min=0))
@click.option("--timeout", type=Duration(), metavar="30s", help="Run time after which it is stopped.")
@click.option("--backend", "execution_backend", help="Execution backend.")
@click.option("--profile", "execution_profile", help="Execution profile.")
@click.option("--wait", is_flag=True, help="Wait until it has ended; exit 3 if it did not complete.")
@click.option("--wait-timeout", type=Duration(), metavar="60s", help="Wait at most so long; exit 124 past it.")
@click.option("--url", envvar=URL_VARIABLE, metavar="URL", help="The store; else the project's.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON document.")
def enqueue(task: str, arguments: tuple[str, ...], url: str | None, as_json: bool, **given: Any) -> None:
    """Enqueue TASK with these arguments.

    A VALUE is read as the parameter's type asks: as it is for text, as JSON otherwise. NAME=VALUE
    gives a parameter by name. The task must have been published by a worker of this store; neither
    the application nor Litestar is imported.

    \b
    Examples:
      lq enqueue reports.render report-1
      lq enqueue reports.render report-1 deep=true --queue slow --in 10m
      lq enqueue add 1 2 --wait
    """  # noqa: D301 (click reads the backspace)
    wait, limit = given.pop("wait"), given.pop("wait_timeout")
    options = {name: value for name, value in given.items() if value is not None}
    if "delay" in options:
        options["run_after"] = options.pop("delay")
    if "at" in options:
        options["scheduled_at"] = options.pop("at")
    try:
        status = asyncio.run(
            _enqueue(resolve_url(url), task, arguments, options, wait or limit is not None, limit, as_json)
        )
    except (TypeError, ValueError, PayloadError) as error:
        raise click.UsageError(str(error)) from None
    raise click.exceptions.Exit(status)


async def _enqueue(
    url: str, name: str, words: tuple[str, ...], options: dict[str, Any], wait: bool, limit: float | None, as_json: bool
) -> int:
    _must_exist(url)
    async with QueueService(_config(url, options)) as service:
        entry = await _entry(service, name)
        args, kwargs = parse_arguments(entry, words)
        result = await service.enqueue_call(name, args, kwargs, options)
        if not as_json:
            note = "  (a live job holds the key)" if result.deduplicated else ""
            click.echo(printable(f"#{result.number} {result.task_name} {result.status} {result.id}{note}"))
        status = await _wait_for(result, limit, as_json) if wait else exits.OK
        if as_json:
            write_json(_as_json(result))
        return status


async def _wait_for(result: TaskResult[Any], limit: float | None, as_json: bool) -> int:
    try:
        record = await result.wait(limit)
    except TimeoutError as error:
        complain(str(error))
        return exits.TIMED_OUT
    if not as_json:
        kept = "(its result is not kept)" if record.is_result_gone else record.shown_result_json
        said = kept if record.status == Status.COMPLETED else record.error
        click.echo(printable(f"#{result.number} {record.status} {said or ''}".rstrip()))
    return exits.OK if record.status == Status.COMPLETED else exits.JOB_FAILED


def _must_exist(url: str) -> None:
    path = url.removeprefix("sqlite:///")
    if path != url and not Path(path).exists():
        msg = f"there is no database at {path}; start a worker there first (lq worker), or name another with --url"
        raise StoreMissing(msg)


def _config(url: str, options: dict[str, Any]) -> QueueConfig:
    """Take any backend here: which ones there are, the catalogue does not say for applications that only enqueue."""
    backend = options.get("execution_backend")
    extra = {backend: "local"} if backend and backend != "immediate" else {}
    if backend == "immediate":
        msg = "a job that runs at once needs its code here; use the Python API, or leave out --backend"
        raise QueueConfigurationError(msg)
    return QueueConfig(queue_backend=url, execution_backends=extra)  # type: ignore[arg-type]  # "local" is a kind


async def _entry(service: QueueService, name: str) -> TaskEntry:
    catalogue = await service.store.catalogue()
    entries = {entry.name: entry for entry in catalogue.tasks}
    if not entries:
        msg = "no worker has published its tasks in this store yet; start one (lq worker), then enqueue"
        raise QueueError(msg)
    if name not in entries:
        raise UnknownTaskError(name, entries)
    return entries[name]


def parse_arguments(entry: TaskEntry, words: tuple[str, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and named arguments from the words of a command line; ``TypeError`` for what does not fit."""
    by_name = {each.name: each for each in entry.parameters if each.kind in ("either", "keyword")}
    rest = next((each for each in entry.parameters if each.kind == "kwargs"), None)
    positional = [each for each in entry.parameters if each.kind in ("positional", "either")]
    more = next((each for each in entry.parameters if each.kind == "args"), None)
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for word in words:
        name, is_named, text = word.partition("=")
        parameter = by_name.get(name) or (rest if name.isidentifier() else None)
        if is_named and parameter is not None:
            kwargs[name] = _value(entry, parameter, name, text)
            continue
        place = positional[len(args)] if len(args) < len(positional) else more
        args.append(word if place is None else _value(entry, place, place.name, word))
    return tuple(args), kwargs


def _value(entry: TaskEntry, parameter: Parameter, name: str, text: str) -> Any:
    types = _types(parameter.schema)
    if types is None:
        return _json_or_text(text)
    if types == {"string"}:
        return text
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError:
        value = text
    fits = any(
        isinstance(value, _JSON_TYPES[each]) and not (isinstance(value, bool) and each in ("integer", "number"))
        for each in types
    )
    if fits:
        return value
    if "string" in types:
        return text
    given = HIDDEN if parameter.secret else repr(text)
    msg = f"{shown_signature(entry)}: {name} expected {' or '.join(sorted(types))}, got {given}"
    raise TypeError(msg)


def _types(schema: dict[str, Any]) -> set[str] | None:
    """Return the JSON types that a schema allows; None when any will do, or when it is told by reference."""
    if "anyOf" in schema:
        parts = [_types(part) for part in schema["anyOf"]]
        return None if None in parts else {each for part in parts for each in part or ()}
    kind = schema.get("type")
    if kind is None:
        return None
    kinds = {kind} if isinstance(kind, str) else set(kind)
    return kinds if kinds <= set(_JSON_TYPES) else None


def _json_or_text(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _as_json(result: TaskResult[Any]) -> dict[str, Any]:
    record = result.record
    return {
        "number": result.number,
        "id": result.id,
        "task": result.task_name,
        "queue": record.queue,
        "status": str(result.status),
        "deduplicated": result.deduplicated,
        "result": None if record.shown_result_json is None else msgspec.json.decode(record.shown_result_json),
        "result_dropped": record.is_result_gone,
        "error": result.error,
    }
