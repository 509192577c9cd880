"""The master's life: import the application in a worker, open the store, serve, drain, stop.

Everything that waits is a task of one task group: one that fails ends the master, and with it,
by the kernel's hand, its workers. The next master finds their jobs.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
from collections.abc import Coroutine
from typing import Any
from uuid import uuid4

from msgspec import Struct

from litestar_queues.cell import Reason
from litestar_queues.clock import Clock, SystemClock
from litestar_queues.exceptions import QueueConfigurationError, QueueError
from litestar_queues.lifecycle import Outcome
from litestar_queues.master import liveness, strays, surroundings
from litestar_queues.master.assignments import Assignment
from litestar_queues.master.crew import Crew
from litestar_queues.master.housekeeping import Housekeeping
from litestar_queues.master.notices import BootProblem, JobSettled, Notice, Started, Stopped, Stopping, Subscriber
from litestar_queues.master.planning import PoolOptions, excluded_queues, plan_pools
from litestar_queues.master.pool import Pool
from litestar_queues.master.rounds import Rounds
from litestar_queues.master.watch import Watch
from litestar_queues.master.zygote import Launch
from litestar_queues.models import ClaimedJob, ErrorReport, Receipt
from litestar_queues.nodes import Catalogue, Node, PoolEntry, PoolState
from litestar_queues.store.base import Store
from litestar_queues.store.opening import open_store

_PR_SET_CHILD_SUBREAPER = 36
_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_HANDED_BACK = {"returned", "lost"}
"""Outcomes of a drain after which the job runs again; lost where somebody else has ended its zygote."""
_CALM = 0.02
"""Seconds between looks whether a drain is over."""
_RETIRE_WITHIN = 1.0
"""Seconds that idle workers get to end by themselves."""
_END_WITHIN = 2.0
"""Seconds that the zygotes get to end their workers and themselves before they are killed."""
_HURRY = 5.0
"""Seconds that a store which refuses can hold up a master that was told twice to stop."""


class MasterOptions(Struct, frozen=True, kw_only=True):
    """What the command line says."""

    app: str | None = None
    """``module:attribute`` of the application."""
    imports: tuple[str, ...] = ()
    folder: str = "."
    """Put first on the workers' ``sys.path``."""
    url: str | None = None
    """None takes the application's."""
    pools: PoolOptions = PoolOptions()
    drain_timeout: float | None = None
    """Seconds that running jobs get after the first signal; None takes the application's."""
    version: str = ""


class BootError(QueueConfigurationError):
    """The application cannot be imported; ``report`` has its traceback."""

    def __init__(self, message: str, report: ErrorReport | None) -> None:
        self.report = report
        super().__init__(message)


class Farewell(Struct, frozen=True):
    """How a master ended that was told to stop."""

    handed_back: int
    """Jobs that were running and are pending again."""
    problems: tuple[str, ...] = ()
    """Why no pool could start workers at the end; empty when one could."""


