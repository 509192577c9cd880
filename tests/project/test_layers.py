"""The layers of the design hold: a module imports from its own level or below."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests_root import ROOT, sources

LEVELS = {
    0: "exceptions clock ids models lifecycle payload options config",
    1: "tasks registry enqueuer request store wire cell",
    2: "service results watching immediate events running",
    3: "worker master",
    4: "background plugin",
    5: "lq",
}
LEVEL_OF = {name: level for level, names in LEVELS.items() for name in names.split()}
STRANGERS = {("worker", "master"), ("master", "worker")}
UNKNOWN_TO_THE_MASTER = {"tasks", "registry", "payload", "running", "request"}


def room_of(module: str) -> str | None:
    """Return which part of the program a module belongs to; None for others' modules."""
    parts = module.split(".")
    if parts[0] == "lq":
        return "lq"
    return parts[1] if parts[0] == "litestar_queues" and len(parts) > 1 else None


def imports_of(path: Path) -> Iterator[str]:
    """Yield every module a file imports, also inside functions and for type checkers."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module == "litestar_queues":
                yield from (f"litestar_queues.{alias.name}" for alias in node.names)


def own_room(path: Path) -> str:
    relative = path.relative_to(ROOT)
    return "lq" if relative.parts[0] == "cli" else Path(relative.parts[1]).stem


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_from_its_own_level_or_below(path: Path) -> None:
    if path == ROOT / "litestar_queues" / "__init__.py":
        pytest.skip("the table of public names stands above all, and imports when it is asked")
    room = own_room(path)
    assert room in LEVEL_OF, f"{room} has no level; add it to LEVELS"
    for module in imports_of(path):
        other = room_of(module)
        if other is None or other not in LEVEL_OF:
            continue
        assert LEVEL_OF[other] <= LEVEL_OF[room], f"{path} imports {module}, which is above it"
        assert (room, other) not in STRANGERS, f"{path} imports {module}: they meet only through wire and cell"
        if room == "master":
            assert other not in UNKNOWN_TO_THE_MASTER, f"{path} imports {module}: the master decodes no user data"
