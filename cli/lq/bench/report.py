"""What was measured, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from lq.bench.figures import Figures, summarise
from lq.bench.machine import Machine
from lq.bench.peers import BARE
from lq.bench.rounds import Plan
from lq.bench.running import Run
from lq.bench.scenarios import SCENARIOS
from lq.bench.servers import Server
from lq.render.page import Block, Heading, Pairs, Table

FORMAT = 1
"""Of the JSON document; rises when a field changes its meaning."""
MOST_LATENCIES = 1_000
"""Kept of one run in the JSON document, evenly spread over the sorted ones."""
_SLOW_SYNC = 0.02
"""Milliseconds: a sync that is faster has not reached a disk."""


def as_blocks(plan: Plan, machine: Machine, servers: Sequence[Server], runs: Sequence[Run]) -> list[Block]:
    """Return the report for people."""
    figures = summarise(runs)
    blocks: list[Block] = [Pairs(_about(plan, machine, servers))]
    for scenario in dict.fromkeys(each.scenario for each in figures):
        blocks += _scenario([each for each in figures if each.scenario == scenario])
    blocks += _settings(figures)
    return blocks


def as_json(plan: Plan, machine: Machine, servers: Sequence[Server], runs: Sequence[Run]) -> dict[str, Any]:
    """Return the report for programs: figures, and all runs they were taken from."""
    return {
        "format": FORMAT,
        "machine": msgspec.to_builtins(machine),
        "servers": msgspec.to_builtins(list(servers)),
        "plan": msgspec.to_builtins(plan),
        "figures": msgspec.to_builtins(summarise(runs)),
        "runs": [_thinned(run) for run in runs],
    }


def line_of(run: Run) -> str:
    """Return one run as a line, for who waits meanwhile."""
    head = f"{run.scenario:<14} {'warm-up' if run.round == 0 else f'round {run.round}':<8} {run.peer:<26}"
    if not run.is_good:
        return f"{head} {'skipped' if run.skipped else 'failed'}: {(run.skipped or run.failed or '').splitlines()[0]}"
    left = f"; it left {run.left} processes behind" if run.left else ""
    return f"{head} {run.jobs:>9,} jobs in {run.seconds:6.2f} s, {run.cpu_seconds:6.2f} s of CPU{left}"


def _about(plan: Plan, machine: Machine, servers: Sequence[Server]) -> tuple[tuple[str, Any], ...]:
    disk = f"{machine.filesystem}, a sync of 4 KiB takes {machine.sync_ms:g} ms"
    if machine.sync_ms < _SLOW_SYNC or machine.filesystem == "tmpfs":
        disk += " (no disk: durability costs nothing here; name another folder with --folder)"
    rows = [
        ("at", machine.at),
        ("machine", f"{machine.cpus} CPUs, {machine.cpu}; {machine.kernel}; load {machine.load:g} before it began"),
        ("python", f"{machine.python}, SQLite {machine.sqlite}"),
        ("disk", disk),
        ("rounds", f"{plan.rounds}, everybody in turn; {plan.workers} worker processes"),
    ]
    rows += [(server.name, f"{server.version}: {server.durability}") for server in servers]
    return tuple(rows)


def _scenario(figures: Sequence[Figures]) -> list[Block]:
    scenario = SCENARIOS[figures[0].scenario]
    good = [each for each in figures if each.rounds]
    columns = ["QUEUE", "JOBS"]
    if scenario.is_rate:
        columns += ["JOBS/S", "MIN", "MAX", "OF BARE"]
    has_cpu = any(each.cpu for each in good)
    has_latency = any(each.latency for each in good)
    names = list(dict.fromkeys(name for each in good for name in each.extra))
    has_servers = any(each.cpu and each.cpu.servers for each in good)
    columns += (
        ["CPU µs"] * has_cpu
        + ["SERVERS", "BOTH"] * (has_cpu and has_servers)
        + ["P50 ms", "P95", "P99", "WORST"] * has_latency
    )
    columns += [name.replace("_", " ").upper() for name in names]
    problems = [each for each in figures if each.problem]
    bare = next((each.rate.median for each in good if each.peer == BARE.name and each.rate), None)
    rows: list[tuple[Any, ...]] = []
    for each in sorted(good, key=_order):
        row: list[Any] = [each.peer, f"{each.jobs:,}"]
        if scenario.is_rate:
            row += _rate(each, bare)
        row += (_cpu(each)[: 3 if has_servers else 1] if has_cpu else []) + (_latency(each) if has_latency else [])
        rows.append((*row, *(_number(each.extra.get(name)) for name in names)))
    blocks: list[Block] = [Heading(scenario.title, scenario.name)]
    if rows:
        blocks.append(Table(tuple(columns), tuple(rows), frozenset(columns[1:])))
    if problems:
        blocks.append(Pairs(tuple((each.peer, (each.problem or "").splitlines()[0]) for each in problems)))
    return blocks


def _order(figures: Figures) -> tuple[float, float]:
    """Return what sorts the best first."""
    rate = figures.rate.median if figures.rate else 0.0
    return (-rate, figures.latency.p50 if figures.latency else 0.0)


def _rate(figures: Figures, bare: float | None) -> list[Any]:
    rate = figures.rate
    if rate is None:
        return [None] * 4
    return [
        f"{rate.median:,.0f}",
        f"{rate.least:,.0f}",
        f"{rate.most:,.0f}",
        f"{rate.median / bare:.0%}" if bare else None,
    ]


def _cpu(figures: Figures) -> list[Any]:
    cpu = figures.cpu
    return [None] * 3 if cpu is None else [f"{cpu.own:,.0f}", f"{cpu.servers:,.0f}", f"{cpu.all:,.0f}"]


def _latency(figures: Figures) -> list[Any]:
    latency = figures.latency
    if latency is None:
        return [None] * 4
    return [f"{value:.2f}" for value in (latency.p50, latency.p95, latency.p99, latency.worst)]


def _number(value: Any) -> str | None:
    if value is None:
        return None
    return f"{value:,.0f}" if abs(value) >= 100 or float(value).is_integer() else f"{value:.2f}"


def _settings(figures: Sequence[Figures]) -> list[Block]:
    """Return what each queue said of its settings, and of what survives what; the same words once."""
    rows: dict[tuple[str, str, str, str], list[str]] = {}
    for each in figures:
        if each.rounds:
            rows.setdefault((each.peer, each.version, each.durability, each.settings), []).append(each.scenario)
    said = [((peer, ", ".join(names)), version, kept, how) for (peer, version, kept, how), names in rows.items()]
    blocks: list[Block] = [Heading("Settings")]
    for (peer, names), version, kept, how in sorted(said):
        blocks.append(Pairs(((f"{peer} {version}", names), ("settings", how), ("survives", kept))))
    return blocks if said else []


def _thinned(run: Run) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.to_builtins(run)
    values = run.latencies_ms
    if values is not None:
        document["latency_samples"] = len(values)
        if len(values) > MOST_LATENCIES:
            ordered = sorted(values)
            last = len(ordered) - 1
            document["latencies_ms"] = [ordered[at * last // (MOST_LATENCIES - 1)] for at in range(MOST_LATENCIES)]
    return document
