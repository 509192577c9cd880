"""The census's tasks: what a worker runs. A master serves them with ``lq worker --import lq.census.tasks``."""

from __future__ import annotations

import ast
import logging
import sysconfig
import warnings
from collections import deque
from itertools import repeat
from pathlib import Path

import msgspec

from litestar_queues import INJECTED, TaskExecutionContext, task

LIBRARY = Path(sysconfig.get_paths()["stdlib"])
MODULES = "(modules)"
"""What stands for all modules that are in no package."""
KEPT = 5
"""Longest functions kept of each package."""
_log = logging.getLogger("lq.census")


class Longest(msgspec.Struct, frozen=True, order=True):
    """A function and how many lines it has."""

    lines: int
    name: str
    place: str


class Count(msgspec.Struct, frozen=True):
    """What one package holds."""

    package: str
    files: int
    unparsed: int
    lines: int
    functions: int
    classes: int
    longest: list[Longest]


def packages() -> list[str]:
    """Return the names of what lies at the top of the standard library: packages, and single modules as one."""
    return [*sorted(path.parent.name for path in LIBRARY.glob("*/__init__.py")), MODULES]


def files_of(package: str) -> list[Path]:
    """Return the source files of a package, those of its subpackages too."""
    return sorted(LIBRARY.glob("*.py") if package == MODULES else (LIBRARY / package).rglob("*.py"))


@task("census.count", queue="census", timeout=300, retries=1)
def count(package: str, _task_context: TaskExecutionContext = INJECTED) -> Count:
    """Parse every file of a package and count what is in it; report progress file by file."""
    files = files_of(package)
    totals = {"lines": 0, "functions": 0, "classes": 0}
    longest: list[Longest] = []
    unparsed = 0
    for done, file in enumerate(files, start=1):
        tree = _parse(file, totals)
        if tree is None:
            unparsed += 1
        else:
            longest = _take_stock(tree, file, totals, longest)
        _task_context.progress_sync(done, len(files), message=str(file.relative_to(LIBRARY)))
    return Count(package, len(files), unparsed, **totals, longest=longest)


@task("census.hang", queue="census", timeout=2, kill_grace=0.5)
def hang() -> None:
    """Loop without end in C, holding the interpreter's lock: nothing in this process runs any more."""
    _log.info("about to hang in C code, which no exception can reach")
    deque(repeat(None), maxlen=0)


@task("census.flaky", queue="census", retries=3, retry_backoff=0.3)
def flaky(_task_context: TaskExecutionContext = INJECTED) -> str:
    """Fail twice, then succeed."""
    if _task_context.attempt < 3:
        msg = f"attempt {_task_context.attempt} fails on purpose"
        raise ConnectionError(msg)
    return f"succeeded at attempt {_task_context.attempt}"


def _parse(file: Path, totals: dict[str, int]) -> ast.Module | None:
    try:
        source = file.read_bytes()  # not text: a file may name its own encoding
        totals["lines"] += source.count(b"\n")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old test files warn about their own escapes
            return ast.parse(source)
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        # MemoryError is what the parser says of code that is nested too deep; the tests have such files.
        _log.warning("%s does not parse: %s", file.relative_to(LIBRARY), error)
        return None


def _take_stock(tree: ast.Module, file: Path, totals: dict[str, int], longest: list[Longest]) -> list[Longest]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            totals["classes"] += 1
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            totals["functions"] += 1
            size = (node.end_lineno or node.lineno) - node.lineno + 1
            if len(longest) < KEPT or size > longest[-1].lines:
                place = f"{file.relative_to(LIBRARY)}:{node.lineno}"
                longest = sorted([*longest, Longest(size, node.name, place)], reverse=True)[:KEPT]
    return longest
