"""``lq worker``: serve jobs until told to stop."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import click
import uvloop

from litestar_queues import config
from litestar_queues.exceptions import FINAL_REFUSALS, QueueConfigurationError
from litestar_queues.master.planning import PoolOptions
from litestar_queues.master.supervisor import BootError, Master, MasterOptions
from litestar_queues.master.surroundings import open_standard_descriptors
from lq import exits
from lq.notices import LEVELS, Printer
from lq.render.page import complain
from lq.render.text import is_number

_CANDIDATES = ("app", "application")


@click.command(short_help="Serve jobs until told to stop.")
@click.option("--app", metavar="MODULE:ATTR", help="The application; else LITESTAR_APP, pyproject.toml, app.py.")
@click.option(
    "--import",
    "imports",
    metavar="MODULE",
    multiple=True,
    help="Serve this module's tasks, and no app but that of --app.",
)
@click.option("-c", "--concurrency", type=click.IntRange(min=1), help="Processes of the default pool [one per CPU].")
@click.option("-q", "--queues", metavar="A,B", help="Serve these queues and no others.")
@click.option(
    "--pool", "pools", metavar="NAME=N", multiple=True, help="Processes of a pool that the application names."
)
@click.option(
    "--drain-timeout",
    type=click.FloatRange(min=0),
    metavar="S",
    help="Seconds running jobs get at the end; else the app's [30].",
)
@click.option("--url", envvar=config.URL_VARIABLE, metavar="URL", help="The store; else the application's.")
@click.option("--log-level", type=click.Choice(LEVELS), default="info", help="What jobs log is shown from here up.")
def worker(
    app: str | None,
    imports: tuple[str, ...],
    concurrency: int | None,
    queues: str | None,
    pools: tuple[str, ...],
    drain_timeout: float | None,
    url: str | None,
    log_level: str,
) -> None:
    """Serve jobs until told to stop.

    \b
    Examples:
      lq worker --app app:app --concurrency 4
      lq worker --queues mail,reports
      lq worker --import myproject.tasks --url sqlite:///jobs.db

    SIGTERM or Ctrl-C finishes the running jobs; a second one hands them back at once.
    Exit status: 0 stopped in good order; 4 the app or the store cannot be used; 8 jobs were handed back;
    75 the database was deleted, replaced or damaged meanwhile, or writing to it has ended by a defect: start again.
    """  # noqa: D301 (click reads the backspace)
    import litestar_queues

    open_standard_descriptors()
    version = litestar_queues.__version__
    options = MasterOptions(
        app=_find_app(app, imports),
        imports=imports,
        folder=str(Path.cwd()),
        url=config.resolve_url(url) if url else None,
        pools=PoolOptions(concurrency, _split(queues), _sizes(pools)),
        drain_timeout=drain_timeout,
        version=version,
    )
    raise SystemExit(_serve(options, Printer(level=log_level, version=version)))


def _serve(options: MasterOptions, printer: Printer) -> int:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            try:
                farewell = runner.run(Master(options, printer).run())
            finally:
                printer.flush()
        except BootError as error:
            if error.report is not None and error.report.traceback:
                complain(error.report.traceback.rstrip())
            raise
        except FINAL_REFUSALS as error:
            if not printer.has_started:
                raise
            complain(f"error: {error}")
            return exits.STORE_GONE
    if farewell.problems:
        msg = f"no worker could be started; {'; '.join(farewell.problems)}"
        raise QueueConfigurationError(msg)
    return exits.HANDED_BACK if farewell.handed_back else exits.OK


def _find_app(given: str | None, imports: tuple[str, ...]) -> str | None:
    """Return the application to import, without importing it; None when only modules are served.

    Who names modules and no application has none looked for: one that happens to lie here may not even import.
    """
    if given or imports:
        return given
    settings = config.project_settings()
    named = os.environ.get(config.APP_VARIABLE) or settings.app
    if named:
        return named
    for name in _CANDIDATES:
        if Path(f"{name}.py").is_file() or Path(name, "__init__.py").is_file():
            return name
    msg = (
        "there is no application to serve here; give --app MODULE:ATTR, set LITESTAR_APP, "
        "or serve a module's tasks with --import MODULE"
    )
    raise QueueConfigurationError(msg)


def _split(queues: str | None) -> tuple[str, ...] | None:
    if queues is None:
        return None
    names = tuple(name.strip() for name in queues.split(",") if name.strip())
    if not names:
        msg = "--queues names no queue; give names separated by commas, or leave it out"
        raise click.UsageError(msg)
    return tuple(config.check_name("--queues", name) for name in names)


def _sizes(pools: tuple[str, ...]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for given in pools:
        name, _, number = given.partition("=")
        if not name or not is_number(number) or int(number) < 1:
            msg = f"--pool {given!r} is not NAME=N with N a whole number, 1 or more"
            raise click.UsageError(msg)
        sizes[name] = int(number)
    return sizes
