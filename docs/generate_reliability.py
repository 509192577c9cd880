"""Write ``docs/reliability.md``: which fault is injected by which test, and what that checks.

``python docs/generate_reliability.py`` writes the table from the markers in ``tests/``;
``--run`` runs those tests first and writes their results; ``--check`` fails when the page is not
what the markers say, whatever the results are.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reliability.md"
RESULTS = ROOT / "docs" / "reliability.json"
GROUPS = {"A": ("Workers", 35), "B": ("Master", 20), "C": ("Store", 24), "D": ("Semantics", 23), "F": ("People", 8)}
NOT_YET = {
    "B12": "a blocked event loop: on one host nothing expires (a lock, no lease, shows that a master lives); see B10",
    "B16": "reuse of process numbers: signals go through pidfds; a test would have to exhaust the numbers",
    "B20": "uvloop is the only event loop of the master; Python 3.11, 3.12 and 3.13 by tox",
    "C24": "two SQLite libraries in one process: not detected; documented in how-it-works",
    "D9": "comes with schedules",
    "D10": "comes with schedules",
    "D19": "there are no hooks",
    "D21": "the app's own transaction: documented with PostgreSQL",
    "D22": "comes with pausing and bulk actions",
    "F4": "comes with the dashboard",
    "F5": "comes with the dashboard",
    "F6": "comes with the dashboard",
    "F7": "comes with event streams over HTTP",
}


class Case(NamedTuple):
    """One marker on one test."""

    row: str
    injected: str
    holds: str
    file: str
    test: str


def cases() -> Iterator[Case]:
    """Yield every marker in the tests."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                for decorator in node.decorator_list:
                    if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.fault":
                        row, injected, holds = (ast.literal_eval(argument) for argument in decorator.args)
                        yield Case(row, injected, holds, str(path.relative_to(ROOT)), node.name)


def page(results: dict[str, str]) -> str:
    """Return the page's text."""
    by_row: dict[str, list[Case]] = defaultdict(list)
    for case in cases():
        by_row[case.row].append(case)
    lines = [
        "# Reliability", "",
        "Each row is a fault of the catalogue that the tests inject, and what must hold then. The table is written by",
        "`python docs/generate_reliability.py` from the tests' markers; the results are of the last",
        "`python docs/generate_reliability.py --run`. Every process test starts real masters and kills them for real.", "",
    ]  # fmt: skip
    for letter, (title, count) in GROUPS.items():
        rows = [f"{letter}{number}" for number in range(1, count + 1)]
        covered = sum(row in by_row for row in rows)
        lines += [
            f"## {letter}: {title} ({covered} of {count} rows)",
            "",
            "| row | fault injected | must hold | test | result |",
        ]
        lines += ["|---|---|---|---|---|"]
        for row in rows:
            lines += [_line(case, results) for case in by_row.get(row, [])]
            if row not in by_row:
                lines.append(f"| {row} | – | {NOT_YET[row]} | – | waiting |")
        lines.append("")
    return "\n".join(lines)


def _line(case: Case, results: dict[str, str]) -> str:
    result = results.get(f"{case.file}::{case.test}", "not run")
    name = Path(case.file).stem
    test = f"[{name}](../{case.file}): {case.test.removeprefix('test_').replace('_', ' ')}"
    return f"| {case.row} | {case.injected} | {case.holds} | {test} | {result} |"


def problems() -> list[str]:
    """Return which rows are neither covered nor explained, or both."""
    covered = {case.row for case in cases()}
    every = {f"{letter}{number}" for letter, (_, count) in GROUPS.items() for number in range(1, count + 1)}
    found = [f"{row} is neither covered nor explained" for row in sorted(every - covered - set(NOT_YET))]
    found += [f"{row} is covered, and explained as missing" for row in sorted(covered & set(NOT_YET))]
    found += [f"{row} is no row of the catalogue" for row in sorted(covered - every)]
    return found


def run() -> dict[str, str]:
    """Run the marked tests, and return the result of each by file and name."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        files = sorted({case.file for case in cases()})
        command = [sys.executable, "-m", "pytest", "-n", "2", "-q", f"--junit-xml={report}", *files]
        subprocess.run(command, cwd=ROOT, check=False)
        results: dict[str, str] = {}
        for case in ElementTree.parse(report).iter("testcase"):
            file = case.get("classname", "").replace(".", "/") + ".py"
            name = re.sub(r"\[.*", "", case.get("name", ""))
            kinds = {child.tag for child in case}
            result = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
            key = f"{file}::{name}"
            results[key] = result if results.get(key, "passed") == "passed" else results[key]
    return results


def without_results(text: str) -> str:
    """Return the page without its last column."""
    return re.sub(r"\| (passed|failed|skipped|not run) \|$", "|", text, flags=re.MULTILINE)


def main() -> None:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", action="store_true")
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    found = problems()
    if given.check and not found and without_results(PAGE.read_text(encoding="utf-8")) != without_results(page({})):
        found = ["docs/reliability.md is not what the markers say; run python docs/generate_reliability.py"]
    if found:
        sys.exit("\n".join(found))
    if given.check:
        return
    if given.run:
        RESULTS.write_text(json.dumps(run(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    PAGE.write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    main()
