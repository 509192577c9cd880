"""The nouns of what runs: masters with their pools and workers, and what their application offers.

A master writes these as its row and as the catalogue, for those who look from outside and do not
import the application. Frozen structs and nothing else; times are microseconds since 1970 (UTC).
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct, field

from litestar_queues.config import Retention
from litestar_queues.models import Count, OnDuplicate, Status
from litestar_queues.redaction import shown_url


class Parameter(Struct, frozen=True):
    """One parameter of a task, as the catalogue tells it to those who do not import the app."""

    name: str
    kind: Literal["positional", "either", "args", "keyword", "kwargs"]
    required: bool
    annotation: str = ""
    schema: dict[str, Any] = field(default_factory=dict)
    """JSON Schema of the annotation; empty when any JSON value will do."""
    secret: bool = False
    """Its value is never shown."""


class TaskEntry(Struct, frozen=True):
    """One task in the catalogue."""

    name: str
    parameters: tuple[Parameter, ...] = ()
    queue: str = "default"
    priority: int = 0
    retries: int = 0
    backoff: str | None = None
    has_own_backoff: bool = False
    """The task decides about its delays by a function, which only its workers have."""
    timeout: int | None = None
    kill_grace: int = 2_000_000
    key: str | None = None
    key_scope: str = ""
    unique_until: Literal["terminal", "forever"] | None = None
    on_duplicate: OnDuplicate | None = None
    run_after: int | None = None
    expires_in: int | None = None
    backend: str | None = None
    profile: str | None = None
    max_rss: int | None = None
    allow_background: bool = False
    retention: int | None = None
    result_retention: int | None = None
    metadata: dict[str, Any] | None = None
    description: str = ""
    secret_result: bool = False


class PoolEntry(Struct, frozen=True):
    """One pool as the application's configuration describes it."""

    name: str
    processes: int
    queues: tuple[str, ...] | None = None
    """The queues it serves; None serves every queue that no other pool names."""
    slots: int = 1
    """Jobs that each process runs at a time."""
    max_jobs: int | None = None
    """A process is replaced after this many."""
    max_rss: int | None = None
    """A process is replaced, between jobs, above this many bytes."""
    nice: int = 0


class Catalogue(Struct, frozen=True):
    """What a worker tells the master about the application, so that the master need not import it."""

    tasks: tuple[TaskEntry, ...] = ()
    pools: tuple[PoolEntry, ...] = ()
    backends: tuple[str, ...] = ("local",)
    """Names of execution backends whose jobs run in the pools."""
    url: str | None = None
    app: str = ""
    max_result_bytes: int = 4 * 1024 * 1024
    drain_timeout: float = 30.0
    """Seconds that running jobs get after the first signal."""
    durability: Literal["power", "process"] = "power"
    retention: dict[Status, Count | None] = field(default_factory=lambda: Retention().by_status())
    """Microseconds that a job is kept after its end, by how it ended; None is for ever."""

    def shown(self) -> Catalogue:
        """Return what everybody may read who can read the store: without a password in its URL."""
        return self if self.url is None else msgspec.structs.replace(self, url=shown_url(self.url))


class WorkerState(Struct, frozen=True, kw_only=True):
    """What a worker process does at this moment."""

    name: str
    pid: int
    pool: str
    state: Literal["starting", "idle", "running", "stopping", "dead"]
    job: int | None = None
    task: str | None = None
    since: int | None = None
    """Wall time at which the running job started."""
    rss: int | None = None
    served: int = 0
    """Jobs run by this process so far."""
    jobs: tuple[int, ...] = ()
    """Numbers of all jobs that run here."""
    waiting: int = 0
    """Jobs that wait here for those."""


class PoolState(Struct, frozen=True, kw_only=True):
    """What a pool is, and how it is."""

    name: str
    processes: int
    queues: tuple[str, ...] | None = None
    slots: int = 1
    problem: str | None = None
    """Why it cannot serve, in one sentence."""


class Node(Struct, frozen=True, kw_only=True):
    """A master as the store sees it; or a process that runs jobs of its own (``immediate``) in their caller."""

    id: str
    """The boot id: new at each start, so that a restart is never mistaken for its predecessor."""
    host: str
    pid: int
    started_at: int
    beat_at: int
    kind: Literal["master", "caller"] = "master"
    version: str = ""
    app: str = ""
    draining: bool = False
    pools: tuple[PoolState, ...] = ()
    workers: tuple[WorkerState, ...] = ()
