"""The figures as a picture: a panel for each measure, a row for each queue. SVG, written as text.

No plotting library: a few bars need none, and a file that a person can read shows in a diff what
has changed. Colours follow the reader's light or dark page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from html import escape

from msgspec import Struct

from lq.bench.figures import Figures, summarise
from lq.bench.machine import Machine
from lq.bench.peers import BARE, OURS
from lq.bench.running import Run
from lq.bench.scenarios import SCENARIOS

_WIDTH = 760
_LEFT = 210
"""Where bars begin; names stand before."""
_RIGHT = 610
"""Where the longest bar ends; figures stand behind."""
_ROW = 20
_BAR = 11
_CPU_OF = "drain"
"""The scenario whose CPU is drawn too: there is least of the jobs' own in it."""
_STYLE = """
text { font: 12px system-ui, sans-serif; fill: #24292f }
.title { font-size: 16px; font-weight: 600 }
.panel { font-weight: 600 }
.small { font-size: 11px; fill: #57606a }
.peer { fill: #9aa4af; stroke: #9aa4af } .ours { fill: #2f6feb; stroke: #2f6feb } .bare { fill: #d0d7de; stroke: #d0d7de }
.range { stroke: #57606a; stroke-width: 1.2 } .axis { stroke: #d0d7de }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .small { fill: #9aa4af } .range { stroke: #c9d1d9 } .axis { stroke: #3d444d }
  .peer { fill: #6e7781; stroke: #6e7781 } .ours { fill: #58a6ff; stroke: #58a6ff } .bare { fill: #3d444d; stroke: #3d444d }
}
"""


class _Row(Struct, frozen=True):
    """One queue in one panel: a value, the range around or behind it, and how both are written."""

    peer: str
    value: float
    low: float
    high: float
    text: str


class _Panel(Struct, frozen=True):
    """One measure of several queues, the best first."""

    title: str
    aside: str
    rows: tuple[_Row, ...]
    is_log: bool = False


def draw(runs: Sequence[Run], machine: Machine) -> str:
    """Return the picture of *runs*, as the text of an SVG file."""
    measured = _panels([each for each in summarise(runs) if each.rounds])
    panels = [panel for panel in measured if panel.rows]  # a single job has no CPU of each
    height = 64 + sum(44 + _ROW * len(panel.rows) for panel in panels) + 34
    size = f'viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title">',
        f'<title id="title">{escape(_title(panels))}</title>',
        f"<style>{_STYLE}</style>",
        _text(16, 26, _title(panels), "title"),
        _text(16, 45, f"{machine.cpus} CPUs, {machine.cpu}, {machine.filesystem}; one run, everybody in turn", "small"),
    ]
    top = 64
    for panel in panels:
        parts += _draw_panel(panel, top)
        top += 44 + _ROW * len(panel.rows)
    parts.append(
        _text(16, top + 14, "What survives a crash differs from queue to queue: see the table of settings.", "small")
    )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _title(panels: Sequence[_Panel]) -> str:
    peers = {row.peer for panel in panels for row in panel.rows}
    return "Queues side by side" if peers - {OURS.name, BARE.name} else "This queue, and the bare limit"


def _panels(figures: Sequence[Figures]) -> Iterator[_Panel]:
    for name in dict.fromkeys(each.scenario for each in figures):
        scenario = SCENARIOS[name]
        those = [each for each in figures if each.scenario == name]
        if scenario.is_rate:
            yield _panel(scenario.title, "jobs a second; line: least to most", those, _rate, best=-1)
            if name == _CPU_OF:
                title = f"{scenario.title}: CPU of each"
                yield _panel(title, "microseconds over all processes, servers included", those, _cpu, best=1)
        elif any(each.latency for each in those):
            aside = "milliseconds, logarithmic; point: median, line to the 99th percentile"
            yield _panel(scenario.title, aside, those, _latency, best=1, is_log=True)


def _panel(
    title: str,
    aside: str,
    figures: Sequence[Figures],
    row: Callable[[Figures], _Row | None],
    *,
    best: int,
    is_log: bool = False,
) -> _Panel:
    rows = [each for each in map(row, figures) if each is not None]
    return _Panel(title, aside, tuple(sorted(rows, key=lambda each: best * each.value)), is_log)


def _rate(each: Figures) -> _Row | None:
    rate = each.rate
    return None if rate is None else _Row(each.peer, rate.median, rate.least, rate.most, f"{_figure(rate.median)}/s")


def _cpu(each: Figures) -> _Row | None:
    cpu = each.cpu
    return None if cpu is None else _Row(each.peer, cpu.all, cpu.all, cpu.all, f"{_figure(cpu.all)} µs")


def _latency(each: Figures) -> _Row | None:
    latency = each.latency
    if latency is None:
        return None
    text = f"{_figure(latency.p50)} · {_figure(latency.p99)} ms"
    return _Row(each.peer, latency.p50, latency.p50, latency.p99, text)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _draw_panel(panel: _Panel, top: int) -> Iterator[str]:
    yield _text(16, top + 14, panel.title, "panel")
    yield _text(16, top + 29, panel.aside, "small")
    place = _scale(panel)
    for index, row in enumerate(panel.rows):
        middle = top + 44 + _ROW * index
        kind = row.peer if row.peer in (OURS.name, BARE.name) else "peer"
        low, value, high = place(row.low), place(row.value), place(row.high)
        yield _text(_LEFT - 8, middle + 4, _name(row.peer), "", anchor="end")
        if panel.is_log:
            yield f'<line class="axis" x1="{_LEFT}" x2="{_RIGHT}" y1="{middle}" y2="{middle}"/>'
            yield f'<line class="{kind}" stroke-width="3" x1="{value:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>'
            yield f'<circle class="{kind}" cx="{value:.1f}" cy="{middle}" r="4.5"/>'
        else:
            yield (
                f'<rect class="{kind}" x="{_LEFT}" y="{middle - _BAR / 2}" width="{value - _LEFT:.1f}" height="{_BAR}"/>'
            )
            yield f'<line class="range" x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>'
        yield _text(_RIGHT + 10, middle + 4, row.text, "")


def _scale(panel: _Panel) -> Callable[[float], float]:
    """Return where a value stands across the page: from nothing to the highest, or by its logarithm."""
    high = max(row.high for row in panel.rows) or 1.0
    width = _RIGHT - _LEFT
    if not panel.is_log:
        return lambda value: _LEFT + width * value / high
    low = min(row.low for row in panel.rows) / 1.5
    return lambda value: _LEFT + width * math.log(max(value, low) / low) / math.log(high / low)


def _name(peer: str) -> str:
    return {OURS.name: "ours", BARE.name: "bare limit"}.get(peer, peer.replace("_on_", " · ").replace("_", "-"))


def _text(x: float, y: float, text: str, kind: str, *, anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>'
