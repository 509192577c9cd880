"""``./run``: sets up once, says in words what is missing, and tells no log where packages come from."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests_root import ROOT

TOOLS = ["sh", "cat", "cksum", "dirname", "mkdir", "cp", "rm", "sed"]

STAND_IN = """#!/bin/sh
# A Python that is new enough, makes environments of itself, and writes down what it was asked.
echo "$*" >>"$ASKED"
case "$*" in
    "-c import sys"*) echo "$0" ;;
    "-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    "-m pip install"*) [ -z "$BROKEN" ] || { printf "%b" "$BROKEN"; exit 1; } ;;
esac
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkout with ``run`` and ``pyproject.toml``, and a PATH that holds no Python."""
    for name in ("run", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (tmp_path / "bin" / tool).symlink_to(found)
    return tmp_path


def add_python(folder: Path) -> None:
    (folder / "bin" / "python3").write_text(STAND_IN)
    (folder / "bin" / "python3").chmod(0o755)


def run(folder: Path, *arguments: str, broken: str = "") -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(folder / "bin"), "ASKED": str(folder / "asked"), "BROKEN": broken}
    command = [str(folder / "run"), *arguments]
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment, timeout=60, check=False
    )


def asked(folder: Path) -> list[str]:
    return (folder / "asked").read_text().splitlines()


def test_without_a_command_it_explains_itself_and_a_wrong_one_is_refused(folder: Path) -> None:
    assert "./run demo" in run(folder).stdout
    wrong = run(folder, "dmeo")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "./run demo" in wrong.stderr


def test_without_a_python_it_says_which_are_new_enough(folder: Path) -> None:
    done = run(folder, "demo")
    assert done.returncode == 1
    assert "no Python 3.11 or newer was found; install one, or name it" in done.stderr


def test_it_installs_once_and_again_when_the_project_has_changed(folder: Path) -> None:
    add_python(folder)
    for command, runs in [("test", "-m pytest -n 2 -q -k x"), ("demo", "-m lq demo -k x"), ("lq", "-m lq -k x")]:
        done = run(folder, command, "-k", "x")
        assert done.returncode == 0, done.stderr
        assert asked(folder)[-1] == runs
    assert sum("pip install" in line for line in asked(folder)) == 1
    with (folder / "pyproject.toml").open("a") as project:
        project.write("# changed\n")
    run(folder, "test")
    assert sum("pip install" in line for line in asked(folder)) == 2


def test_a_failed_install_is_told_without_hosts_and_tried_again(folder: Path) -> None:
    add_python(folder)
    secret = (
        "WARNING: Retrying after host='index.secret'\\n"
        "ERROR: 404 for https://user:word@index.secret/simple, and host='index.secret'\\n"
    )
    done = run(folder, "test", broken=secret)
    assert done.returncode == 1
    assert "ERROR: 404" in done.stderr
    assert "could not be installed" in done.stderr
    assert "secret" not in done.stderr + done.stdout
    assert run(folder, "test").returncode == 0


def test_ci_runs_the_tests_from_any_folder(folder: Path) -> None:
    add_python(folder)
    (folder / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", folder / ".ci")
    environment = {"PATH": str(folder / "bin"), "ASKED": str(folder / "asked"), "BROKEN": "", "CI": "true"}
    done = subprocess.run(
        [folder / ".ci" / "run"], cwd=os.sep, stdin=subprocess.DEVNULL, env=environment, timeout=60, check=False
    )
    assert done.returncode == 0
    assert asked(folder)[-1] == "-m pytest -n 2 -q"
