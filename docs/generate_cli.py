"""Write docs/cli.md from the ``--help`` of every command; with --check, only say whether it is fresh."""

from __future__ import annotations

import sys
from pathlib import Path

from click.testing import CliRunner

from lq.__main__ import COMMANDS, make_group

PAGE = Path(__file__).parent / "cli.md"


def page() -> str:
    """Return the reference as Markdown."""
    parts = ["# Commands", "", "Generated from `--help` by `docs/generate_cli.py`.", "", _help_of()]
    for name in COMMANDS:
        parts += ["", f"## lq {name}", "", _help_of(name)]
    return "\n".join(parts) + "\n"


def _help_of(*command: str) -> str:
    # Run as a user runs it, so that what the group hands down to its commands (-h) is there too.
    width = {"terminal_width": 100, "max_content_width": 100}
    done = CliRunner().invoke(make_group(), [*command, "--help"], prog_name="lq", catch_exceptions=False, **width)
    if done.exit_code != 0:
        sys.exit(f"lq {' '.join(command)} --help ended with status {done.exit_code}: {done.output}")
    return f"```\n{done.output.rstrip()}\n```"


if __name__ == "__main__":
    fresh = page()
    if "--check" in sys.argv:
        sys.exit(0 if PAGE.read_text() == fresh else "docs/cli.md is stale: run python docs/generate_cli.py")
    PAGE.write_text(fresh)
