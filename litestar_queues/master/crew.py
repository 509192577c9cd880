"""The workers and the jobs they have: hands out, takes reports, and decides what each means.

Everything here happens on the master's event loop, in callbacks that do not wait; what must wait
(the ladder, looking for strays) is a task that the supervisor owns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from litestar_queues import wire
from litestar_queues.cell import Phase, Reason
from litestar_queues.clock import Clock
from litestar_queues.events.stored import to_stored
from litestar_queues.lifecycle import Outcome, Returned
from litestar_queues.master import ladder, strays
from litestar_queues.master.assignments import Assignment
from litestar_queues.master.deadlines import Deadlines
from litestar_queues.master.liveness import NodeFiles
from litestar_queues.master.notices import (
    JobSpoke,
    StraysKilled,
    Subscriber,
    WorkerEnded,
    WorkerSpoke,
    WorkerStarted,
)
from litestar_queues.master.nursery import Nursery
from litestar_queues.master.pool import Pool
from litestar_queues.master.process import Launch, WorkerProcess
from litestar_queues.master.rounds import Rounds
from litestar_queues.models import Catalogue, ClaimedJob, Receipt, WorkerState
from litestar_queues.store.base import Want

TAKE_WITHIN = 5 * 1_000_000_000
"""Nanoseconds in which an idle worker must have begun a job it was sent; one that has not is killed,
and the job is not charged."""

Spawn = Callable[[Coroutine[Any, Any, None]], object]


class Crew:
    """All worker processes of a master. It owns them; the pools only know which are free."""

    def __init__(self, launch: Launch, clock: Clock, tell: Subscriber, spawn: Spawn) -> None:
        self._clock = clock
        self._tell = tell
        self._spawn = spawn
        self._loop = asyncio.get_running_loop()
        self.nursery = Nursery(launch, self, self._deliver, tell)
        self.first_ready: asyncio.Future[Catalogue] = self._loop.create_future()
        """What the first worker says of the application."""
        self._pools: tuple[Pool, ...] = ()
        self._pool_of: dict[WorkerProcess, Pool] = {}
        self._assignments: dict[WorkerProcess, Assignment] = {}
        self._last: dict[WorkerProcess, Assignment] = {}
        self._deadlines: Deadlines[Assignment] = Deadlines()
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for = 0
        self._rounds: Rounds | None = None
        self._files: NodeFiles | None = None
        self._url = ""
        self._max_result_bytes = 0
        self.is_draining = False
        self._is_paused = False

    def open(self, pools: tuple[Pool, ...], rounds: Rounds, files: NodeFiles, url: str, max_result_bytes: int) -> None:
        """Fill the pools and begin to serve."""
        self._pools = pools
        self._rounds = rounds
        self._files = files
        self._url = url
        self._max_result_bytes = max_result_bytes
        self.nursery.ask(sum(pool.entry.processes for pool in pools))

    def running(self) -> list[Assignment]:
        """Return the jobs at workers."""
        return list(self._assignments.values())

    @property
    def processes(self) -> list[WorkerProcess]:
        """Every worker process there is."""
        return [*self._pool_of, *self.nursery.processes]

    def states(self) -> tuple[WorkerState, ...]:
        """Return what each worker in a pool does."""
        return tuple(self._state(worker, pool) for pool in self._pools for worker in pool.workers)

    # The dispatcher's side: what rounds ask.

    def wants(self) -> list[Want]:
        """Return what to claim for the workers that are free."""
        if self.is_draining:
            return []
        wants = [pool.want for pool in self._pools]
        return wants if any(want.limit for want in wants) else []

    def assign(self, jobs: Sequence[Sequence[ClaimedJob]]) -> None:
        """Hand each claimed job to a free worker of its pool."""
        for pool, claimed in zip(self._pools, jobs, strict=True):
            for job in claimed:
                # A claim that was under way when the drain began comes too late.
                worker = None if self.is_draining else pool.take_idle()
                if worker is None:  # it died while the claim was under way: back, uncharged
                    self._end_unassigned(job)
                else:
                    self._hand(job, worker)

    def relieved(self) -> None:
        """Read the workers again, once the store has taken what they said."""
        if self._is_paused and self._rounds is not None and not self._rounds.is_full:
            self._is_paused = False
            for worker in self._pool_of:
                worker.resume()

    # The owner's side: what worker processes tell.

    def reported(self, worker: WorkerProcess, report: wire.Report) -> None:
        """Take a worker's *report*."""
        match report:
            case wire.Ready():
                self._ready(worker, report)
            case wire.BootFailed():
                self.nursery.boot_failed(worker, report)
            case wire.Done() | wire.Failed():
                self._ended(worker, report)
            case wire.Progress() | wire.Log() | wire.Event():
                self._spoke(worker, report)

    def wrote(self, worker: WorkerProcess, stream: str, line: str) -> None:
        """Take a line of raw output: the running job's, by the cell; else the worker's."""
        assignment = self._assignments.get(worker)
        if assignment is None or assignment.shown() is None:
            self._tell(WorkerSpoke(worker.name, line))
        elif assignment.has_room_for(line):
            job = assignment.job
            level = "info" if stream == "stdout" else "warning"
            self._say(assignment, wire.Log(job.number, job.fence, self._clock.now(), level, line, None, stream))

    def violated(self, worker: WorkerProcess, reason: str) -> None:
        """Kill a worker that does not keep to the protocol; its job counts it as a crash."""
        if worker.state == "dead":
            return
        self._tell(WorkerSpoke(worker.name, f"protocol error: {reason}"))
        worker.kill()

    def died(self, worker: WorkerProcess) -> None:
        """Take note of a death: a new worker is on its way before the old one's job is settled."""
        pool = self._pool_of.pop(worker, None)
        self._last.pop(worker, None)
        if pool is None:
            self.nursery.died(worker)
            self._spawn(self._sweep(worker))
            return
        assignment = self._assignments.get(worker)
        # Bury before a new worker is asked for: the cell is read now, and the one that takes this place
        # writes it anew. A run whose end has been reported is on its way already; its death adds nothing.
        if assignment is not None and not assignment.ended.is_set():
            end = assignment.outcome_of_death(assignment.shown(), now=self._clock.now())
            self._spawn(self._bury(assignment, *end))
        else:
            self._spawn(self._sweep(worker))
        pool.remove(worker)
        number = assignment.job.number if assignment else None
        expected = self.is_draining and assignment is None
        self._tell(WorkerEnded(worker.name, worker.pid, worker.exit, number, expected))
        if not self.is_draining:
            self.nursery.ask(1)

    # Jobs.

    def request_stop(self, assignment: Assignment, reason: Reason) -> None:
        """Begin to stop a run."""
        stop = ladder.begin(assignment, reason, self._tell)
        if stop is not None:
            self._spawn(ladder.enforce(assignment, stop))

    def kill_running(self) -> None:
        """Stop all runs now, without asking."""
        for assignment in self.running():
            ladder.begin(assignment, Reason.DRAIN, self._tell)
            assignment.worker.kill()

    def _ready(self, worker: WorkerProcess, report: wire.Ready) -> None:
        if worker.state != "booting":
            self.violated(worker, "said Ready twice")
            return
        if not self.first_ready.done():
            self.first_ready.set_result(report.catalogue)
        self.nursery.ready(worker)

    def _deliver(self, worker: WorkerProcess) -> None:
        pool = next((pool for pool in self._pools if pool.has_place), None)
        if pool is None or self._files is None or self._rounds is None or self.is_draining:
            worker.kill()
            return
        slot, name = pool.place(worker)
        self._pool_of[worker] = pool
        files = self._files
        start = wire.Start(slot, name, self.nursery.launch.node, self._url)
        worker.start(start, files.cells.cell(slot), files.cells.descriptor, files.lock)
        self._tell(WorkerStarted(name, worker.pid))
        pool.free(worker)
        self._rounds.wake()

    def _hand(self, job: ClaimedJob, worker: WorkerProcess) -> None:
        assignment = Assignment(job, worker, sent=self._clock.monotonic())
        self._assignments[worker] = assignment
        worker.send(assignment.to_run(self._max_result_bytes))
        self._watch(assignment, self._first_look(assignment, assignment.sent))
        if job.cancel_requested:
            self.request_stop(assignment, Reason.CANCEL)

    def _end_unassigned(self, job: ClaimedJob) -> None:
        if self._rounds is not None:
            self._rounds.end(job, Returned("no worker was free any more"), None)

    def _ended(self, worker: WorkerProcess, report: wire.Done | wire.Failed) -> None:
        assignment = self._assignments.get(worker)
        if assignment is None or not assignment.is_for(report.number, report.fence):
            self.violated(worker, f"reported the end of #{report.number}, which it does not run")
            return
        worker.drain_output()  # what the job wrote before it ended is its own
        worker.finish_lines()
        worker.served += 1
        outcome, receipt = assignment.outcome_of_report(report)
        assignment.dropped += report.dropped
        if assignment.stop is not None:
            # It was stopped, so what it started may still run: end that before the next job comes.
            assignment.ended.set()
            self._spawn(self._clear_up(assignment, outcome, receipt))
            return
        self._conclude(assignment, outcome, receipt)
        self._free(worker)

    def _conclude(self, assignment: Assignment, outcome: Outcome, receipt: Receipt | None) -> None:
        job = assignment.job
        if self._assignments.pop(assignment.worker, None) is not assignment or self._rounds is None:
            return
        if assignment.dropped:
            text = f"{assignment.dropped} more were dropped: the job said more than is kept"
            self._say(assignment, wire.Log(job.number, job.fence, self._clock.now(), "warning", text, None))
        self._last[assignment.worker] = assignment
        assignment.ended.set()
        self._deadlines.drop(assignment)
        self._rounds.end(job, outcome, receipt)

    def _free(self, worker: WorkerProcess) -> None:
        pool = self._pool_of.get(worker)
        if pool is not None and worker.state == "serving" and self._rounds is not None:
            pool.free(worker)
            self._rounds.wake()

    async def _bury(self, assignment: Assignment, outcome: Outcome, receipt: Receipt | None) -> None:
        assignment.ended.set()
        await self._sweep(assignment.worker)
        self._conclude(assignment, outcome, receipt)
        self._last.pop(assignment.worker, None)

    async def _clear_up(self, assignment: Assignment, outcome: Outcome, receipt: Receipt | None) -> None:
        await self._sweep(assignment.worker)
        self._conclude(assignment, outcome, receipt)
        self._free(assignment.worker)

    async def _sweep(self, worker: WorkerProcess) -> None:
        """End what the worker's jobs left behind; the worker itself, if it lives, stays."""
        keep = frozenset({worker.pid}) if worker.state != "dead" else frozenset()
        pids = await asyncio.to_thread(strays.sweep, session=worker.pid, cookie=worker.cookie, keep=keep)
        if pids:
            self._tell(StraysKilled(worker.name, tuple(pids)))

    def _spoke(self, worker: WorkerProcess, report: wire.Progress | wire.Log | wire.Event) -> None:
        assignment = self._assignments.get(worker)
        if assignment is None or not assignment.is_for(report.number, report.fence):
            # A thread that an earlier job left running: its words belong to that job, while we know it.
            assignment = self._last.get(worker)
        if assignment is not None and assignment.is_for(report.number, report.fence):
            self._say(assignment, report)

    def _say(self, assignment: Assignment, report: wire.Progress | wire.Log | wire.Event) -> None:
        if self._rounds is None:
            return
        self._rounds.say(to_stored(report, assignment.attempt))
        if isinstance(report, wire.Log):
            job = assignment.job
            self._tell(JobSpoke(job.number, job.task, report.at, report.level, report.message, report.stream))
        if self._rounds.is_full and not self._is_paused:
            self._is_paused = True
            for worker in self._pool_of:
                worker.pause()

    # Deadlines.

    def _first_look(self, assignment: Assignment, now: int) -> int:
        """Return when to look at a job that has not begun at *now*: it cannot be late before that."""
        timeout = assignment.job.timeout
        begun_by = assignment.sent + TAKE_WITHIN
        return begun_by if timeout is None else min(begun_by, now + timeout * 1_000)

    def _watch(self, assignment: Assignment, due: int) -> None:
        self._deadlines.set(assignment, due)
        if self._timer is None or due < self._armed_for:
            self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._deadlines.next()
        if due is not None:
            self._armed_for = due
            delay = max(due - self._clock.monotonic(), 0) / 1e9
            self._timer = self._loop.call_later(delay, self._look_at_deadlines)

    def _look_at_deadlines(self) -> None:
        self._timer = None
        for assignment in list(self._deadlines.late(self._clock.monotonic())):
            self._judge(assignment)
        self._arm()

    def _judge(self, assignment: Assignment) -> None:
        """Decide about a job whose moment has come: by the cell, for that is when it really started."""
        shown, timeout = assignment.shown(), assignment.job.timeout
        now = self._clock.monotonic()
        if shown is None:
            if now - assignment.sent >= TAKE_WITHIN:
                assignment.worker.kill()
            else:
                self._deadlines.set(assignment, self._first_look(assignment, now))
        elif shown.phase == Phase.ENDED:  # its report is on the way, behind others that are not read yet
            self._deadlines.set(assignment, now + TAKE_WITHIN)
        elif timeout is not None:
            due = shown.started + timeout * 1_000
            if due <= now:
                self.request_stop(assignment, Reason.TIMEOUT)
            else:
                self._deadlines.set(assignment, due)

    def _state(self, worker: WorkerProcess, pool: Pool) -> WorkerState:
        assignment = self._assignments.get(worker)
        shown = assignment.shown() if assignment else None
        return WorkerState(
            name=worker.name,
            pid=worker.pid,
            pool=pool.entry.name,
            state="running" if assignment else "idle",
            job=assignment.job.number if assignment else None,
            task=assignment.job.task if assignment else None,
            since=shown.started_at if shown else None,
            rss=strays.memory_of(worker.pid),
            served=worker.served,
        )
