"""What happens in a master, as values. The code here never formats a line; a subscriber does."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from litestar_queues.lifecycle import Settlement
from litestar_queues.models import ClaimedJob, ErrorReport
from litestar_queues.nodes import Catalogue, PoolEntry


class Started(Struct, frozen=True):
    """The master serves."""

    node: str
    url: str
    catalogue: Catalogue
    pools: tuple[PoolEntry, ...]


class JobSettled(Struct, frozen=True):
    """A claim on a job has come to an end."""

    job: ClaimedJob
    outcome: str
    settlement: Settlement


class JobSpoke(Struct, frozen=True):
    """A job logged, or wrote to its output."""

    number: int
    task: str
    at: int
    level: str
    message: str
    stream: str | None


class WorkerStarted(Struct, frozen=True):
    """A worker process serves in a pool."""

    worker: str
    pid: int


class WorkerEnded(Struct, frozen=True):
    """A worker process is gone."""

    worker: str
    pid: int
    exit: str
    job: int | None = None
    expected: bool = False


class WorkerSpoke(Struct, frozen=True):
    """A worker wrote something while it ran no job."""

    worker: str
    text: str


class BootProblem(Struct, frozen=True):
    """A zygote could not import the application, or could not start."""

    reason: str
    error: ErrorReport | None
    in_a_row: int
    next_try: float | None
    """Seconds; None when there is none, because old code goes on."""


class PoolProblem(Struct, frozen=True):
    """A worker ended before it was ready."""

    pool: str
    reason: str
    in_a_row: int
    next_try: float
    """Seconds."""
    broken: str | None
    """Why the pool counts as broken, once it does."""


class ZygoteEnded(Struct, frozen=True):
    """The process that forks the workers has died, and they with it."""

    pid: int
    exit: str
    next_try: float
    """Seconds until the next is started."""


class Reloaded(Struct, frozen=True):
    """Workers started from now on have the new code."""

    catalogue: Catalogue


class ThreadsLost(Struct, frozen=True):
    """The import left threads running, which forked workers do not have."""

    names: tuple[str, ...]


class JobStopping(Struct, frozen=True):
    """A running job is being made to stop."""

    number: int
    task: str
    worker: str
    reason: str


class StraysKilled(Struct, frozen=True):
    """Processes that a worker's job left behind were killed."""

    worker: str
    pids: tuple[int, ...]


class JobsAdopted(Struct, frozen=True):
    """Jobs of a master that is gone were taken over."""

    nodes: tuple[str, ...]
    jobs: int


class JobsPruned(Struct, frozen=True):
    """Jobs that ended long enough ago were deleted."""

    jobs: int
    results: int
    """Of jobs that stay."""


class StoreProblem(Struct, frozen=True):
    """The store refused; nothing is lost, and it is tried again."""

    message: str
    next_try: float


class StoreRecovered(Struct, frozen=True):
    """The store works again."""


class LateReport(Struct, frozen=True):
    """A settlement came too late: another had been written."""

    number: int
    fence: int


class Stopping(Struct, frozen=True):
    """The master has been asked to stop."""

    running: int
    timeout: float


class Stopped(Struct, frozen=True):
    """The master has stopped."""

    handed_back: int


Notice = (
    Started
    | JobSettled
    | JobSpoke
    | WorkerStarted
    | WorkerEnded
    | WorkerSpoke
    | BootProblem
    | PoolProblem
    | ZygoteEnded
    | Reloaded
    | ThreadsLost
    | JobStopping
    | StraysKilled
    | JobsAdopted
    | JobsPruned
    | StoreProblem
    | StoreRecovered
    | LateReport
    | Stopping
    | Stopped
)
Subscriber = Callable[[Notice], None]
