"""Plant one bug after the other, and see that the tests notice: ``python tests/mutations/run.py [NAME …]``.

Each is planted into a copy of the project. The tests that should know are run first; if they pass,
the whole suite is. What survives is printed, and makes the exit status 1. ``--quick`` leaves the
whole suite out. ``docs/planted-bugs.md`` shows the last result of each; ``--page`` writes it anew and plants nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from planted import BUGS, Planted

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "planted-bugs.md"
RESULTS = ROOT / "docs" / "planted-bugs.json"
LEAVE = shutil.ignore_patterns(
    ".git", ".venv", ".bench", ".tox", "__pycache__", "*.db", "*.lq", ".mypy_cache", ".ruff_cache"
)


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


def page(results: Mapping[str, str]) -> str:
    """Return the last results as a page."""
    caught = sum(results.get(bug.name, "").startswith("caught") for bug in BUGS)
    lines = [
        "# Planted bugs", "",
        "Each is planted into a copy of the project, one at a time; the tests must notice. They are written from the design's",
        "promises and the mechanisms' own texts. Each row shows what came of the last time that its bug was planted",
        "(`tox -e mutations`, all of them or some by name).", "",
        f"{caught} of {len(BUGS)} are caught.", "", "| bug | breaks | where | result |", "|---|---|---|---|",
    ]  # fmt: skip
    for bug in BUGS:
        lines.append(f"| {bug.name} | {bug.breaks} | {bug.file} | {results.get(bug.name, 'not planted yet')} |")
    return "\n".join([*lines, ""])


def main() -> int:
    """Plant them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="of the bugs [all]")
    parser.add_argument("--quick", action="store_true", help="run only the tests that should know")
    parser.add_argument("--page", action="store_true", help="plant nothing, and write the page")
    given = parser.parse_args()
    results: dict[str, str] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    if given.page:
        PAGE.write_text(page(results), encoding="utf-8")
        return 0
    bugs = [bug for bug in BUGS if not given.names or bug.name in given.names]
    if not passes(ROOT, tuple(sorted({test for bug in bugs for test in bug.suspects})), show=True):
        sys.exit("the tests fail already without a bug: nothing could be learned")
    survivors: list[str] = []
    for bug in bugs:
        started = time.monotonic()
        alive = survives(bug, quick=given.quick)
        survivors += [bug.name] if alive else []
        took = time.monotonic() - started
        print(f"{'SURVIVED' if alive else 'caught  '}  {bug.name}  ({took:.0f} s)", flush=True)
        results[bug.name] = "survived" if alive else f"caught in {took:.0f} s"
        RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        PAGE.write_text(page(results), encoding="utf-8")
    print(f"{len(survivors)} survived" + (f": {', '.join(survivors)}" if survivors else ""))
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
