"""From runs to figures. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from msgspec import Struct

from lq.bench.rounds import WARM_UP
from lq.bench.running import Run
from lq.bench.scenarios import SCENARIOS


class Latency(Struct, frozen=True):
    """Milliseconds, over all rounds together."""

    p50: float
    p95: float
    p99: float
    worst: float
    samples: int


class Rate(Struct, frozen=True):
    """Jobs per second of the rounds."""

    least: float
    median: float
    most: float


class Cpu(Struct, frozen=True):
    """Microseconds of CPU for each job: the median of the rounds."""

    own: float
    """Of all processes of the run: who enqueues, masters, workers."""
    servers: float
    """Of PostgreSQL and Redis, whoever else used them meanwhile."""

    @property
    def all(self) -> float:
        """Both together."""
        return self.own + self.servers


class Figures(Struct, frozen=True):
    """One peer in one scenario."""

    peer: str
    scenario: str
    rounds: int
    """Good ones; 0 when there is nothing but *problem*."""
    jobs: int = 0
    rate: Rate | None = None
    cpu: Cpu | None = None
    latency: Latency | None = None
    extra: dict[str, Any] = {}
    """Figures of the scenario's own: the median of the rounds."""
    problem: str | None = None
    settings: str = ""
    durability: str = ""
    version: str = ""


def summarise(runs: Iterable[Run]) -> list[Figures]:
    """Return the figures of each peer in each scenario, in the order of the runs."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.scenario, run.peer), []).append(run)
    return [_figures(group) for group in groups.values()]


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which *share* of sorted *values* lie."""
    return values[min(int(len(values) * share), len(values) - 1)]


def _figures(runs: Sequence[Run]) -> Figures:
    peer, scenario = runs[0].peer, runs[0].scenario
    problem = next((f"skipped: {run.skipped}" if run.skipped else run.failed for run in runs if not run.is_good), None)
    good = [run for run in runs if run.is_good and run.round != WARM_UP]
    if not good:
        return Figures(peer, scenario, 0, problem=problem)
    rates = sorted(run.jobs / run.seconds for run in good)
    last = good[-1]
    return Figures(
        peer=peer,
        scenario=scenario,
        rounds=len(good),
        jobs=last.jobs,
        rate=Rate(rates[0], median(rates), rates[-1]) if SCENARIOS[scenario].is_rate else None,
        cpu=_cpu(good),
        latency=_latency(good),
        extra=_extra(good),
        problem=problem,
        settings=last.settings,
        durability=last.durability,
        version=last.version,
    )


def _cpu(runs: Sequence[Run]) -> Cpu | None:
    if all(run.jobs <= 1 for run in runs):
        return None
    own = median(run.cpu_seconds / run.jobs for run in runs)
    servers = median(sum(run.server_cpu_seconds.values()) / run.jobs for run in runs)
    return Cpu(own * 1e6, servers * 1e6)


def _latency(runs: Sequence[Run]) -> Latency | None:
    values = sorted(value for run in runs for value in run.latencies_ms or ())
    if not values:
        return None
    p50, p95, p99 = (percentile(values, share) for share in (0.5, 0.95, 0.99))
    return Latency(p50, p95, p99, values[-1], len(values))


def _extra(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the median of every figure that each round has."""
    flat = [_flat(run.extra) | _share_of_time(run) for run in runs]
    return {name: median(each[name] for each in flat) for name in flat[0] if all(name in each for each in flat)}


def _flat(extra: dict[str, Any]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for name, value in extra.items():
        if isinstance(value, dict):
            figures |= {f"{name} {inner}": figure for inner, figure in _flat(value).items()}
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            figures[name] = value
    return figures


def _share_of_time(run: Run) -> dict[str, float]:
    """Return how busy an idle system is, its servers included."""
    if run.scenario != "idle":
        return {}
    return {"cpu_percent": (run.cpu_seconds + sum(run.server_cpu_seconds.values())) / run.seconds * 100}
