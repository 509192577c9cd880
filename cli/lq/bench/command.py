"""``lq bench``: how fast it is here."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import click

from litestar_queues.exceptions import QueueConfigurationError
from lq import exits
from lq.bench import chart, machine, peers, report
from lq.bench.options import ENVIRONMENTS, PEERS, WORKPLACE, Output, Seconds
from lq.bench.rounds import Plan, measure, who_does_what
from lq.bench.running import Adapter, Run
from lq.bench.scenarios import SCENARIOS, USUAL
from lq.bench.servers import Servers
from lq.render.page import Block, complain, json_text, show
from lq.render.text import printable

_HELP = f"""Measure how fast it is on this machine, with real workers on temporary databases.

Beside it runs the bare limit: what SQLite and socket pairs do with no queue around them. In each
round everybody runs in turn, so that ratios hold on a busy machine. Nothing of yours is touched.

\b
Examples:
  lq bench
  lq bench --scenario drain --scenario pickup --json figures.json
  lq bench --all --peers benchmarks/peers --svg docs/performance.svg

Scenarios: {", ".join(SCENARIOS)}.
Exit status: 0 when everything was measured, 1 when something failed, hung or could not be written,
2 when the options leave nothing to measure. Ctrl-C (130) shows and keeps what was measured until then.
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
@click.option("--seconds", type=Seconds(0.1), default=5.0, show_default=True, help="For what goes on for a time.")
@click.option("--limit", type=Seconds(1), default=180.0, show_default=True, help="Seconds after which a run is killed.")
@click.option(
    "--longest",
    type=Seconds(0.5),
    default=10.0,
    show_default=True,
    help="Seconds that a slow queue is given: it does fewer jobs.",
)
@click.option("--peers", "peers_folder", type=PEERS, help="Measure other queues too: a folder with NAME.py for each.")
@click.option("--environments", type=ENVIRONMENTS, help="Where each peer has its Python [.bench, two folders above].")
@click.option(
    "--only", multiple=True, metavar="NAME", help="Measure only this one (ours, bare, a peer); may be repeated."
)
@click.option(
    "--folder", type=WORKPLACE, help="Where the databases are made; decides which disk [the temporary folder]."
)
@click.option("--json", "json_file", type=Output(), help="Write figures and all runs to this file.")
@click.option("--svg", "svg_file", type=Output(), help="Draw the figures into this file.")
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
    adapters = _adapters(peers_folder, environments, only)
    asked = _asked(plan, adapters)
    servers = Servers(wanted=any(adapter.servers for adapter in adapters))
    runs: list[Run] = []
    with _workplace(folder) as made:
        here = machine.look(Path(made))
        is_whole = _collect(measure(plan, asked, servers, Path(made)), runs, (lambda _: None) if quiet else _say)
    told = (plan, here, servers.found, runs)
    files = {json_file: lambda: json_text(report.as_json(*told)), svg_file: lambda: chart.draw(runs, here)}
    is_told = _tell(report.as_blocks(*told), {path: text for path, text in files.items() if path is not None})
    if not is_whole:
        raise click.exceptions.Exit(exits.INTERRUPTED)
    raise click.exceptions.Exit(exits.OK if is_told and not any(run.failed for run in runs) else exits.FAILED)


def _scenarios(names: tuple[str, ...], everything: bool) -> tuple[str, ...]:
    unknown = [name for name in names if name not in SCENARIOS]
    if unknown:
        msg = f"there is no scenario {unknown[0]!r} (there are: {', '.join(SCENARIOS)})"
        raise click.UsageError(msg)
    if everything:
        return tuple(SCENARIOS)
    return tuple(dict.fromkeys(names)) or USUAL


def _adapters(folder: Path | None, environments: Path | None, only: tuple[str, ...]) -> list[Adapter]:
    """Return who is to be measured, and name those who cannot be."""
    try:
        adapters, missing = peers.find(folder, environments, only)
    except QueueConfigurationError as error:
        raise click.UsageError(str(error)) from error
    if missing:
        click.echo(f"left out, having no environment of their own yet: {', '.join(missing)}", err=True)
    return adapters


def _asked(plan: Plan, adapters: Sequence[Adapter]) -> dict[str, list[Adapter]]:
    """Return who is asked for what, where that is anything."""
    asked = who_does_what(plan, adapters)
    if not any(asked.values()):
        names = ", ".join(adapter.name for adapter in adapters)
        msg = f"there is nothing to measure: {names} is not asked for {', '.join(plan.scenarios)}; name others"
        raise click.UsageError(msg)
    return asked


def _workplace(folder: Path | None) -> tempfile.TemporaryDirectory[str]:
    """Return a new folder inside *folder*, or inside that for temporary files."""
    try:
        # That something stays in it is no reason to lose the figures.
        return tempfile.TemporaryDirectory(prefix="lq-bench-", dir=folder, ignore_cleanup_errors=True)
    except OSError as error:
        raise machine.unusable(folder or Path(tempfile.gettempdir()), error) from error


def _collect(measured: Iterable[Run], runs: list[Run], tell: Callable[[Run], None]) -> bool:
    """Add each run to *runs* as it ends; False when an interrupt ended that before its time, but not before the first."""
    try:
        for run in measured:
            runs.append(run)
            tell(run)
    except KeyboardInterrupt:
        if not runs:
            raise
        complain("interrupted; this is what was measured until then")
        return False
    return True


def _tell(blocks: Iterable[Block], files: Mapping[Path, Callable[[], str]]) -> bool:
    """Show the report and write the files; False when any of that could not be done."""
    try:
        is_shown = _attempt("the report", partial(show, blocks))
    finally:  # also when its reader has gone
        written = [_attempt(str(path), partial(path.write_text, text(), "utf-8")) for path, text in files.items()]
    return is_shown and all(written)


def _attempt(name: str, write: Callable[[], object]) -> bool:
    """Write; False, and a sentence, where that fails. That a reader has gone is not for us to judge."""
    try:
        write()
    except BrokenPipeError:
        raise
    except OSError as error:
        complain(
            f"error: {name} could not be written: {error.strerror}; make room for it, or have it written elsewhere"
        )
        return False
    return True


def _say(run: Run) -> None:
    click.echo(printable(report.line_of(run)), err=True)
