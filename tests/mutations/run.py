"""Plant one bug after the other, and see that the tests notice: ``python tests/mutations/run.py [NAME …]``.

Each is planted into a copy of the project. The tests that should know are run first; if they pass,
the whole suite is. What survives is printed, and makes the exit status 1. ``--quick`` leaves the
whole suite out. A run of all of them writes ``docs/planted-bugs.md``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from planted import BUGS, Planted

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "planted-bugs.md"
LEAVE = shutil.ignore_patterns(".git", ".venv", ".tox", "__pycache__", "*.db", "*.lq", ".mypy_cache", ".ruff_cache")


def survives(bug: Planted, *, quick: bool) -> bool:
    """Plant *bug* in a copy, and return whether the tests pass all the same."""
    with tempfile.TemporaryDirectory(prefix="lq-mutant-") as folder:
        copy = Path(folder) / "project"
        shutil.copytree(ROOT, copy, ignore=LEAVE)
        file = copy / bug.file
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace(bug.old, bug.new), encoding="utf-8")
        return all(passes(copy, tests) for tests in (bug.suspects, *(() if quick else (("tests",),))))


def passes(copy: Path, tests: tuple[str, ...], *, show: bool = False) -> bool:
    """Run tests in *copy*, until one fails; *show* what they say."""
    path = os.pathsep.join([str(copy), str(copy / "cli"), os.environ.get("PYTHONPATH", "")])
    plain = ["--ignore=tests/project/test_mutations.py", "-p", "no:cacheprovider"]  # that one would know every bug
    command = [sys.executable, "-m", "pytest", "-n", "2", "-q", "-x", *plain, *tests]
    said = None if show else subprocess.DEVNULL
    done = subprocess.run(command, cwd=copy, env={**os.environ, "PYTHONPATH": path}, stdout=said, check=False)
    return done.returncode == 0


def page(survivors: Collection[str], seconds: Mapping[str, float]) -> str:
    """Return the last result as a page."""
    lines = [
        "# Planted bugs", "",
        "Each is planted into a copy of the project, one at a time; the tests must notice. They are written from the design's",
        "promises and the mechanisms' own texts. This is the last result of `tox -e mutations`.", "",
        f"{len(BUGS) - len(survivors)} of {len(BUGS)} are caught.", "", "| bug | breaks | where | result |", "|---|---|---|---|",
    ]  # fmt: skip
    for bug in BUGS:
        result = "survived" if bug.name in survivors else f"caught in {seconds[bug.name]:.0f} s"
        lines.append(f"| {bug.name} | {bug.breaks} | {bug.file} | {result} |")
    return "\n".join([*lines, ""])


def main() -> int:
    """Plant them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="of the bugs [all]")
    parser.add_argument("--quick", action="store_true", help="run only the tests that should know")
    given = parser.parse_args()
    bugs = [bug for bug in BUGS if not given.names or bug.name in given.names]
    if not passes(ROOT, tuple(sorted({test for bug in bugs for test in bug.suspects})), show=True):
        sys.exit("the tests fail already without a bug: nothing could be learned")
    survivors: list[str] = []
    seconds: dict[str, float] = {}
    for bug in bugs:
        started = time.monotonic()
        alive = survives(bug, quick=given.quick)
        survivors += [bug.name] if alive else []
        seconds[bug.name] = time.monotonic() - started
        print(f"{'SURVIVED' if alive else 'caught  '}  {bug.name}  ({time.monotonic() - started:.0f} s)", flush=True)
    if len(bugs) == len(BUGS):
        PAGE.write_text(page(survivors, seconds), encoding="utf-8")
    print(f"{len(survivors)} survived" + (f": {', '.join(survivors)}" if survivors else ""))
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
