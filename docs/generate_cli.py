"""Write docs/cli.md from the ``--help`` of every command; with --check, only say whether it is fresh."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from lq.__main__ import COMMANDS, make_group

PAGE = Path(__file__).parent / "cli.md"


def page() -> str:
    """Return the reference as Markdown."""
    group = make_group()
    parts = ["# Commands", "", "Generated from `--help` by `docs/generate_cli.py`.", "", _block("lq", group, None)]
    with click.Context(group, info_name="lq", auto_envvar_prefix="LQ") as context:
        for name in COMMANDS:
            command = group.get_command(context, name)
            assert command is not None
            parts += ["", f"## lq {name}", "", _block(name, command, context)]
    return "\n".join(parts) + "\n"


def _block(name: str, command: click.Command, parent: click.Context | None) -> str:
    settings = {"terminal_width": 100, "max_content_width": 100}
    with click.Context(command, info_name=name, parent=parent, **settings) as context:
        return f"```\n{command.get_help(context)}\n```"


if __name__ == "__main__":
    fresh = page()
    if "--check" in sys.argv:
        sys.exit(0 if PAGE.read_text() == fresh else "docs/cli.md is stale: run python docs/generate_cli.py")
    PAGE.write_text(fresh)
