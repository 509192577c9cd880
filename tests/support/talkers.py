"""Tasks that say what they should not: a secret, by each of the ways there are; odd, forged and endless words."""

from __future__ import annotations

import asyncio
import gc
import io
import logging
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from litestar_queues import INJECTED, NonRetryableError, Secret, TaskExecutionContext, wire
from litestar_queues.models import ErrorReport, Receipt
from support.runs import task

log = logging.getLogger("talkers")
_kept_at_import = sys.stderr
_pool = ThreadPoolExecutor(1)
"""Its thread is made by the first job that uses it, and serves those that come after."""


@task("talkers.thread")
def in_a_thread(card: Secret[str]) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(log.warning, "logged %s", card).result()
        pool.submit(print, "printed", card).result()
    thread = threading.Thread(target=_fail, args=(card,))
    thread.start()
    thread.join()


@task("talkers.pool")
def in_a_pool_of_an_earlier_job(card: Secret[str]) -> None:
    _pool.submit(print, "printed", card).result()


@task("talkers.executor")
async def in_an_executor(card: Secret[str]) -> None:
    await asyncio.get_running_loop().run_in_executor(None, log.warning, "logged %s", card)


@task("talkers.bytes")
def as_bytes(card: Secret[str]) -> None:
    sys.stdout.buffer.write(f"{card}\n".encode())
    io.TextIOWrapper(sys.stderr.buffer, write_through=True).write(f"{card}\n")


@task("talkers.kept_stream")
def to_a_stream_kept_at_import(card: Secret[str]) -> None:
    print(card, file=_kept_at_import)


@task("talkers.pieces")
def in_pieces(card: Secret[str]) -> None:
    for character in f"{card}\n":
        sys.stdout.write(character)


def _broken_backoff(failures: int, error: Exception) -> float:
    raise RuntimeError(failures)


@task("talkers.backoff", retry_backoff=_broken_backoff)
def with_a_broken_backoff(card: Secret[str]) -> None:
    raise ValueError(card)


@task("talkers.log_arguments")
def in_arguments_that_do_not_fit(card: Secret[str]) -> None:
    log.warning("two %s %s", card)  # noqa: PLE1206 (as programs do)


@task("talkers.types")
def as_types_and_levels(card: Secret[str], _task_context: TaskExecutionContext = INJECTED) -> None:
    _task_context.event_sync(f"paid.{card}")
    _task_context.log_sync("paid", level=card, payload={card: {"deep": [card]}})  # type: ignore[arg-type]


@task("talkers.exception_type")
def as_the_type_of_an_exception(card: Secret[str]) -> None:
    raise type(card, (NonRetryableError,), {})


@task("talkers.notes")
def in_notes_and_groups(card: Secret[str]) -> None:
    error = NonRetryableError("short")
    error.add_note(f"paid with {card}")
    raise ExceptionGroup("several", [error, ValueError(f"one\n{card}")])


@task("talkers.cut")
def where_a_text_is_cut(card: Secret[str], _task_context: TaskExecutionContext = INJECTED) -> None:
    """Say it so that each limit would leave its first half."""
    log.warning("%s%s", "x" * 16_376, card)
    print("x" * 16_376 + card)
    _task_context.event_sync("x" * 192 + card, "x" * 16_376 + card)
    raise ValueError("x" * 4_088 + card)


@task("talkers.command")
def in_the_command_of_a_process(card: Secret[str]) -> None:
    padding = "x" * (192 - len(f"{sys.executable} -c import signal; signal.pause() "))
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()", padding + card])
    while card not in Path(f"/proc/{child.pid}/cmdline").read_text():  # empty for a moment after exec
        time.sleep(0.001)


@task("talkers.lines")
def of_several_lines(card: Secret[str]) -> None:
    """Say a text of several lines: whole, and as tracebacks and formatters indent it."""
    print(card)
    sys.stdout.buffer.write(f"{card}\n".encode())
    print("\n".join(f"    | {line}" for line in card.splitlines()))
    raise ExceptionGroup("several", [ValueError(card)])


class Suit(Enum):
    HEARTS = "of-gold"


class Person(msgspec.Struct):
    name: str
    born: datetime
    salary: Decimal


@task("talkers.kinds")
def of_several_kinds(
    raw: Secret[bytes], suit: Secret[Suit], id: Secret[UUID], people: Secret[list[Person]], pin: Secret[int] = 0,
    _task_context: TaskExecutionContext = INJECTED,
) -> None:  # fmt: skip
    [person] = people
    for value in (raw, suit, id, person, person.born, person.salary, person.born.isoformat(), id.hex, raw.hex(), pin):
        print(value)
        log.warning("%r", value)
    sys.stdout.buffer.write(raw + b"\n")
    _task_context.event_sync("pin", payload={"pin": pin, "text": f"{pin}"})
    _task_context.progress_sync(pin, 10 * pin)


@task("talkers.descriptor")
def to_the_descriptor_itself(card: Secret[str]) -> str:
    os.write(1, f"written {card}\n".encode())
    return f"returned {card}"


@task("talkers.token", redact=("return",))
def token() -> str:
    return "hidden-token-4711"


@task("talkers.odd_progress")
def odd_events(_task_context: TaskExecutionContext = INJECTED) -> None:
    for payload in ({"percent": "fifty"}, {"percent": 10**400, "total": True}, {"payload": [1]}, {"current": None}, {}):
        _task_context.event_sync("task.progress", "half", payload)


@task("talkers.forges_time")
def forges_time(_task_context: TaskExecutionContext = INJECTED) -> None:
    """End this run, over the worker's own channel, in a year that no calendar has."""
    from litestar_queues.worker.serving import Server

    [server] = [each for each in gc.get_objects() if isinstance(each, Server)]
    far = Receipt(1 << 61, 1 << 61)
    number, fence = _task_context.number, _task_context.fence
    wire.send(server._worker.reports, wire.Failed(number, fence, "raised", ErrorReport("X", "y"), far, retryable=False))
    time.sleep(30)


def _fail(value: Any) -> None:
    raise ValueError(value)
