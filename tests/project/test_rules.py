"""Rules that hold for all of the source: sizes, what is never called, what importing costs, public names."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import litestar_queues
from tests_root import ROOT, sources

EXECUTES_DATA = {"pickle", "marshal", "dill", "shelve", "cloudpickle", "yaml", "code", "codeop", "runpy", "imp"}
"""Modules that nothing here needs, and that run, or import, what a text says."""
EXECUTES_TEXT = {"eval", "exec", "compile", "__import__"}
IMPORTS_BY_NAME = {"importlib", "import_module", "resolve_name", "find_spec", "spec_from_file_location"}
MAY_IMPORT_BY_NAME = {
    "litestar_queues/worker/application.py",  # the name is from the command line or the project's settings
    "litestar_queues/__init__.py",  # the table of public names
    "cli/lq/__main__.py",  # the table of commands
}
HARMLESS = {"importlib.metadata"}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield what a file imports: the module, and the name taken from it where there is one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)


@pytest.mark.parametrize("path", sources(), ids=relative)
def test_a_file_fits_on_a_few_screens(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def could_execute(source: str, *, may_import_by_name: bool = False) -> Iterator[str]:
    """Yield what in *source* could run what a text says, or import what it names."""
    tree = ast.parse(source)
    for module, name in imported(tree):
        if module.partition(".")[0] in EXECUTES_DATA:
            yield f"imports {module}"
        if module == "builtins":
            yield f"imports {module}, which hides what it calls"
        if {module, name} & IMPORTS_BY_NAME and module not in HARMLESS and not may_import_by_name:
            yield f"imports {module} {name}: it could import by a name"
    for node in ast.walk(tree):
        # The bare names only: re.compile and a codec of that name are others' words.
        if isinstance(node, ast.Name) and node.id in EXECUTES_TEXT | {"__builtins__"}:
            yield f"line {node.lineno} uses {node.id}"
        if isinstance(node, ast.Attribute) and node.attr in IMPORTS_BY_NAME and not may_import_by_name:
            yield f"line {node.lineno} uses {node.attr}"


@pytest.mark.parametrize("path", sources(), ids=relative)
def test_nothing_stored_could_be_executed(path: Path) -> None:
    may = relative(path) in MAY_IMPORT_BY_NAME
    assert list(could_execute(path.read_text(), may_import_by_name=may)) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from marshal import loads",
        "import dill as codec",
        "import shelve",
        "import yaml\nyaml.load(text)",
        "eval(text)",
        "exec(text)",
        "run = eval",
        "compile(text, '', 'exec')",
        "__import__(name)",
        "import importlib\nimportlib.import_module(name)",
        "from importlib import import_module",
        "from pkgutil import resolve_name",
        "import pkgutil\npkgutil.resolve_name(name)",
        "import builtins\nbuiltins.eval(text)",
        "__builtins__['eval'](text)",
        "import runpy",
        "def later():\n    import pickle",
    ],
)
def test_the_rule_against_executing_what_is_stored_finds(source: str) -> None:
    assert list(could_execute(source)) != []


SQL_METHODS = {"execute", "executemany", "execute_fetchall", "rows", "change", "json", "run"}


@pytest.mark.parametrize("path", [path for path in sources() if "sqlite" in path.parts], ids=relative)
def test_values_reach_sqlite_as_parameters_alone(path: Path) -> None:
    """A statement is a constant, or put together in its module from constants; what comes from a caller never is in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        given = {argument.arg for argument in [*node.args.args, *node.args.kwonlyargs]} - {"self", "cls"}
        for call in ast.walk(node):
            is_sql = (
                isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in SQL_METHODS
            )
            if not is_sql or not call.args:
                continue
            named = {each.id for each in ast.walk(call.args[0]) if isinstance(each, ast.Name)}
            is_handed_on = isinstance(call.args[0], ast.Name)  # by a function whose own parameter is the statement
            assert is_handed_on or not named & given, f"{relative(path)}:{call.lineno} puts {named & given} into SQL"


@pytest.mark.parametrize("path", sources(), ids=relative)
def test_no_error_is_swallowed(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler) and isinstance(node.body[0], ast.Pass):
            kinds = {"BaseException"} if node.type is None else set(ast.unparse(node.type).strip("()").split(", "))
            assert not kinds & {"Exception", "BaseException"}, f"{path}:{node.lineno}"


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    "what",
    [
        "import litestar_queues",
        "from litestar_queues import task, QueueService, QueueConfig, TaskResult",
        "import lq.__main__, lq.inspect, lq.overview, lq.jobpage, lq.enqueue",
        "import litestar_queues.master.supervisor",
    ],
)
def test_litestar_is_not_imported_by(what: str) -> None:
    loaded = "sorted(name for name in sys.modules if name.split('.')[0] == 'litestar')"
    assert run(f"import sys; {what}; print({loaded})") == "[]"


def test_every_public_name_can_be_imported_and_the_list_is_sorted() -> None:
    names = litestar_queues.__all__
    assert list(names) == sorted(names)
    for name in names:
        assert hasattr(litestar_queues, name)
    star = run("from litestar_queues import *; print(callable(task), QueuePlugin.__name__)")
    assert star == "True QueuePlugin"


def test_the_decorator_is_not_hidden_by_a_module() -> None:
    program = (
        "import litestar_queues.tasks, litestar_queues.plugin; from litestar_queues import task; print(callable(task))"
    )
    assert run(program) == "True"


def test_the_wheel_holds_both_packages_and_their_data(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    build = f"WheelBuilder({str(ROOT)!r}).build(directory={str(tmp_path)!r})"
    program = f"from hatchling.builders.wheel import WheelBuilder; print(*{build})"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    [wheel] = done.stdout.split()
    names = set(zipfile.ZipFile(wheel).namelist())
    needed = {
        "litestar_queues/py.typed",
        "litestar_queues/store/sqlite/schema.sql",
        "lq/__main__.py",
        "lq/census/tasks.py",
    }
    assert needed <= names
    assert not {name for name in names if name.startswith(("cli/", "tests/"))}
