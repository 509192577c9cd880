"""The code of the user's document. It has no fences: a paragraph that is Python is code."""

from __future__ import annotations

import ast
from pathlib import Path

from msgspec import Struct

SEED = Path(__file__).parents[2] / "docs" / "seed.md"


class Block(Struct, frozen=True):
    """A run of code, and the line of prose or the heading before it."""

    code: str
    after: str


def read_blocks(path: Path = SEED) -> list[Block]:
    """Return the blocks in order; adjacent paragraphs of code are one block."""
    blocks: list[Block] = []
    prose = ""
    is_code = False
    for paragraph in _paragraphs(path.read_text()):
        if not _is_code(paragraph):
            prose, is_code = paragraph, False
        elif is_code and blocks:
            blocks[-1] = Block(f"{blocks[-1].code}\n\n{paragraph}", blocks[-1].after)
        else:
            blocks.append(Block(paragraph, prose))
            is_code = True
    return blocks


def _paragraphs(text: str) -> list[str]:
    """Split at blank lines; a line that is indented belongs to what is before it."""
    parts: list[str] = []
    for part in text.split("\n\n"):
        clean = part.strip("\n")
        if clean.startswith((" ", "\t")) and parts:
            parts[-1] += "\n\n" + clean
        elif clean:
            parts.append(clean)
    return parts


def _is_code(paragraph: str) -> bool:
    try:
        body = ast.parse(paragraph).body
    except SyntaxError:
        return False
    return not all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Name) for node in body)
