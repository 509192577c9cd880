"""The program ``lq``: a group whose commands are imported when they are run."""

from __future__ import annotations

import io
import os
import signal
import sys
import traceback
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import click

from litestar_queues.exceptions import JobNotFound, QueueError, UnknownTaskError
from lq import exits

COMMANDS = {
    "worker": ("lq.worker", "worker", "Serve jobs until told to stop."),
    "inspect": ("lq.inspect", "inspect", "Show queues, workers and failures, or one job."),
    "enqueue": ("lq.enqueue", "enqueue", "Enqueue a task by its name."),
    "prune": ("lq.prune", "prune", "Delete jobs that ended long enough ago."),
    "bench": ("lq.bench.command", "bench", "Measure how fast it is on this machine."),
    "demo": ("lq.demo", "demo", "Take a census of the standard library, and see a job killed."),
}


class LazyGroup(click.Group):
    """Knows its commands by name, and imports one when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order they are best read."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        """Import and return a command."""
        if cmd_name not in COMMANDS:
            near = get_close_matches(cmd_name, COMMANDS, n=1)
            ctx.fail(f"there is no command {cmd_name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        module, name, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


def make_group(name: str = "lq") -> click.Group:
    """Return a new group: each host (``lq``, ``litestar queues``) gets its own."""
    return LazyGroup(
        name,
        help="Run and look after the queues of a Litestar app.",
        context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "LQ"},
        params=[click.Option(["--version"], is_flag=True, expose_value=False, is_eager=True, callback=_print_version,
                             help="Show the version and exit.")],
    )  # fmt: skip


def main() -> None:
    """Run ``lq``; every error of ours is one sentence on standard error and an exit status."""
    # A reload that is asked for before a master can hear it would end the process.
    signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        status = make_group()(prog_name="lq", standalone_mode=False)
    except click.exceptions.Exit as done:
        status = done.exit_code
    except click.ClickException as error:
        words = io.StringIO()
        error.show(words)
        _complain(words.getvalue().rstrip())
        status = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        status = exits.INTERRUPTED
    except BrokenPipeError:
        # The reader has gone (head): Python must not complain about that at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = exits.OK
    except QueueError as error:
        _complain(f"error: {error}")
        status = _status_of(error)
    # A defect: its words may hold what is stored, and Python would print them as they are.
    except Exception as error:
        _complain("".join(traceback.format_exception(error)).rstrip())
        status = exits.FAILED
    sys.exit(status if isinstance(status, int) else exits.OK)


def _complain(text: str) -> None:
    from lq.render.page import complain  # not for those who ask for help only

    complain(text)


def _status_of(error: QueueError) -> int:
    return exits.NOT_FOUND if isinstance(error, (JobNotFound, UnknownTaskError)) else exits.UNUSABLE


def _print_version(context: click.Context, parameter: click.Parameter, is_given: Any) -> None:
    if is_given:
        import litestar_queues

        click.echo(f"lq {litestar_queues.__version__}")
        context.exit()


if __name__ == "__main__":
    main()
