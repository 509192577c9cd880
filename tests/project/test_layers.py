"""The layers of the design hold: a module imports from its own level or below."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import litestar_queues
from tests_root import ROOT, sources

LEVELS = {
    0: "exceptions clock ids sizes models nodes lifecycle payload options config redaction forms",
    1: "tasks registry enqueuer request store framing wire cell",
    2: "service synchronous results watching immediate events running",
    3: "worker master",
    4: "background plugin",
    5: "lq",
}
LEVEL_OF = {name: level for level, names in LEVELS.items() for name in names.split()}
STRANGERS = {("worker", "master"), ("master", "worker")}
UNKNOWN_TO_THE_MASTER = {"tasks", "registry", "payload", "running", "request"}
FRONT = ROOT / "litestar_queues" / "__init__.py"


def room_of(module: str) -> str | None:
    """Return which part of the program a module belongs to; None for others' modules."""
    head, _, rest = module.partition(".")
    if head != "litestar_queues":
        return "lq" if head == "lq" else None
    # `from litestar_queues import QueueService` is an import of the module that has it.
    name = rest.partition(".")[0]
    return litestar_queues._HOMES.get(name, name) or None


def imports_of(path: Path) -> Iterator[str]:
    """Yield every module a file imports, also inside functions, for type checkers, and by dots."""
    package = list(path.relative_to(ROOT / "cli" if "cli" in path.parts else ROOT).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def own_room(path: Path) -> str:
    relative = path.relative_to(ROOT)
    return "lq" if relative.parts[0] == "cli" else Path(relative.parts[1]).stem


@pytest.mark.parametrize(
    "path", [path for path in sources() if path != FRONT], ids=lambda path: str(path.relative_to(ROOT))
)
def test_a_module_imports_from_its_own_level_or_below(path: Path) -> None:
    room = own_room(path)
    assert room in LEVEL_OF, f"{room} has no level; add it to LEVELS"
    for module in imports_of(path):
        other = room_of(module)
        if other is None or other.startswith("__"):  # __version__ is of no level
            continue
        assert other in LEVEL_OF, f"{path} imports {module}, which has no level; add it to LEVELS"
        assert LEVEL_OF[other] <= LEVEL_OF[room], f"{path} imports {module}, which is above it"
        assert (room, other) not in STRANGERS, f"{path} imports {module}: they meet only through wire and cell"
        if room == "master":
            assert other not in UNKNOWN_TO_THE_MASTER, f"{path} imports {module}: the master decodes no user data"


def test_the_table_of_public_names_imports_nothing_by_itself() -> None:
    for node in ast.parse(FRONT.read_text()).body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or "."]
            assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names