class Master:
    """One run of ``lq worker``."""

    def __init__(self, options: MasterOptions, tell: Subscriber, clock: Clock | None = None) -> None:
        self._options = options
        self._subscriber = tell
        self._clock = clock or SystemClock()
        self._node = uuid4().hex
        self._started_at = self._clock.now()
        self._tasks: asyncio.TaskGroup | None = None
        self._early: list[Coroutine[Any, Any, None]] = []
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._handed_back = 0
        self._problems: tuple[str, ...] = ()
        self._pools: tuple[Pool, ...] = ()
        self._catalogue = Catalogue()
        self._boot_problem: BootProblem | None = None
        self._booted = asyncio.Event()

    async def run(self) -> Farewell:
        """Serve until a signal has stopped it; return how that went.

        Raises ``BootError`` when the application cannot be imported, a ``StoreError`` when the store
        cannot be opened, ``QueueConfigurationError`` for pools that do not fit.
        """
        _become_subreaper()
        options = self._options
        limits = surroundings.limits_of_descriptors()
        launch = Launch(options.app, options.imports, options.folder, self._node, options.url, limits)
        self._crew = Crew(launch, self._clock, self._tell, self._spawn)
        surroundings.reset_signals()
        self._take_signals()
        asyncio.get_running_loop().set_exception_handler(self._broken)
        try:
            async with asyncio.TaskGroup() as self._tasks:
                try:
                    await self._serve()
                finally:  # inside the group: what follows a worker's death is a task of it
                    await self._end_all()
        except BaseExceptionGroup as group:
            _raise_unless_over(group)
        self._tell(Stopped(self._handed_back))
        self._leave_signals()
        return Farewell(self._handed_back, self._problems)

    async def _serve(self) -> None:
        self._crew.nursery.start()
        self._catalogue = await self._boot()
        planned = plan_pools(self._catalogue, self._options.pools)
        surroundings.make_room_for(sum(pool.processes for pool in planned))
        url = self._options.url or self._catalogue.url or ""
        async with await open_store(url, durability=self._catalogue.durability) as store:
            cells = sum(pool.processes * pool.slots for pool in planned)
            files = liveness.NodeFiles.create(store.folder, self._node, cells)
            await self._serve_store(store, files, planned)

    async def _serve_store(self, store: Store, files: liveness.NodeFiles, planned: tuple[PoolEntry, ...]) -> None:
        self._pools = _pools(planned, self._catalogue)
        crew = self._crew
        self._rounds = Rounds(store, self._node, self._clock, crew, self._tell, crew.relieved)
        watch = Watch(store, self._node, self._clock, self, self._tell)
        housekeeping = Housekeeping(store, self._clock, self._catalogue.retention, self._tell)

        def offer(catalogue: Catalogue) -> None:
            watch.publish_soon(catalogue)
            housekeeping.learn(catalogue)

        await store.beat(self.snapshot())
        await store.publish(self._node, self._catalogue.shown(), now=self._clock.now())
        await watch.adopt()
        crew.open(self._pools, self._rounds, files, store.url, self._catalogue, offer)
        self._tell(Started(self._node, store.url, self._catalogue, planned))
        exchanging = self._start(self._rounds.run(watch.nudge))
        watching = self._start(watch.run())
        tidying = self._start(housekeeping.run())
        await self._stopping.wait()
        tidying.cancel()
        await self._drain()
        watching.cancel()
        await self._leave(store, files)
        exchanging.cancel()

    async def _boot(self) -> Catalogue:
        """Wait until a worker has imported the application, or has failed to."""
        booted = self._start(self._booted.wait())
        stopping = self._start(self._stopping.wait())
        ready = self._crew.nursery.first_import
        await asyncio.wait([ready, booted, stopping], return_when=asyncio.FIRST_COMPLETED)
        booted.cancel()
        stopping.cancel()
        if ready.done():
            return ready.result()
        if self._boot_problem is not None:
            raise BootError(self._boot_problem.reason, self._boot_problem.error)
        raise _Over

    async def _drain(self) -> None:
        """Claim no more; let jobs finish, then stop them, then kill them."""
        crew, rounds = self._crew, self._rounds
        given = self._options.drain_timeout
        limit = self._catalogue.drain_timeout if given is None else given
        crew.drain()
        self._tell(Stopping(len(crew.running()), limit))
        try:
            async with asyncio.timeout(limit):
                await self._until_calm()
        except TimeoutError:
            for assignment in crew.running():
                crew.request_stop(assignment, Reason.DRAIN)
            await self._until_calm()
        if self._hurry.is_set():
            crew.kill_running()
        await self._until_written(rounds)

    async def _until_written(self, rounds: Rounds) -> None:
        """Wait until the store has taken everything; in a hurry, only so long: the next master settles the rest."""
        loop = asyncio.get_running_loop()
        give_up: float | None = None
        while self._crew.running() or not rounds.is_clear:
            if give_up is None and self._hurry.is_set():
                give_up = loop.time() + _HURRY
            if give_up is not None and loop.time() > give_up:
                return
            rounds.wake()
            await asyncio.sleep(_CALM)

    async def _until_calm(self) -> None:
        while self._crew.running() and not self._hurry.is_set():
            await asyncio.sleep(_CALM)

    async def _leave(self, store: Store, files: liveness.NodeFiles) -> None:
        self._problems = self._crew.problems()
        await self._retire_workers()
        await self._end_all()
        await store.retire(self._node)
        files.remove()

    # What the watch asks of its master.

    def running(self) -> list[Assignment]:
        """Return the jobs at workers."""
        return self._crew.running()

    def request_stop(self, assignment: Assignment, reason: Reason) -> None:
        """Begin to stop a run."""
        self._crew.request_stop(assignment, reason)

    def settle_adopted(self, job: ClaimedJob, outcome: Outcome, receipt: Receipt | None) -> None:
        """Settle a job taken over from a dead master."""
        self._rounds.end(job, outcome, receipt)

    def sample(self) -> None:
        """Take note of what the runs use, and of what the kernel has killed."""
        self._crew.sample()

    def reap(self) -> None:
        """Reap what became this process's child when its own parent died."""
        crew = self._crew
        for pid in strays.orphans({worker.pid for worker in crew.processes} | crew.nursery.pids()):
            os.waitpid(pid, os.WNOHANG)

    def snapshot(self) -> Node:
        """Return the node's row as of now."""
        pools = tuple(
            PoolState(
                name=pool.entry.name,
                processes=pool.entry.processes,
                queues=pool.entry.queues,
                slots=pool.entry.slots,
                problem=self._crew.problem_of(pool),
            )
            for pool in self._pools
        )
        return Node(
            id=self._node,
            host=socket.gethostname(),
            pid=os.getpid(),
            started_at=self._started_at,
            beat_at=self._clock.now(),
            version=self._options.version,
            app=self._catalogue.app,
            draining=self._crew.is_draining,
            pools=pools,
            workers=self._crew.states(),
        )

    # Plumbing.

    def _start(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        assert self._tasks is not None, "the task group is entered before anything is started"
        return self._tasks.create_task(coroutine)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Start what a callback wants done; nothing once an error is ending the master: the next one does it."""
        try:
            _ = self._start(coroutine)
        except RuntimeError:  # the group is shutting down
            coroutine.close()

    def _broken(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """End the master where a callback of its own has failed: it would go on without what that had to do."""
        error = context.get("exception")
        if "handle" in context and isinstance(error, BaseException):
            self._spawn(_raise(error))
        else:
            loop.default_exception_handler(context)

    def _tell(self, notice: Notice) -> None:
        if isinstance(notice, BootProblem) and self._boot_problem is None:
            self._boot_problem = notice
            self._booted.set()
        if isinstance(notice, JobSettled) and notice.outcome in _HANDED_BACK and self._stopping.is_set():
            self._handed_back += notice.settlement.receipt is not None
        self._subscriber(notice)

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in _STOPS:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # nohup: go on when the terminal goes
            loop.add_signal_handler(number, self._signalled)
        loop.add_signal_handler(signal.SIGUSR1, self._crew.nursery.reload)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # it means nothing to a master, and would end it

    def _leave_signals(self) -> None:
        """Be deaf from now on: one more signal must not turn an end in good order into a death."""
        for number in _STOPS:
            asyncio.get_running_loop().remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)

    def _signalled(self) -> None:
        """Drain at the first signal; at the second, stop now."""
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()

    async def _retire_workers(self) -> None:
        """Let idle workers end by themselves, so that what they do at their exit is done."""
        self._crew.retire_all()
        try:
            async with asyncio.timeout(_RETIRE_WITHIN):
                while self._crew.processes and not self._hurry.is_set():
                    await asyncio.sleep(_CALM)
        except TimeoutError:
            return

    async def _end_all(self) -> None:
        """End every zygote, which ends its workers first, and wait until all are gone.

        Not for ever: when this process ends, they do.
        """
        crew, loop = self._crew, asyncio.get_running_loop()
        crew.close()
        give_up = loop.time() + _END_WITHIN
        while crew.processes or not crew.nursery.is_empty:
            if loop.time() > give_up + _END_WITHIN:
                return
            if loop.time() > give_up:
                crew.nursery.kill()
            await asyncio.sleep(_CALM)


async def _raise(error: BaseException) -> None:
    raise error


class _Over(Exception):
    """A signal came before there was anything to stop."""


def _raise_unless_over(group: BaseExceptionGroup[BaseException]) -> None:
    """Raise what ended the task group: the one error of ours in it, else the group as it is."""
    errors = group
    while len(errors.exceptions) == 1 and isinstance(errors.exceptions[0], BaseExceptionGroup):
        errors = errors.exceptions[0]
    only = errors.exceptions[0]
    if isinstance(only, _Over):
        return
    if len(errors.exceptions) == 1 and isinstance(only, QueueError):
        raise only from None
    raise group


def _pools(planned: tuple[PoolEntry, ...], catalogue: Catalogue) -> tuple[Pool, ...]:
    pools: list[Pool] = []
    first_cell = 0
    for entry in planned:
        excluded = excluded_queues(entry, planned)
        pools.append(Pool(entry, first_cell=first_cell, excluded=excluded, backends=catalogue.backends))
        first_cell += entry.processes * entry.slots
    return tuple(pools)


def _become_subreaper() -> None:
    """Let orphans of our workers become our children, so that they can be found and reaped."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
