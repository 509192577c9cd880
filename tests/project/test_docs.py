"""The documents say what is so: their code runs, the reference is fresh, the commands exist."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest

from litestar_queues.registry import tasks
from tests_root import ROOT

FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


def blocks(page: str, language: str = "python") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


async def run_blocks(page: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    module = ModuleType("documented")
    monkeypatch.setitem(sys.modules, "documented", module)
    namespace = vars(module)
    for index, block in enumerate(blocks(page)):
        code: CodeType = compile(block, f"{page}[{index}]", "exec", flags=FLAGS, dont_inherit=True)
        if code.co_flags & inspect.CO_COROUTINE:
            await eval(code, namespace)
        else:  # no event loop runs where a script does
            await asyncio.to_thread(eval, code, namespace)
    return namespace


@pytest.mark.parametrize("page", ["README.md", "docs/guide.md"])
def test_the_code_of_a_page_runs_in_order(page: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with tasks.isolated():
        namespace = asyncio.run(run_blocks(page, monkeypatch, tmp_path))
    assert len(blocks(page)) >= 1
    assert "app" in namespace


def test_the_command_reference_is_what_help_says() -> None:
    command = [sys.executable, str(ROOT / "docs" / "generate_cli.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("generator", ["reliability", "performance"])
def test_the_tables_are_what_the_tests_inject_and_what_was_measured(generator: str) -> None:
    command = [sys.executable, str(ROOT / "docs" / f"generate_{generator}.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_the_readmes_two_commands_are_there_and_ci_runs_the_tests_by_one_of_them() -> None:
    text = (ROOT / "README.md").read_text()
    assert "./run demo" in text
    assert "./run test" in text
    assert (ROOT / ".ci" / "run").read_text().strip().endswith("exec ./run test")
    assert os.access(ROOT / "run", os.X_OK)


def test_every_link_between_pages_leads_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_decision_is_in_the_index() -> None:
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text()
    for note in folder.glob("[0-9]*.md"):
        assert note.name in index, f"{note.name} is not in docs/decisions/README.md"
