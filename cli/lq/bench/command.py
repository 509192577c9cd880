"""``lq bench``: how fast it is here."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import click

from litestar_queues.exceptions import QueueConfigurationError
from lq import exits
from lq.bench import chart, machine, peers, report
from lq.bench.rounds import Plan, measure
from lq.bench.running import Run
from lq.bench.scenarios import SCENARIOS, USUAL
from lq.bench.servers import Servers
from lq.render.page import show, write_json
from lq.render.text import printable

_FOLDER = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)


_HELP = f"""Measure how fast it is on this machine, with real workers on temporary databases.

Beside it runs the bare limit: what SQLite and socket pairs do with no queue around them. In each
round everybody runs in turn, so that ratios hold on a busy machine. Nothing of yours is touched.

\b
Examples:
  lq bench
  lq bench --scenario drain --scenario pickup --json figures.json
  lq bench --all --peers benchmarks/peers --svg docs/performance.svg

Scenarios: {", ".join(SCENARIOS)}.
Exit status: 0 when everything was measured, 1 when something failed or hung.
"""


@click.command(help=_HELP, short_help="Measure how fast it is on this machine.")
@click.option(
    "--scenario", "names", multiple=True, metavar="NAME", help="Measure this; may be repeated. [the usual ones]"
)
@click.option("--alone", multiple=True, metavar="NAME", help="Measure this without the peers; may be repeated.")
@click.option("--all", "everything", is_flag=True, help="Measure everything, also what takes minutes.")
@click.option("--jobs", type=click.IntRange(min=1), help="Jobs of each run [as many as the scenario says].")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Times that each is measured.")
@click.option("-w", "--workers", type=click.IntRange(min=1), help="Worker processes [one per CPU, at most 2].")
@click.option(
    "--seconds", type=click.FloatRange(min=0.1), default=5.0, show_default=True, help="For what goes on for a time."
)
@click.option(
    "--limit",
    type=click.FloatRange(min=1),
    default=180.0,
    show_default=True,
    help="Seconds after which a run is killed.",
)
@click.option(
    "--longest",
    type=click.FloatRange(min=0.5),
    default=10.0,
    show_default=True,
    help="Seconds that a slow queue is given: it does fewer jobs.",
)
@click.option("--peers", "peers_folder", type=_FOLDER, help="Measure other queues too: a folder with NAME.py for each.")
@click.option("--environments", type=_FOLDER, help="Where each peer has its Python [.bench, two folders above].")
@click.option(
    "--only", multiple=True, metavar="NAME", help="Measure only this one (ours, bare, a peer); may be repeated."
)
@click.option("--folder", type=_FOLDER, help="Where the databases are made; decides which disk [the temporary folder].")
@click.option("--json", "json_file", type=_FILE, help="Write figures and all runs to this file.")
@click.option("--svg", "svg_file", type=_FILE, help="Draw the figures into this file.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing until it is done.")
def bench(
    names: tuple[str, ...],
    alone: tuple[str, ...],
    everything: bool,
    jobs: int | None,
    rounds: int,
    workers: int | None,
    seconds: float,
    limit: float,
    longest: float,
    peers_folder: Path | None,
    environments: Path | None,
    only: tuple[str, ...],
    folder: Path | None,
    json_file: Path | None,
    svg_file: Path | None,
    quiet: bool,
) -> None:
    """Measure, report, and say by the exit status whether all of it could be measured."""
    for number in (signal.SIGTERM, signal.SIGHUP):  # whoever ends it ends what it has started
        signal.signal(number, signal.default_int_handler)
    workers = workers or min(len(os.sched_getaffinity(0)), 2)
    scenarios = _scenarios((*names, *alone), everything)
    plan = Plan(scenarios, rounds, workers, jobs, seconds, limit, longest, alone)
    adapters, missing = peers.find(peers_folder, environments, only)
    if missing:
        click.echo(f"left out, having no environment of their own yet: {', '.join(missing)}", err=True)
    servers = Servers(wanted=any(adapter.servers for adapter in adapters))
    with tempfile.TemporaryDirectory(prefix="lq-bench-", dir=folder) as made:
        here = machine.look(Path(made))
        runs = measure(plan, adapters, servers, Path(made), (lambda _: None) if quiet else _say)
    if json_file is not None:
        with json_file.open("w", encoding="utf-8") as file:
            write_json(report.as_json(plan, here, servers.found, runs), file)
    if svg_file is not None:
        svg_file.write_text(chart.draw(runs, here), encoding="utf-8")
    show(report.as_blocks(plan, here, servers.found, runs))
    raise click.exceptions.Exit(exits.FAILED if any(run.failed for run in runs) else exits.OK)


def _scenarios(names: tuple[str, ...], everything: bool) -> tuple[str, ...]:
    unknown = [name for name in names if name not in SCENARIOS]
    if unknown:
        msg = f"there is no scenario {unknown[0]!r} (there are: {', '.join(SCENARIOS)})"
        raise QueueConfigurationError(msg)
    if everything:
        return tuple(SCENARIOS)
    return tuple(dict.fromkeys(names)) or USUAL


def _say(run: Run) -> None:
    click.echo(printable(report.line_of(run)), err=True)
