"""From claims to lanes, and back: which worker gets a job, and what is taken back unstarted.

A job goes where it starts first. One that would have to wait longer than the budget goes back to
the store, uncharged, where another master may take it. So does one that the system refuses to send (no
descriptor is left, no memory), and that one is not due for a while.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from litestar_queues.cell import Reason
from litestar_queues.clock import SECOND, Clock
from litestar_queues.exceptions import UnknownTaskError
from litestar_queues.lifecycle import Outcome, Raised, Returned, Snoozed, Unknown
from litestar_queues.master import strays
from litestar_queues.master.assignments import Assignment
from litestar_queues.master.lanes import Lane
from litestar_queues.master.notices import Subscriber, WorkerSpoke
from litestar_queues.master.pool import Pool
from litestar_queues.master.timekeeper import Timekeeper
from litestar_queues.models import ClaimedJob, ErrorReport, Receipt
from litestar_queues.store.base import Want
from litestar_queues.wire import FrameError, FrameRefused

PUT_OFF = 5 * SECOND
"""Microseconds until a job is due again that the system refuses to send. Given back as it was, it would be the first to
be claimed again, at once and for ever, and nothing behind it in the queue would run."""
TELL_EVERY = 1_000_000_000
"""Nanoseconds between two lines on jobs that cannot be sent."""
End = Callable[[ClaimedJob, Outcome, Receipt | None], object]


class Dispatch:
    """Fills the lanes of a master's pools."""

    def __init__(
        self,
        pools: tuple[Pool, ...],
        clock: Clock,
        max_result_bytes: int,
        stop: Callable[[Assignment, Reason, int], None],
        renew: Callable[[Lane], None],
        end: End,
        tell: Subscriber,
    ) -> None:
        self._pools = pools
        self._clock = clock
        self._max_result_bytes = max_result_bytes
        self._stop = stop
        self._renew = renew
        """Replaces a worker when it has nothing to do."""
        self._end = end
        """Settles a job that no worker has begun."""
        self._tell = tell
        self._tells_from = 0
        """Of jobs that cannot be sent, nothing is told before (monotonic nanoseconds)."""
        self._timekeeper = Timekeeper(clock, stop, self.take_back)
        self._pool_of: dict[Lane, Pool] = {}
        self.is_draining = False

    # The dispatcher's side: what rounds ask.

    def wants(self) -> list[Want]:
        """Return what to claim for the room there is."""
        if self.is_draining:
            return []
        wants = [pool.want for pool in self._pools]
        return wants if any(want.limit for want in wants) else []

    def assign(self, jobs: Sequence[Sequence[ClaimedJob]]) -> None:
        """Put claimed jobs into lanes; those more urgent than what waits there go first."""
        for pool, claimed in zip(self._pools, jobs, strict=True):
            known = [Assignment(job) for job in claimed if job.task in pool.known]
            if len(known) < len(claimed):
                self._refuse_unknown(claimed, pool.known)
            if known:
                given_back = self._place(pool, self._make_way(pool, known))
                pool.learn_reach(len(known), sum(each in known for each in given_back))

    def rest(self) -> bool:
        """Do not listen to workers that have plenty to do; say whether there are such."""
        plenty = [lane for lane in self._pool_of if lane.has_plenty]
        for lane in plenty:
            lane.worker.rest()
        return bool(plenty)

    def collect(self) -> None:
        """Read the workers that were not listened to."""
        for lane in list(self._pool_of):
            lane.worker.collect()

    @property
    def is_paused(self) -> bool:
        """True while no worker is read."""
        return self._timekeeper.pauses.is_on

    def pause(self) -> None:
        """Take note that no worker is read."""
        self._timekeeper.pauses.begin(self._clock.monotonic())

    def resume(self) -> None:
        """Take note that they are read again."""
        self._timekeeper.pauses.end(self._clock.monotonic())

    # Lanes.

    def open(self, lane: Lane, pool: Pool) -> None:
        """Take a lane into use."""
        self._pool_of[lane] = pool
        self._place_alone(lane)

    def close(self, lane: Lane) -> None:
        """Let go of the lane of a worker that is gone, and from which everything has been taken."""
        self._timekeeper.forget(lane)
        lane.is_open = False
        del self._pool_of[lane]

    def ended(self, lane: Lane, number: int) -> Assignment | None:
        """Take a job that has ended out of its lane."""
        assignment = lane.remove(number)
        if assignment is not None:
            lane.moves(self._clock.monotonic())
            if lane.is_empty:
                self._place_alone(lane)
        return assignment

    def take_back(self, lane: Lane, but_one: bool = False) -> None:
        """Take back what waits in *lane*, and put it elsewhere; *but_one* stays."""
        taken = self._taken_back(lane)
        if but_one and taken:
            self._send(lane, self._pool_of[lane], taken.pop(0))
        if taken:
            self._place(self._pool_of[lane], taken)

    def withdraw(self, assignment: Assignment) -> bool:
        """Take back one job, if it has not begun; say whether it was still there to be taken."""
        for pool in self._pools:
            if assignment in pool.alone:
                pool.forget_alone(assignment)
                return True
        lane = next((lane for lane in self._pool_of if assignment.is_at(lane.worker)), None)
        if lane is None:
            return False
        taken = self._taken_back(lane)
        for other in taken:
            if other is not assignment:
                self._send(lane, self._pool_of[lane], other)
        return assignment in taken

    def drain(self) -> None:
        """Claim no more, and give back everything that has not begun."""
        self.is_draining = True
        for lane in list(self._pool_of):
            self.take_back(lane)
        for pool in self._pools:
            while (assignment := pool.take_alone()) is not None:
                self._give_back(assignment, "the master stops")

    def waiting_alone(self) -> list[Assignment]:
        """Return the claimed jobs that wait for a worker of their own."""
        return [assignment for pool in self._pools for assignment in pool.alone]

    def replace(self, lane: Lane, assignments: Iterable[Assignment]) -> None:
        """Put jobs that a dead worker had taken, and not begun, elsewhere."""
        self._place(self._pool_of[lane], assignments)

    # Plumbing.

    def _place(self, pool: Pool, assignments: Iterable[Assignment]) -> list[Assignment]:
        """Put each where it starts first; return those that had to be given back."""
        given_back: list[Assignment] = []
        for assignment in assignments:
            # A claim that was under way when the drain began comes too late.
            lane = None if self.is_draining else pool.choose(assignment.job)
            if lane is not None and _has_grown(lane, assignment.job):
                self._renew(lane)  # a limit is not to be charged for what earlier jobs have left
            elif lane is not None and self._send(lane, pool, assignment):
                continue
            if not self.is_draining and pool.must_be_alone(assignment.job) and len(pool.alone) < len(pool.places):
                pool.keep_alone(assignment)
                continue
            given_back.append(assignment)
            self._give_back(assignment, "no worker had room for it")
        return given_back

    def _send(self, lane: Lane, pool: Pool, assignment: Assignment) -> bool:
        job = assignment.job
        assignment.hand_to(lane.worker, sent=self._clock.monotonic(), expected=pool.pace.expect(job.task))
        try:
            if not lane.worker.send(assignment.to_run(self._max_result_bytes)):
                return False
        except FrameRefused as error:
            self._put_off(assignment, error)
            return True
        except FrameError as error:
            message = f"the stored arguments are more than a worker can be sent: {error}"
            self._end(job, Raised(ErrorReport("PayloadError", message), retryable=False), None)
            return True
        lane.add(assignment, alone=pool.must_be_alone(job))
        self._timekeeper.watch(lane, assignment)
        if job.cancel_requested:
            self._stop(assignment, Reason.CANCEL, 0)
        return True

    def _put_off(self, assignment: Assignment, error: FrameRefused) -> None:
        """Give back a job that cannot be sent now, to be claimed later."""
        now = self._clock.monotonic()
        if now >= self._tells_from:  # once for all that are refused together
            self._tells_from = now + TELL_EVERY
            text = f"#{assignment.job.number} cannot be sent to it, and is put off: {error}"
            self._tell(WorkerSpoke(assignment.worker.name, text))
        assignment.mark_ended()
        self._end(assignment.job, Snoozed(PUT_OFF), None)

    def _give_back(self, assignment: Assignment, reason: str) -> None:
        assignment.mark_ended()
        self._end(assignment.job, Returned(reason), None)

    def _refuse_unknown(self, claimed: Sequence[ClaimedJob], known: frozenset[str]) -> None:
        for job in claimed:
            if job.task not in known:
                error = ErrorReport("UnknownTaskError", str(UnknownTaskError(job.task, known)))
                self._end(job, Unknown(error), None)

    def _make_way(self, pool: Pool, claimed: list[Assignment]) -> list[Assignment]:
        """Return *claimed*, with what waits in the lanes and is less urgent, in order."""
        highest = claimed[0].job.priority
        waiting: list[Assignment] = []
        for lane in pool.lanes:
            if lane.lowest_priority < highest:
                waiting += self._taken_back(lane)
        if not waiting:
            return claimed
        return sorted([*claimed, *waiting], key=lambda each: (-each.job.priority, each.job.number))

    def _taken_back(self, lane: Lane) -> list[Assignment]:
        taken = lane.bring_back(lane.worker.take_back())
        if lane.worker.has_lost_job:
            # It runs elsewhere when this worker is gone, and that is soon: one without other jobs is killed for it.
            lane.is_open = False
        return taken

    def _place_alone(self, lane: Lane) -> None:
        """Give an empty lane to a job that must run alone, if one waits."""
        pool = self._pool_of[lane]
        if pool.alone and lane.is_open and not lane.is_silent and not lane.is_worn_out:
            lane.is_reserved = False
            assignment = pool.take_alone()
            if assignment is not None:
                self._place(pool, [assignment])


def _has_grown(lane: Lane, job: ClaimedJob) -> bool:
    """Say whether earlier jobs have left so much memory in the worker that a limited one should not run there."""
    if job.max_rss is None or lane.worker.served == 0:
        return False
    return (strays.memory_of(lane.worker.pid) or 0) > job.max_rss // 2
