"""The workers: has them forked, takes what they tell, decides what each end means, and replaces them.

Everything here happens on the master's event loop, in callbacks that do not wait; what must wait
(the ladder, looking for strays) is a task that the supervisor owns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from litestar_queues import wire
from litestar_queues.cell import Reason
from litestar_queues.clock import Clock
from litestar_queues.lifecycle import Cancelled, Outcome, Returned
from litestar_queues.master import ladder
from litestar_queues.master.assignments import Assignment, ends_by_death
from litestar_queues.master.burials import Burials
from litestar_queues.master.dispatch import Dispatch
from litestar_queues.master.exit_status import OutOfMemory
from litestar_queues.master.lanes import Lane
from litestar_queues.master.liveness import NodeFiles
from litestar_queues.master.notices import PoolProblem, Subscriber, WorkerEnded, WorkerSpoke, WorkerStarted
from litestar_queues.master.nursery import Nursery, growing_delay
from litestar_queues.master.pool import Place, Pool
from litestar_queues.master.process import WorkerProcess
from litestar_queues.master.recorder import Recorder
from litestar_queues.master.rounds import Rounds
from litestar_queues.master.showing import state_of
from litestar_queues.master.zygote import Launch, ZygoteProcess
from litestar_queues.models import ClaimedJob, Receipt
from litestar_queues.nodes import Catalogue, WorkerState
from litestar_queues.store.base import Want

RETIRE_WITHIN = 5.0
"""Seconds that a worker gets to end by itself when it is not needed any more."""

Spawn = Callable[[Coroutine[Any, Any, None]], object]


class Crew:
    """All worker processes of a master."""

    def __init__(self, launch: Launch, clock: Clock, tell: Subscriber, spawn: Spawn) -> None:
        self._clock = clock
        self._tell = tell
        self._spawn = spawn
        self._loop = asyncio.get_running_loop()
        self._memory = OutOfMemory()
        self.nursery = Nursery(launch, tell, self._imported_again, self._bury_zygote)
        self._pools: tuple[Pool, ...] = ()
        self._places: dict[WorkerProcess, Place] = {}
        self._is_closed = False
        self._burials = Burials(tell, self._conclude)
        self._rounds: Rounds
        self._files: NodeFiles
        self._dispatch: Dispatch
        self._recorder: Recorder
        self._url = ""

    def open(
        self,
        pools: tuple[Pool, ...],
        rounds: Rounds,
        files: NodeFiles,
        url: str,
        catalogue: Catalogue,
        publish: Callable[[Catalogue], None],
    ) -> None:
        """Fill the pools and begin to serve; *publish* what a later import finds."""
        self._pools = pools
        self._publish = publish
        self._learn_tasks(catalogue)
        self._rounds = rounds
        self._files = files
        self._url = url
        self._recorder = Recorder(rounds, self._clock, self._tell, self._pause)
        self._dispatch = Dispatch(
            pools, self._clock, catalogue.max_result_bytes, self.request_stop, self._retire_soon, rounds.end, self._tell
        )
        for pool in pools:
            self._fill(pool)

    @property
    def is_draining(self) -> bool:
        """True once no more jobs are claimed."""
        return self._is_closed or (bool(self._pools) and self._dispatch.is_draining)

    def problems(self) -> tuple[str, ...]:
        """Return why each pool cannot start workers; empty when one of them can."""
        found = [(pool.entry.name, self.problem_of(pool)) for pool in self._pools]
        if not all(problem for _, problem in found):
            return ()
        return tuple(f"pool {name}: {problem}" for name, problem in found)

    @property
    def processes(self) -> list[WorkerProcess]:
        """Every worker process there is."""
        return list(self._places)

    def running(self) -> list[Assignment]:
        """Return the jobs that are claimed and not on their way to the store."""
        if not self._pools:
            return []
        at_workers = [each for place in self._places.values() if place.lane for each in place.lane.assignments.values()]
        return [*at_workers, *self._dispatch.waiting_alone(), *self._burials.unsettled]

    def sample(self) -> None:
        """Take note of what the runs use, and of what the kernel has killed."""
        self._memory.sample()
        for assignment in self.running():
            if assignment.shown() is not None:
                assignment.sample_memory()

    def problem_of(self, pool: Pool) -> str | None:
        """Return why *pool* cannot start workers, in one sentence."""
        return self.nursery.problem or pool.problem

    def states(self) -> tuple[WorkerState, ...]:
        """Return what each worker in a pool does."""
        return tuple(state_of(lane, pool.entry.name) for pool in self._pools for lane in pool.lanes)

    def drain(self) -> None:
        """Claim no more, and give back what has not begun."""
        if self._pools:
            self._dispatch.drain()

    def retire_all(self) -> None:
        """Let the workers end by themselves, those that run nothing at once; start no more."""
        self._is_closed = True
        for place in list(self._places.values()):
            if place.lane is not None:
                self._retire_soon(place.lane)

    def close(self) -> None:
        """Start no more workers."""
        self._is_closed = True
        self.nursery.close()

    # The dispatcher's side: what rounds ask.

    def wants(self) -> list[Want]:
        """Return what to claim for the workers that have room."""
        return self._dispatch.wants()

    def assign(self, jobs: Sequence[Sequence[ClaimedJob]]) -> None:
        """Put claimed jobs into lanes."""
        self._dispatch.assign(jobs)
        if self._dispatch.rest():
            self._rounds.wake_soon()

    def collect(self) -> None:
        """Read the workers that were not listened to."""
        self._dispatch.collect()

    def relieved(self) -> None:
        """Read the workers again, once the store has taken what they said."""
        if self._dispatch.is_paused and not self._rounds.is_full:
            self._dispatch.resume()
            for worker in self._places:
                worker.resume()

    # Births.

    def _fill(self, pool: Pool) -> None:
        """Order a worker for each empty place."""
        for place in pool.places:
            if place.worker is None and not pool.is_waiting and not self._is_closed:
                self._order(place)

    def _order(self, place: Place) -> None:
        entry, nursery = place.pool.entry, self.nursery
        serial = nursery.new_serial()
        cells = tuple(self._files.cells.cell(place.first_cell + slot) for slot in range(entry.slots))
        cookie = nursery.launch.cookie(serial)
        try:
            worker = WorkerProcess(serial, cookie, place.name, cells, self, self._memory)
        except OSError as error:  # no descriptors, no memory
            self._count_failure(place.pool, f"could not be made: {error}")
            return
        for cell in cells:
            cell.clear()
        place.worker = worker
        self._places[worker] = place
        fork = wire.Fork(serial, place.name, cookie, self._url, place.first_cell, entry.slots, entry.nice)
        nursery.order(worker, fork, self._files)

    def _ready(self, worker: WorkerProcess) -> None:
        place = self._places[worker]
        if worker.state != "booting":
            self.violated(worker, f"said Ready while {worker.state}")
            return
        worker.state = "serving"
        lane = place.pool.put_in_place(worker, place)
        self._dispatch.open(lane, place.pool)
        self._tell(WorkerStarted(worker.name, worker.pid))
        if not self.nursery.is_current(worker):
            self._retire_soon(lane)
        self._rounds.wake()

    def _count_failure(self, pool: Pool, what: str) -> None:
        """Order the next one later, and later each time."""
        pool.failures += 1
        pool.last_failure = what
        if pool.is_waiting:  # another of its workers has failed just now: one line, and one next try, for both
            return
        pool.is_waiting = True
        delay = growing_delay(pool.failures)
        self._tell(PoolProblem(pool.entry.name, what, pool.failures, delay, pool.problem))
        self._loop.call_later(delay, self._try_again, pool)

    def _try_again(self, pool: Pool) -> None:
        pool.is_waiting = False
        self._fill(pool)

    def _imported_again(self, catalogue: Catalogue) -> None:
        """Say what the application offers now, and replace the workers of old code, each when it has nothing to do."""
        if not self._pools:
            return
        self._learn_tasks(catalogue)
        self._publish(catalogue)
        for worker, place in list(self._places.items()):
            if place.lane is not None and not self.nursery.is_current(worker):
                self._retire_soon(place.lane)

    def _learn_tasks(self, catalogue: Catalogue) -> None:
        known = frozenset(task.name for task in catalogue.tasks)
        for pool in self._pools:
            pool.known = known

    # Retirement.

    def _retire_soon(self, lane: Lane) -> None:
        """Give the worker no more jobs, and let it end when it has none."""
        lane.is_open = False
        self._dispatch.take_back(lane)
        self._retire_if_done(lane)

    def _retire_if_done(self, lane: Lane) -> None:
        if lane.is_empty and (not lane.is_open or lane.is_worn_out):
            lane.is_open = False
            lane.worker.retire()
            self._loop.call_later(RETIRE_WITHIN, lane.worker.kill)

    # What worker processes tell.

    def reported(self, worker: WorkerProcess, report: wire.Report) -> None:
        """Take a worker's *report*."""
        match report:
            case wire.Done() | wire.Failed():
                self._ended(worker, report)
            case wire.Progress() | wire.Log() | wire.Event() | wire.Stood():
                self._recorder.spoke(self._lane_of(worker), report)
            case wire.Ready():
                self._ready(worker)

    def wrote(self, worker: WorkerProcess, stream: str, line: str) -> None:
        """Take a line of raw output."""
        self._recorder.wrote(worker, self._lane_of(worker), stream, line)

    def violated(self, worker: WorkerProcess, reason: str) -> None:
        """Kill a worker that does not keep to the protocol; its job counts it as a crash."""
        if worker.is_dead:
            return
        self._tell(WorkerSpoke(worker.name, f"protocol error: {reason}"))
        worker.kill()

    def unreaped(self, worker: WorkerProcess) -> None:
        """Wait for its zygote to say how it ended."""
        self.nursery.unreaped(worker)

    def died(self, worker: WorkerProcess) -> None:
        """Take note of a death: a new worker is on its way before the old one's jobs are settled."""
        place = self._places.pop(worker)
        pool, lane = place.pool, place.lane
        place.worker = place.lane = None
        self.nursery.forget(worker)
        if lane is None:
            self._died_before_ready(worker, pool)
            return
        running = self._bury(lane, pool)
        number = running[0].job.number if running else None
        is_over = worker.exit.endswith("status 0") and lane.is_empty and not lane.is_open
        self._tell(WorkerEnded(worker.name, worker.pid, worker.exit, number, self._is_closed or is_over))
        self._fill(pool)

    def _died_before_ready(self, worker: WorkerProcess, pool: Pool) -> None:
        if worker.pid:
            self._spawn(self._burials.sweep(worker))
        if self._is_closed or worker.is_orphan or worker.killed_by_us:  # not the pool's failure
            self._fill(pool)
        else:
            self._count_failure(pool, worker.exit)

    def _bury_zygote(self, zygote: ZygoteProcess) -> None:
        self._spawn(self._burials.sweep(zygote))

    def _bury(self, lane: Lane, pool: Pool) -> list[Assignment]:
        """Settle what ran in *lane*, put elsewhere what did not, and return what ran.

        The cells are read now: the worker that takes this place writes them anew.
        """
        left = list(lane.assignments.values())
        shown = {each: cell for each in left if (cell := each.shown()) is not None}
        ends = ends_by_death(shown, now=self._clock.monotonic())
        for each, _, receipt in ends:
            pool.pace.learn(each.job.task, receipt.ended_at - receipt.started_at)
        lane.is_open = False
        # Also what waits in its queue: nobody else has the other end of that.
        unbegun = [each for each in left if each not in shown]
        for each in unbegun:
            lane.remove(each.job.number)
        self._dispatch.replace(lane, unbegun)
        self._dispatch.close(lane)
        self._spawn(self._burials.settle(lane.worker, ends))
        return list(shown)

    # Jobs.

    def request_stop(self, assignment: Assignment, reason: Reason, blocked: int = 0) -> None:
        """Make a run stop; a job that has not begun is taken back instead. *blocked*: see ``ladder.begin``."""
        if assignment.stop is not None or assignment.has_ended:
            return
        if assignment.shown() is None and self._dispatch.withdraw(assignment):
            assignment.mark_ended()
            outcome = Cancelled() if reason == Reason.CANCEL else Returned("it was stopped before it began")
            self._rounds.end(assignment.job, outcome, None)
            return
        stop = ladder.begin(assignment, reason, self._tell, blocked)
        if stop is not None:
            self._spawn(ladder.enforce(assignment, stop))

    def kill_running(self) -> None:
        """Stop all runs now, without asking."""
        for assignment in self.running():
            ladder.begin(assignment, Reason.DRAIN, self._tell)
            assignment.worker.kill()

    def _lane_of(self, worker: WorkerProcess) -> Lane | None:
        place = self._places.get(worker)
        return place.lane if place is not None else None

    def _ended(self, worker: WorkerProcess, report: wire.Done | wire.Failed) -> None:
        place = self._places.get(worker)
        lane = place.lane if place is not None else None
        assignment = lane.assignments.get(report.number) if lane is not None else None
        if place is None or lane is None or assignment is None or assignment.job.fence != report.fence:
            self.violated(worker, f"reported the end of #{report.number}, which it does not run")
            return
        for stream, line in worker.take_last_lines():  # its own, whatever the cell shows by now
            self._recorder.wrote_by(assignment, stream, line)
        self._dispatch.ended(lane, report.number)
        lane.last = assignment
        worker.served += 1
        outcome, receipt = assignment.outcome_of_report(report)
        if receipt is not None:
            place.pool.pace.learn(assignment.job.task, receipt.ended_at - receipt.started_at)
            if _is_too_large(receipt, place.pool.entry.max_rss):
                self._retire_soon(lane)
        assignment.dropped += report.dropped
        self._conclude(assignment, outcome, receipt)
        if report.is_last:
            self._release(lane)
        self._retire_if_done(lane)
        if lane.is_short:
            self._rounds.wake()

    def _release(self, lane: Lane) -> None:
        """Let live what the worker's last job was allowed to leave behind; the worker ends by itself."""
        self._files.release(lane.worker.cookie)
        lane.worker.is_released = True
        self._retire_soon(lane)

    def _conclude(self, assignment: Assignment, outcome: Outcome, receipt: Receipt | None) -> None:
        if assignment.dropped:
            self._recorder.say_dropped(assignment)
        assignment.mark_ended()
        self._rounds.end(assignment.job, outcome, receipt)

    def _pause(self) -> None:
        """Read no worker until the store has taken what they said."""
        if not self._dispatch.is_paused:
            self._dispatch.pause()
            for worker in self._places:
                worker.pause()


def _is_too_large(receipt: Receipt, limit: int | None) -> bool:
    return limit is not None and (receipt.rss or 0) > limit
