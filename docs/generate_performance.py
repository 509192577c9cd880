"""Write the tables of docs/performance.md from the raw output beside it; with --check, only say whether they are fresh.

``docs/performance.json`` is what ``lq bench --json`` has written, ``docs/full_load.json`` what ``benchmarks/full_load.py
--json`` has: nobody types a figure.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
PAGE, RAW, LOAD = HERE / "performance.md", HERE / "performance.json", HERE / "full_load.json"
BEGIN, END = "<!-- made by docs/generate_performance.py -->\n", "<!-- /made -->\n"
BEGIN_LOAD = "<!-- made by docs/generate_performance.py from full_load.json -->\n"
OURS, BARE = "ours", "bare"
COMPUTING = 5.0
"""Milliseconds of CPU that a job of the scenario ``cpu`` takes."""

WORKERS = 2
"""Processes that work."""

Figures = dict[str, Any]
"""One queue in one scenario, as the raw output has it."""
Value = Callable[[Figures], float]


class Asked(NamedTuple):
    """A line of the table of what was asked."""

    measure: str
    scenario: str
    value: Value
    limit: float
    is_least: bool
    """The limit is the least that is good enough, and more is better."""
    shown: str
    """How a value is written."""


def _rate(figures: Figures) -> float:
    return float(figures["rate"]["median"])


def _cpu(figures: Figures) -> float:
    return float(figures["cpu"]["own"] + figures["cpu"]["servers"])


def _share(figures: Figures) -> float:
    return _rate(figures) * COMPUTING / 1_000 / WORKERS * 100


def _latency(which: str) -> Value:
    return lambda figures: float(figures["latency"][which])


def _extra(which: str) -> Value:
    return lambda figures: float(figures["extra"][which])


def _flatness(figures: Figures) -> float:
    rates = {depth: figures["extra"][f"{depth} jobs_per_second"] for depth in (10_000, 1_000_000)}
    return float(rates[1_000_000] / rates[10_000] * 100)


ASKED = (
    Asked("no-op jobs drained", "drain", _rate, 15_000, True, "{:,.0f}/s"),
    Asked("CPU of a no-op job, all processes and servers", "drain", _cpu, 100, False, "{:,.0f} µs"),
    Asked("enqueue one by one, 100 callers", "enqueue", _rate, 15_000, True, "{:,.0f}/s"),
    Asked("enqueue in bulk", "bulk", _rate, 40_000, True, "{:,.0f}/s"),
    Asked("sleeps of 5 ms, 100 at a time", "sleep", _rate, 10_000, True, "{:,.0f}/s"),
    Asked("5 ms of CPU a job, of two cores", "cpu", _share, 97, True, "{:.1f} %"),
    Asked("enqueue to first line, idle, p50", "pickup", _latency("p50"), 1.5, False, "{:.2f} ms"),
    Asked("the same, p99", "pickup", _latency("p99"), 5, False, "{:.1f} ms"),
    Asked("drain with 1 M behind, against 10 k", "depth", _flatness, 90, True, "{:.0f} %"),
    Asked("enqueue in a second process during a drain, p99", "beside", _latency("p99"), 15, False, "{:.1f} ms"),
    Asked("SIGKILL of a worker to its job's next run, worst", "replacement", _latency("worst"), 50, False, "{:.1f} ms"),
    Asked("CPU of an idle master and two workers", "idle", _extra("cpu_percent"), 0.5, False, "{:.2f} % of a core"),
    Asked("resident memory of the master", "memory", _extra("master_rss_mib"), 45, False, "{:.0f} MiB"),
)
COLUMNS: tuple[tuple[str, str, Value, str], ...] = (
    ("drain, jobs/s", "drain", _rate, "{:,.0f}"),
    ("µs of CPU a job", "drain", _cpu, "{:,.0f}"),
    ("enqueue, jobs/s", "enqueue", _rate, "{:,.0f}"),
    ("bulk, jobs/s", "bulk", _rate, "{:,.0f}"),
    ("5 ms sleeps, jobs/s", "sleep", _rate, "{:,.0f}"),
    ("5 ms of CPU, of two cores", "cpu", _share, "{:.0f} %"),
    ("pickup p50, ms", "pickup", _latency("p50"), "{:.2f}"),
    ("p99", "pickup", _latency("p99"), "{:.1f}"),
    ("100 KB there and back, jobs/s", "large", _rate, "{:,.0f}"),
    ("idle, % of a core", "idle", _extra("cpu_percent"), "{:.2f}"),
    ("PSS, MiB", "memory", _extra("pss_mib"), "{:.0f}"),
)


class Raw:
    """What was measured."""

    def __init__(self, text: str) -> None:
        raw = json.loads(text)
        self.machine: dict[str, Any] = raw["machine"]
        self.servers: list[dict[str, Any]] = raw["servers"]
        self.plan: dict[str, Any] = raw["plan"]
        self._figures: list[Figures] = [each for each in raw["figures"] if each["rounds"]]

    def peers(self) -> list[str]:
        """Return who was measured, whoever drains most first."""
        names = dict.fromkeys(each["peer"] for each in self._figures)
        return sorted(names, key=lambda name: -(self.value(name, "drain", _rate) or 0))

    def value(self, peer: str, scenario: str, value: Value) -> float | None:
        """Return one figure; None where it was not measured."""
        found = [each for each in self._figures if (each["peer"], each["scenario"]) == (peer, scenario)]
        try:
            return value(found[0]) if found else None
        except (KeyError, TypeError):  # this queue has no such figure there
            return None

    def settings(self, peer: str) -> tuple[str, str, str]:
        """Return the version of a queue, how it was set in the drain, and what that survives."""
        mine = [each for each in self._figures if each["peer"] == peer]
        first = next((each for each in mine if each["scenario"] == "drain"), mine[0])
        return first["version"], first["settings"], first["durability"]


def asked(raw: Raw) -> str:
    """Return the table of what was asked and reached."""
    lines = ["| measure | asked | ours | | next best of the others | bare limit |", "|---|---|---|---|---|---|"]
    for line in ASKED:
        ours = raw.value(OURS, line.scenario, line.value)
        assert ours is not None, f"{line.scenario} was not measured"
        is_reached = ours >= line.limit if line.is_least else ours <= line.limit
        bare = raw.value(BARE, line.scenario, line.value)
        cells = (
            line.measure,
            f"{'≥' if line.is_least else '≤'} {line.shown.format(line.limit)}",
            f"**{line.shown.format(ours)}**",
            "reached" if is_reached else "missed",
            _next_best(raw, line),
            line.shown.format(bare) if bare is not None else "–",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def everybody(raw: Raw) -> str:
    """Return the table of all queues."""
    lines = [
        f"| | {' | '.join(title for title, *_ in COLUMNS)} |",
        f"|---|{'---|' * len(COLUMNS)}",
    ]
    for peer in raw.peers():
        values = [
            shown.format(value) if (value := raw.value(peer, scenario, of)) is not None else "–"
            for _, scenario, of, shown in COLUMNS
        ]
        name = f"**{peer}**" if peer == OURS else _name(peer)
        lines.append(f"| {name} | {' | '.join(values)} |")
    return "\n".join(lines) + "\n"


def settings(raw: Raw) -> str:
    """Return how each queue was set, and what survives what."""
    lines = []
    for peer in raw.peers():
        version, how, durability = raw.settings(peer)
        lines.append(f"* **{_name(peer)}** {version}: {how}. Survives: {durability}.")
    return "\n".join(lines) + "\n"


def where(raw: Raw) -> str:
    """Return when and on what it was measured."""
    machine, plan = raw.machine, raw.plan
    servers = "".join(f", {each['name']} {each['version']} ({each['durability']})" for each in raw.servers)
    return (
        f"{machine['at'][:10]}, {machine['cpus']} × {machine['cpu']}, {machine['kernel']}, {machine['filesystem']} where a sync "
        f"of 4 KiB takes {machine['sync_ms']} ms, Python {machine['python']}, SQLite {machine['sqlite']}{servers}; "
        f"load {machine['load']} before it began; {plan['rounds']} rounds, in each everybody in turn; medians.\n"
    )


def full_load(raw: dict[str, Any]) -> str:
    """Return what an hour of full load came to, and every tenth minute of it."""
    whole, minutes = raw["summary"], raw["minutes"]
    lines = [
        f"{whole['jobs_done']:,} jobs in {whole['minutes']} minutes ({whole['jobs_per_s']:,.0f}/s): {whole['lost']} lost, "
        f"{whole['ran_again']} ran again, {whole['failed_unexpectedly']} failed unasked. The log had "
        f"{whole['wal_p50_mib']:.0f} MiB at p50, {whole['wal_p99_mib']:.0f} at p99 and {whole['wal_most_mib']:.0f} at most, which "
        f"is within its bound of {whole['wal_bound_mib']:.0f}: {whole['wal_most_growth_in_long_read_mib']:.0f} MiB were written "
        f"during one of {whole['long_reads']} reads that were held open for 5 s, and under a read nothing can be cut.",
        "",
        "| minute | jobs/s | log at its end, MiB | database, MiB | jobs kept | the oldest of them, s | master, MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in (minutes[0], *minutes[9::10]):
        lines.append(
            f"| {each['minute']} | {each['jobs_per_s']:,.0f} | {each['wal_mib']:.0f} | {each['database_mib']:,.0f} | "
            f"{each['kept']:,} | {each['oldest_s']} | {each['master_rss_mib']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def page(text: str, raw: Raw, load: dict[str, Any]) -> str:
    """Return the page with its tables made anew."""
    text = _put(text, BEGIN, "\n".join((where(raw), asked(raw), everybody(raw), settings(raw))))
    return _put(text, BEGIN_LOAD, full_load(load))


def _put(text: str, begin: str, made: str) -> str:
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(END)
    assert after, f"docs/performance.md has no {begin!r} … {END!r}"
    return f"{before}{begin}\n{made}\n{END}{after}"


def _next_best(raw: Raw, line: Asked) -> str:
    found = {
        peer: value
        for peer in raw.peers()
        if peer not in (OURS, BARE) and (value := raw.value(peer, line.scenario, line.value)) is not None
    }
    if not found:
        return "–"
    best = (max if line.is_least else min)(found, key=lambda peer: found[peer])
    return f"{line.shown.format(found[best])} ({_name(best)})"


def _name(peer: str) -> str:
    return peer.replace("_on_", " on ").replace("_", "-")


if __name__ == "__main__":
    before = PAGE.read_text(encoding="utf-8")
    fresh = page(before, Raw(RAW.read_text(encoding="utf-8")), json.loads(LOAD.read_text(encoding="utf-8")))
    if "--check" in sys.argv:
        sys.exit(0 if before == fresh else "docs/performance.md is stale: run python docs/generate_performance.py")
    PAGE.write_text(fresh, encoding="utf-8")
