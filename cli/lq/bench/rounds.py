"""Who runs when: a scenario after the other, and in each round of it everybody in turn (A B A B).

So a machine that is busy for a while is busy for everybody. Before the rounds each does a twentieth,
which counts for nothing: it warms the disk's and Python's caches, and says how fast it is, so that a
slow one is given as many jobs as it does in ``Plan.longest`` seconds. Whoever fails or hangs in a
scenario is not asked again for that one, so all of it ends in a time that can be told beforehand.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from lq.bench.running import Adapter, Order, Run, run
from lq.bench.scenarios import LEAST, SCENARIOS, Scenario
from lq.bench.servers import Servers

WARM_UP = 0
"""The round that counts for nothing."""
_SHARE = 20
_LISTING = 60.0
"""Seconds within which an adapter must say what it can."""


class Plan(Struct, frozen=True):
    """What is to be measured."""

    scenarios: tuple[str, ...]
    rounds: int
    workers: int
    jobs: int | None = None
    """For every scenario; None: as many as the scenario says."""
    seconds: float = 5.0
    """For scenarios that go on for a time."""
    limit: float = 180.0
    """Seconds after which a run is killed."""
    longest: float = 10.0
    """Seconds that the measured part of a scaled run should take at most."""
    alone: tuple[str, ...] = ()
    """Scenarios that peers are not asked for."""


def who_does_what(plan: Plan, adapters: Sequence[Adapter]) -> dict[str, list[Adapter]]:
    """Return who of *adapters* is asked for each scenario of *plan*: who can do it, and is to."""
    can = {adapter.name: _scenarios_of(adapter) for adapter in adapters}
    return {
        name: [
            adapter
            for adapter in adapters
            if name in can[adapter.name] and (adapter.has_our_python or name not in plan.alone)
        ]
        for name in plan.scenarios
    }


def measure(plan: Plan, asked: Mapping[str, Sequence[Adapter]], servers: Servers, folder: Path) -> Iterator[Run]:
    """Do *plan* with those who are *asked* for each scenario, and yield every run as it ends."""
    for name, adapters in asked.items():
        yield from _measure_one(plan, SCENARIOS[name], adapters, servers, folder)


def _measure_one(
    plan: Plan, scenario: Scenario, adapters: Sequence[Adapter], servers: Servers, folder: Path
) -> Iterator[Run]:
    jobs = plan.jobs if plan.jobs and scenario.scales else scenario.jobs
    counts = {adapter.name: jobs for adapter in adapters}
    able = {adapter.name: adapter for adapter in adapters}
    first = WARM_UP if scenario.scales and jobs > LEAST else WARM_UP + 1
    for round in range(first, plan.rounds + 1):
        for adapter in list(able.values()):
            count = max(jobs // _SHARE, LEAST) if round == WARM_UP else counts[adapter.name]
            order = Order(scenario.name, count, plan.workers, plan.seconds, plan.limit)
            result = run(adapter, order, servers, folder, round=round)
            if not result.is_good:
                del able[adapter.name]
            elif round == WARM_UP:
                counts[adapter.name] = _affordable(result, jobs, plan.longest)
            yield result


def _affordable(warm_up: Run, jobs: int, longest: float) -> int:
    """Return how many jobs may be asked of one that was so fast in its warm-up, if they are to take *longest* seconds."""
    rate = warm_up.jobs / warm_up.seconds
    return min(jobs, max(int(rate * longest), LEAST))


def _scenarios_of(adapter: Adapter) -> frozenset[str]:
    """Return what an adapter says that it can; all of it for one that cannot say: its first run tells why."""
    try:
        done = subprocess.run(
            [*adapter.command, "--list"],
            env=adapter.environment(),
            capture_output=True,
            timeout=_LISTING,
            check=True,
        )
        return frozenset(msgspec.json.decode(done.stdout.strip().splitlines()[-1], type=list[str]))
    except (OSError, subprocess.SubprocessError, IndexError, msgspec.MsgspecError):
        return frozenset(SCENARIOS)
