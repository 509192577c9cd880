"""The program itself: help without imports, its version, its twin in Litestar's command line."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_help_lists_every_command_and_imports_none_of_them() -> None:
    program = "import sys; from lq.__main__ import make_group\ntry: make_group()(['-h'])\nexcept SystemExit: pass\n"
    done = run(sys.executable, "-c", program + "print([name for name in sys.modules if name.startswith('lq.')])")
    for name in ("worker", "inspect", "enqueue", "bench", "demo"):
        assert f"\n  {name}" in done.stdout
    assert done.stdout.splitlines()[-1] in ("['lq.__main__', 'lq.exits']", "['lq.exits', 'lq.__main__']")


def test_a_wrong_command_suggests_the_right_one_and_exits_with_2() -> None:
    done = run(sys.executable, "-m", "lq", "inspct")
    assert done.returncode == 2
    assert "did you mean 'inspect'?" in done.stderr


def test_the_version_is_the_distributions() -> None:
    from importlib.metadata import version

    assert run(sys.executable, "-m", "lq", "--version").stdout == f"lq {version('litestar-lq')}\n"


def test_litestars_command_line_carries_the_same_commands(tmp_path: Path) -> None:
    [entry] = [each for each in entry_points(group="litestar.commands") if each.name == "queues"]
    group = entry.load()
    import click

    assert set(group.list_commands(click.Context(group))) == {"worker", "inspect", "enqueue", "prune", "bench", "demo"}


@pytest.mark.parametrize("command", ["worker", "inspect", "enqueue", "prune", "bench", "demo"])
def test_each_command_explains_itself(command: str) -> None:
    done = run(sys.executable, "-m", "lq", command, "--help")
    assert done.returncode == 0
    assert "Usage: lq " + command in done.stdout
