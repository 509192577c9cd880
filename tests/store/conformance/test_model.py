"""Any order of calls against a small model: places, fences, counts, keys."""

import asyncio
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
    run_state_machine_as_test,
)

from litestar_queues.lifecycle import Cancelled, Crashed, Lost, Raised, Returned, Snoozed, Succeeded, settle
from litestar_queues.models import LIVE, TERMINAL, ClaimedJob, ErrorReport, Query, Status
from litestar_queues.store import Store, Want
from store.conftest import FACTORIES
from store.making import NOW, SECOND, new_job, node, receipt

QUEUES = ("a", "b")
KEYS = (None, None, "k", "l")
OUTCOMES = st.sampled_from(
    [Succeeded("1"), Raised(ErrorReport("E", "")), Crashed("killed"), Lost(), Returned(), Snoozed(5), Cancelled()]
)


class Jobs(RuleBasedStateMachine):
    """The store and what it should hold, side by side."""

    claims = Bundle("claims")
    name = ""
    """Which of the stores; each has a subclass, at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.store: Store = self.runner.run(self.open())
        self.now = NOW
        self.model: dict[int, dict[str, Any]] = {}

    async def open(self) -> Store:
        return await FACTORIES[self.name](Path(self.folder.name))()

    def teardown(self) -> None:
        counted = self.runner.run(self.store.statistics())
        jobs = self.runner.run(self.store.find(Query(limit=10_000)))
        for queue, statistics in counted.items():
            for status in Status:
                there = sum(job.queue == queue and job.status == status for job in jobs)
                assert getattr(statistics, status) == there, f"{queue} {status}: counted, and there are {there}"
        assert sum(statistics.total for statistics in counted.values()) == len(jobs)
        self.runner.run(self.store.close())
        self.runner.close()
        self.folder.cleanup()

    @rule(
        queue=st.sampled_from(QUEUES), priority=st.integers(-1, 2), later=st.sampled_from([0, 0, 5, 50]),
        expires=st.sampled_from([None, None, 3, 30]), key=st.sampled_from(KEYS), retries=st.integers(0, 2),
        duplicate=st.sampled_from(["reuse", "replace", "raise"]), count=st.sampled_from([1, 1, 3]),
    )  # fmt: skip
    def add(
        self,
        queue: str,
        priority: int,
        later: int,
        expires: int | None,
        key: str | None,
        retries: int,
        duplicate: str,
        count: int,
    ) -> None:
        jobs = [
            new_job(
                queue=queue, priority=priority, created_at=self.now, run_at=self.now + later, key=key, max_retries=retries,
                expires_at=None if expires is None else self.now + expires, on_duplicate=duplicate,
            )
            for _ in range(count)
        ]  # fmt: skip
        added = self.runner.run(self.store.add(jobs))
        self.expire(lambda job: key is not None and job["key"] == key)
        holder = next((n for n, j in self.model.items() if key and j["key"] == key and j["status"] in LIVE), None)
        refuses = duplicate == "raise" and key is not None and (holder is not None or count > 1)
        assert any(entry.refused for entry in added) == refuses
        if refuses:
            return
        status = Status.SCHEDULED if later else Status.PENDING
        for entry, job in zip(added, jobs, strict=True):
            assert entry.deduplicated == (holder is not None)
            if holder is None:
                self.model[entry.number] = {
                    "status": status, "queue": queue, "priority": priority, "run_at": job.run_at, "fence": 0,
                    "expires_at": job.expires_at, "key": key, "cancel": False, "node": None,
                }  # fmt: skip
                holder = entry.number if key else None
            else:
                assert entry.number == holder
                held = self.model[holder]
                if duplicate == "replace" and held["status"] != Status.RUNNING:
                    held.update(status=status, priority=priority, run_at=job.run_at, expires_at=job.expires_at)

    def expire(self, concerns: Callable[[dict[str, Any]], bool]) -> None:
        for job in self.model.values():
            waits = job["status"] in (Status.SCHEDULED, Status.PENDING) and concerns(job)
            if waits and job["expires_at"] is not None and job["expires_at"] <= self.now:
                job["status"] = Status.EXPIRED

    @rule(
        target=claims,
        limit=st.integers(1, 4),
        queues=st.sampled_from([None, ("a",), ("b", "a")]),
        name=st.sampled_from(["n1", "n2"]),
        above=st.sampled_from([None, None, 0]),
    )
    def claim(self, limit: int, queues: tuple[str, ...] | None, name: str, above: int | None) -> list[ClaimedJob]:
        claims = self.runner.run(self.store.claim(name, [Want(limit, queues, above=above)], now=self.now))
        self.expire(lambda job: True)
        for job in self.model.values():
            if job["status"] == Status.SCHEDULED and job["run_at"] <= self.now:
                job["status"] = Status.PENDING
        ready = [
            (-job["priority"], number)
            for number, job in self.model.items()
            if job["status"] == Status.PENDING and (queues is None or job["queue"] in queues)
            if above is None or job["priority"] > above
        ]
        expected = [number for _, number in sorted(ready)[:limit]]
        assert [job.number for job in claims.jobs[0]] == expected
        for claimed in claims.jobs[0]:
            job = self.model[claimed.number]
            job.update(status=Status.RUNNING, fence=job["fence"] + 1, node=name)
            assert claimed.fence == job["fence"]
        scheduled = [job["run_at"] for job in self.model.values() if job["status"] == Status.SCHEDULED]
        assert claims.next_due == min(scheduled, default=None)
        return list(claims.jobs[0])

    @rule(claimed=consumes(claims), outcome=OUTCOMES, keep=st.booleans(), twice=st.booleans())
    def settle(self, claimed: list[ClaimedJob], outcome: Any, keep: bool, twice: bool) -> None:
        batch = [settle(job, outcome, receipt(self.now), now=self.now) for job in claimed]
        verdicts = self.runner.run(self.store.settle(batch * (2 if twice else 1)))
        for at, settlement in enumerate(batch * (2 if twice else 1)):
            job = self.model.get(settlement.number, {"status": "pruned"})
            if job["status"] != Status.RUNNING or job["fence"] != settlement.fence:
                assert verdicts[at] == "stale"
            elif job["cancel"] and settlement.status in LIVE:
                assert verdicts[at] == "cancel_requested"
            else:
                assert verdicts[at] == "settled"
                job.update(status=settlement.status, run_at=settlement.run_at, node=None)

    @rule(data=st.data(), running=st.booleans())
    def cancel(self, data: st.DataObject, running: bool) -> None:
        if self.model:
            number = data.draw(st.sampled_from(sorted(self.model)))
            job = self.model[number]
            assert self.runner.run(self.store.cancel([number], now=self.now, running=running)) == [job["status"]]
            if job["status"] in (Status.SCHEDULED, Status.PENDING):
                job["status"] = Status.CANCELLED
            elif job["status"] == Status.RUNNING and running:
                job["cancel"] = True

    @rule(target=claims, dead=st.sampled_from([[], ["n1"], ["n2"]]), living=st.sampled_from([["n1", "n2"], ["n2"]]))
    def adopt(self, dead: list[str], living: list[str]) -> list[ClaimedJob]:
        adopted = self.runner.run(self.store.adopt("me", dead, living=living))
        gone = {"n1", "n2"} - set(living) | set(dead)
        expected = [n for n, job in self.model.items() if job["status"] == Status.RUNNING and job["node"] in gone]
        assert [job.number for job in adopted] == sorted(expected)
        for claimed in adopted:
            job = self.model[claimed.number]
            job.update(fence=job["fence"] + 1, node="me")
            assert (claimed.fence, claimed.cancel_requested) == (job["fence"], job["cancel"])
        return adopted

    @rule(name=st.sampled_from(["n1", "n2"]))
    def beat(self, name: str) -> None:
        asked = self.runner.run(self.store.beat(node(name)))
        self.runner.run(self.store.retire(name))
        expected = [n for n, j in self.model.items() if j["status"] == "running" and j["cancel"] and j["node"] == name]
        assert sorted(asked) == sorted(expected)

    @rule(status=st.sampled_from(sorted(TERMINAL)))
    def prune(self, status: Status) -> None:
        ended = [number for number, job in self.model.items() if job["status"] == status]
        done = self.runner.run(self.store.prune({status: 0}, now=self.now + 1000 * 365 * 24 * 3600 * SECOND))
        assert done.jobs == ({status: len(ended)} if ended else {})
        for number in ended:
            del self.model[number]

    @rule(jump=st.sampled_from([1, 4, 40, 3600 * SECOND, 365 * 24 * 3600 * SECOND, -10, -3600 * SECOND]))
    def time_jumps(self, jump: int) -> None:
        self.now += jump

    @invariant()
    def every_job_stands_where_the_model_says(self) -> None:
        stored = self.runner.run(self.store.get(list(self.model)))
        for job, expected in zip(stored, self.model.values(), strict=True):
            assert job is not None
            assert (job.status, job.fence, job.queue) == (expected["status"], expected["fence"], expected["queue"])
        live = [job["key"] for job in self.model.values() if job["key"] and job["status"] in LIVE]
        assert len(live) == len(set(live)), "one live job a key"


@pytest.mark.parametrize("name", sorted(FACTORIES))
def test_any_order_of_calls_leaves_a_store_as_the_model_says(name: str) -> None:
    run_state_machine_as_test(
        type(f"{name.title()}Jobs", (Jobs,), {"name": name}),
        settings=settings(
            max_examples=400 if os.environ.get("LQ_LONG") else 40, stateful_step_count=30, deadline=None,
            print_blob=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )  # fmt: skip
