"""What was measured, for people and for programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
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

Column = Callable[[Figures], Any]
"""What stands in a column of one queue; nothing, where there is none."""
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
    good = sorted((each for each in figures if each.rounds), key=_order)
    columns = _columns(good)
    blocks: list[Block] = [Heading(scenario.title, scenario.name)]
    if good:
        names = tuple(columns)
        rows = tuple(tuple(value(each) for value in columns.values()) for each in good)
        blocks.append(Table(names, rows, frozenset(names[1:])))
    problems = tuple((each.peer, (each.problem or "").splitlines()[0]) for each in figures if each.problem)
    return [*blocks, Pairs(problems)] if problems else blocks


def _columns(figures: Sequence[Figures]) -> dict[str, Column]:
    """Return the columns in which there is something to show, and what each shows of one queue."""
    bare = next((each for each in figures if each.peer == BARE.name), None)
    uses_servers = any(each.cpu and each.cpu.servers for each in figures)
    all_columns: dict[str, Column] = {
        "QUEUE": lambda each: each.peer,
        "JOBS": lambda each: f"{each.jobs:,}",
        "JOBS/S": lambda each: each.rate and f"{each.rate.median:,.0f}",
        "MIN": lambda each: each.rate and f"{each.rate.least:,.0f}",
        "MAX": lambda each: each.rate and f"{each.rate.most:,.0f}",
        "OF BARE": lambda each: each.rate and bare and bare.rate and f"{each.rate.median / bare.rate.median:.0%}",
        "CPU µs": lambda each: each.cpu and f"{each.cpu.own:,.0f}",
        "SERVERS": lambda each: uses_servers and each.cpu and f"{each.cpu.servers:,.0f}",
        "BOTH": lambda each: uses_servers and each.cpu and f"{each.cpu.all:,.0f}",
        "× BARE": lambda each: each.cpu and bare and bare.cpu and bare.cpu.all and f"{each.cpu.all / bare.cpu.all:.1f}",
        "P50 ms": lambda each: each.latency and f"{each.latency.p50:.2f}",
        "P95": lambda each: each.latency and f"{each.latency.p95:.2f}",
        "P99": lambda each: each.latency and f"{each.latency.p99:.2f}",
        "WORST": lambda each: each.latency and f"{each.latency.worst:.2f}",
    }
    for name in dict.fromkeys(name for each in figures for name in each.extra):
        all_columns[name.replace("_", " ").upper()] = partial(_own, name)
    return {name: value for name, value in all_columns.items() if any(map(value, figures))}


def _own(name: str, figures: Figures) -> str | None:
    value = figures.extra.get(name)
    if value is None:
        return None
    return f"{value:,.0f}" if abs(value) >= 100 or float(value).is_integer() else f"{value:.2f}"


def _order(figures: Figures) -> tuple[float, float]:
    """Return what sorts the best first."""
    rate = figures.rate.median if figures.rate else 0.0
    return (-rate, figures.latency.p50 if figures.latency else 0.0)


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
