"""Settings: frozen, and checked when they are made, with messages that name the field and the fix.

Three sources, the first that says something wins: what the code or the command line gives,
the environment (``LITESTAR_QUEUES_URL``, ``LITESTAR_APP``), and ``[tool.litestar-queues]`` in
the nearest ``pyproject.toml`` (keys ``app`` and ``url``).
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Literal

from litestar_queues.clock import to_microseconds
from litestar_queues.exceptions import QueueConfigurationError
from litestar_queues.models import Status
from litestar_queues.redaction import shown_url
from litestar_queues.sizes import to_bytes

URL_VARIABLE = "LITESTAR_QUEUES_URL"
APP_VARIABLE = "LITESTAR_APP"
DEFAULT_URL = "sqlite:///litestar_queues.db"
_NAMED_BACKENDS = {
    "sqlite": DEFAULT_URL,
    "memory": "sqlite://",
    "ephemeral": "sqlite://",
}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/-]{0,99}")
"""Queue, pool and task names: printable ASCII that needs no quoting in a shell or a URL path."""

_MOST_SLOTS = 1000
_LONGEST = 100 * 365 * 24 * 3600
"""Seconds; a longer period is a mistake in the unit."""
_ENDS = (Status.COMPLETED, Status.CANCELLED, Status.EXPIRED, Status.FAILED)

LARGEST_LIMIT = 30 * 1024 * 1024
"""Bytes: a job, and its result with the jobs that it adds, must fit one frame (``framing.MAX_FRAME``)."""

BackendKind = Literal["local", "immediate"]


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """Worker processes that serve some queues.

    ``queues`` None serves every queue that no other pool names. ``processes`` is how many
    worker processes the pool keeps alive, ``slots`` how many jobs each of them runs at a time:
    coroutines on one event loop, synchronous tasks in threads.

    A process is replaced, between jobs, after ``max_jobs`` jobs, and when its resident memory is
    above ``max_rss`` (bytes, or a text like ``"512MiB"``) at the end of one. ``nice`` (-20 to 19)
    is added to the niceness of its processes.
    """

    name: str
    queues: tuple[str, ...] | None = None
    processes: int = 1
    slots: int = 1
    max_jobs: int | None = None
    max_rss: int | str | None = None
    nice: int = 0

    def __post_init__(self) -> None:
        check_name("PoolConfig.name", self.name)
        _at_least("PoolConfig.processes", self.processes, 1)
        _check_limits("PoolConfig", self)
        if self.queues is not None:
            if not self.queues:
                _refuse("PoolConfig.queues", self.queues, "name at least one queue, or leave it out to serve the rest")
            object.__setattr__(self, "queues", tuple(self.queues))
            for queue in self.queues:
                check_name("PoolConfig.queues", queue)


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """How ``lq worker`` serves when its command line does not say.

    ``max_concurrency`` is the number of processes of the default pool (None: one per CPU);
    ``queues`` limits that pool to these queues; ``slots``, ``max_jobs``, ``max_rss`` and ``nice``
    are those of ``PoolConfig``, for that pool; ``drain_timeout`` is how many seconds running
    jobs get to finish after SIGTERM.
    """

    max_concurrency: int | None = None
    queues: tuple[str, ...] | None = None
    drain_timeout: float = 30.0
    slots: int = 1
    max_jobs: int | None = None
    max_rss: int | str | None = None
    nice: int = 0

    def __post_init__(self) -> None:
        _check_limits("WorkerConfig", self)
        if self.max_concurrency is not None:
            _at_least("WorkerConfig.max_concurrency", self.max_concurrency, 1)
        if self.drain_timeout < 0:
            _refuse("WorkerConfig.drain_timeout", self.drain_timeout, "give seconds, 0 or more")
        if self.queues is not None:
            object.__setattr__(self, "queues", tuple(self.queues))
            for queue in self.queues:
                check_name("WorkerConfig.queues", queue)


@dataclass(frozen=True, kw_only=True)
class Retention:
    """How long a job is kept after its end, by how it ended; in seconds or as a ``timedelta``, None for ever.

    A running master deletes what is over, with its attempts and events. A task with a ``retention``
    of its own decides for its jobs, however they end.
    """

    completed: float | timedelta | None = 24 * 3600.0
    cancelled: float | timedelta | None = 24 * 3600.0
    expired: float | timedelta | None = 24 * 3600.0
    failed: float | timedelta | None = 14 * 24 * 3600.0

    def __post_init__(self) -> None:
        for status in _ENDS:
            given = getattr(self, status)
            if given is not None:
                object.__setattr__(self, status, _seconds(f"Retention.{status}", given))

    def by_status(self) -> dict[Status, int | None]:
        """Return the same in microseconds, as the store takes it."""
        periods = {status: getattr(self, status) for status in _ENDS}
        return {status: None if period is None else to_microseconds(period) for status, period in periods.items()}


@dataclass(frozen=True, kw_only=True)
class QueueConfig:
    """What an application says about its queues.

    ``queue_backend``
        Where the jobs are: a URL (``sqlite:///path``, relative to the project's folder), or a
        name: ``"sqlite"``, or ``"memory"`` / ``"ephemeral"`` for a private temporary file.
        None takes ``LITESTAR_QUEUES_URL``, then ``pyproject.toml``, then ``sqlite:///litestar_queues.db``.
    ``execution_backend``
        Where jobs run that do not say: ``"local"`` (the pools) or ``"immediate"`` (in the caller).
    ``execution_backends``
        Further names, each with the kind that runs its jobs: ``{"cloudrun": "local"}``. A job that
        names a backend not listed here is refused at enqueue.
    ``durability``
        ``"power"`` keeps what was accepted through loss of power; ``"process"`` only through the
        death of processes, and commits faster.
    ``max_payload_bytes``, ``max_result_bytes``
        Limits of the arguments and of the result of one job, as JSON; at most 30 MiB.
    ``retention``
        How long jobs are kept after they have ended.
    ``task_modules``
        Modules that a worker imports beside the application, to register their tasks.
    """

    queue_backend: str | None = field(default=None, repr=False)
    execution_backend: str = "local"
    execution_backends: Mapping[str, BackendKind] = field(default_factory=dict)
    worker: WorkerConfig = field(default_factory=WorkerConfig)
    pools: tuple[PoolConfig, ...] = ()
    task_modules: tuple[str, ...] = ()
    durability: Literal["power", "process"] = "power"
    max_payload_bytes: int = 1024 * 1024
    max_result_bytes: int = 4 * 1024 * 1024
    retention: Retention = field(default_factory=Retention)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pools", tuple(self.pools))
        object.__setattr__(self, "task_modules", tuple(self.task_modules))
        kinds: dict[str, BackendKind] = {"local": "local", "immediate": "immediate", **self.execution_backends}
        object.__setattr__(self, "execution_backends", kinds)
        for name, kind in kinds.items():
            check_name("QueueConfig.execution_backends", name)
            if kind not in ("local", "immediate"):
                _refuse("QueueConfig.execution_backends", kind, 'a backend is of kind "local" or "immediate"')
        if self.execution_backend not in kinds:
            _refuse("QueueConfig.execution_backend", self.execution_backend, f"name one of {', '.join(sorted(kinds))}")
        if self.durability not in ("power", "process"):
            _refuse("QueueConfig.durability", self.durability, 'use "power" or "process"')
        if not isinstance(self.retention, Retention):
            _refuse("QueueConfig.retention", self.retention, "give a Retention(completed=…, failed=…)")
        _check_limit("QueueConfig.max_payload_bytes", self.max_payload_bytes)
        _check_limit("QueueConfig.max_result_bytes", self.max_result_bytes)
        _check_pools(self.pools)
        if self.queue_backend is not None:
            _check_backend(self.queue_backend)

    @property
    def url(self) -> str:
        """Where the jobs are: the absolute URL of the store."""
        return resolve_url(self.queue_backend)

    def kind_of(self, backend: str) -> BackendKind:
        """Return how jobs of *backend* run; ``QueueConfigurationError`` names the choices."""
        try:
            return self.execution_backends[backend]
        except KeyError:
            known = ", ".join(sorted(self.execution_backends))
            msg = (
                f"no execution backend is named {backend!r} (known: {known}); add it to QueueConfig.execution_backends"
            )
            raise QueueConfigurationError(msg) from None


@dataclass(frozen=True)
class ProjectSettings:
    """What ``pyproject.toml`` says under ``[tool.litestar-queues]``, and where its folder is."""

    root: Path
    app: str | None = None
    url: str | None = None


def project_settings(start: Path | None = None) -> ProjectSettings:
    """Read the nearest ``pyproject.toml`` at or above *start* (the current folder when None)."""
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        file = folder / "pyproject.toml"
        if file.is_file():
            return _read_settings(file)
    return ProjectSettings(here)


def resolve_url(given: str | None, start: Path | None = None) -> str:
    """Return the absolute URL of the store from *given*, else the environment, the project, the default.

    A relative SQLite path starts at the folder of ``pyproject.toml``, else at the current one.
    """
    settings = project_settings(start)
    url = given or os.environ.get(URL_VARIABLE) or settings.url or DEFAULT_URL
    _check_backend(url)
    url = _NAMED_BACKENDS.get(url, url)
    prefix = "sqlite:///"
    if url.startswith(prefix) and not url.startswith(prefix + "/"):
        return f"{prefix}{settings.root / url[len(prefix) :]}"
    return url


def check_name(what: str, name: str) -> str:
    """Return *name* if it can name a queue, pool, task or backend; else ``QueueConfigurationError``."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        _refuse(what, name, "use letters, digits and _ . : / - (at most 100 characters)")
    return name


def _check_limits(what: str, limits: PoolConfig | WorkerConfig) -> None:
    """Check what a pool and the default pool have in common; ``max_rss`` becomes bytes."""
    _at_least(f"{what}.slots", limits.slots, 1)
    if limits.slots > _MOST_SLOTS:
        _refuse(f"{what}.slots", limits.slots, f"give {_MOST_SLOTS} or less, and more processes")
    if limits.max_jobs is not None:
        _at_least(f"{what}.max_jobs", limits.max_jobs, 1)
    if not isinstance(limits.nice, int) or isinstance(limits.nice, bool) or not -20 <= limits.nice <= 19:
        _refuse(f"{what}.nice", limits.nice, "give a whole number from -20 to 19")
    if limits.max_rss is not None:
        try:
            object.__setattr__(limits, "max_rss", to_bytes(limits.max_rss))
        except ValueError as error:
            _refuse(f"{what}.max_rss", limits.max_rss, str(error))


def _check_backend(given: str) -> None:
    if given not in _NAMED_BACKENDS and not given.startswith("sqlite:"):
        _refuse(
            "queue_backend", shown_url(given), "use sqlite:///path/to/file.db, or one of " + ", ".join(_NAMED_BACKENDS)
        )


def _check_pools(pools: tuple[PoolConfig, ...]) -> None:
    names = [pool.name for pool in pools]
    if len(set(names)) < len(names):
        _refuse("QueueConfig.pools", names, "give each pool a name of its own")
    rest = [pool.name for pool in pools if pool.queues is None]
    if len(rest) > 1:
        _refuse("QueueConfig.pools", rest, "only one pool can serve the rest; name the queues of the others")


def _read_settings(file: Path) -> ProjectSettings:
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        msg = f"{file} cannot be read: {error}"
        raise QueueConfigurationError(msg) from error
    table = document.get("tool", {}).get("litestar-queues", {})
    unknown = set(table) - {"app", "url"}
    if unknown:
        _refuse(f"[tool.litestar-queues] in {file}", sorted(unknown), "it knows app and url")
    return ProjectSettings(file.parent, app=table.get("app"), url=table.get("url"))


def _at_least(what: str, value: int, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        _refuse(what, value, f"give a whole number, {least} or more")


def _check_limit(what: str, value: int) -> None:
    _at_least(what, value, 1)
    if value > LARGEST_LIMIT:
        _refuse(what, value, f"give at most {LARGEST_LIMIT}; what is larger belongs in a file, passed by its path")


def _seconds(what: str, given: float | timedelta) -> float:
    seconds = given.total_seconds() if isinstance(given, timedelta) else given
    is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not is_number or not 0 <= seconds <= _LONGEST:  # false for NaN too
        _refuse(what, given, "give seconds (0 or more, at most 100 years), a timedelta, or None for ever")
    return float(seconds)


def _refuse(what: str, value: object, remedy: str) -> None:
    msg = f"{what} cannot be {value!r}; {remedy}"
    raise QueueConfigurationError(msg)
