"""The secrets of the jobs that run in this process, or did a moment ago; and what is said here without them.

Whoever says something here, all of them are taken out of it. A context variable would not do: it does
not travel into threads and executors, and a pool of threads that one job made speaks for the next.
"""

from __future__ import annotations

import weakref
from collections import deque
from threading import Lock

from litestar_queues.redaction import Redactor

LATEST = 32
"""Redactors kept past the end of their jobs, for threads that these have left."""


class _Kept:
    """Redactors, as long as anybody holds them: a run does, and whoever can speak through its context."""

    def __init__(self) -> None:
        self._latest: deque[Redactor] = deque(maxlen=LATEST)
        self._all: tuple[weakref.ref[Redactor], ...] = ()  # replaced, never changed: others read it meanwhile
        self._lock = Lock()

    def add(self, redactor: Redactor) -> None:
        with self._lock:
            self._latest.append(redactor)
            self._all = (*(each for each in self._all if each() is not None), weakref.ref(redactor))

    def all(self) -> list[Redactor]:
        return [redactor for each in self._all if (redactor := each()) is not None]


_kept = _Kept()


def keep(redactor: Redactor) -> None:
    """From now on, let nothing be said here with the values that *redactor* knows."""
    _kept.add(redactor)


def clean(text: str) -> str:
    """Return *text* without the secrets of this process."""
    for redactor in _kept.all():
        text = redactor.clean(text)
    return text


def clean_bytes(data: bytes) -> bytes:
    """Return *data* without the secrets of this process."""
    for redactor in _kept.all():
        data = redactor.clean_bytes(data)
    return data


def clean_json(text: str) -> str:
    """Return JSON without the secrets of this process."""
    for redactor in _kept.all():
        text = redactor.clean_json(text)
    return text


def tells(figure: float) -> bool:
    """Say whether *figure* is, or holds, a secret of this process."""
    return any(redactor.clean(str(figure)) != str(figure) for redactor in _kept.all())
