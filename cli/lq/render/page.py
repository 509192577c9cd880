"""A page: headings, pairs, tables and blocks of text; for a terminal, or plain for a pipe.

On a terminal rich draws it, within its width. In a pipe every value is whole, tab-separated and
without colour. All text passes through ``printable`` here, at the edge. What the output's encoding
lacks is written as an escape, and where there is no output (``>&-``) nothing is: neither is a reason
to lose what was to be shown.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable
from typing import Any, TextIO

from msgspec import Struct

from lq.render.text import printable


class Cell(Struct, frozen=True):
    """A value and its style."""

    text: str
    style: str = ""


class Heading(Struct, frozen=True):
    """The title of what follows, and a word about it."""

    text: str
    aside: str = ""


class Pairs(Struct, frozen=True):
    """Names and values, a line each."""

    rows: tuple[tuple[str, Any], ...]


class Table(Struct, frozen=True):
    """Columns and rows; names of columns that hold figures are right-aligned."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    figures: frozenset[str] = frozenset()


class Lines(Struct, frozen=True):
    """A block of text, line by line: a traceback, a stack."""

    text: str


Block = Heading | Pairs | Table | Lines

STATUS_STYLES = {
    "running": ("●", "*", "cyan"),
    "pending": ("○", ".", ""),
    "scheduled": ("◷", "@", "blue"),
    "completed": ("✓", "+", "green"),
    "failed": ("✗", "x", "red"),
    "cancelled": ("⊘", "-", "magenta"),
    "expired": ("⌛", "!", "yellow"),
}


def status_cell(status: str, stream: TextIO | None = None) -> Cell:
    """Return a status as sign and word: it is never colour alone."""
    sign, plain, style = STATUS_STYLES[status]
    encoding = (getattr(stream or sys.stdout, "encoding", None) or "").lower()
    return Cell(f"{sign if encoding.startswith('utf') else plain} {status}", style)


def show(blocks: Iterable[Block], stream: TextIO | None = None) -> None:
    """Write *blocks* to *stream* (standard output when None)."""
    out = _output(stream)
    if out is None:
        return
    if out.isatty():
        _show_rich(blocks, out)
    else:
        for block in blocks:
            for line in _plain(block):
                out.write(line + "\n")
        out.flush()


def _output(stream: TextIO | None) -> TextIO | None:
    """Return where to write, able to write everything; None where standard output was closed before we began."""
    out: TextIO | None = stream or sys.stdout
    # surrogateescape, what Python takes in the C locale, refuses a µ as strict does.
    if isinstance(out, io.TextIOWrapper) and out.errors in ("strict", "surrogateescape"):
        out.reconfigure(errors="backslashreplace")
    return out


def _plain(block: Block) -> Iterable[str]:
    match block:
        case Heading():
            yield "\t".join(filter(None, ["# " + printable(block.text), printable(block.aside)]))
        case Pairs():
            for name, value in block.rows:
                yield f"{name}\t{_text(value)}"
        case Table():
            yield "\t".join(block.columns)
            for row in block.rows:
                yield "\t".join(_text(value) for value in row)
        case Lines():
            yield from printable(block.text, lines=True).splitlines()


def _show_rich(blocks: Iterable[Block], out: TextIO) -> None:
    from rich.console import Console

    console = Console(file=out, highlight=False, emoji=False, markup=False, soft_wrap=False)
    for block in blocks:
        console.print(_rich(block))


def _rich(block: Block) -> Any:
    from rich.console import Group
    from rich.padding import Padding
    from rich.table import Table as RichTable
    from rich.text import Text

    match block:
        case Heading():
            return Group(Text(), Text(printable(block.text), style="bold"), Text(printable(block.aside), style="dim"))
        case Pairs():
            grid = RichTable.grid(padding=(0, 2))
            grid.add_column(style="dim", no_wrap=True)
            grid.add_column(overflow="fold")
            for name, value in block.rows:
                grid.add_row(name, _rich_text(value))
            return grid
        case Table():
            return _rich_table(block)
        case Lines():
            return Padding(Text(printable(block.text, lines=True), overflow="fold"), (0, 0, 0, 2))


def _rich_table(block: Table) -> Any:
    from rich.table import Table as RichTable

    table = RichTable(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for index, column in enumerate(block.columns):
        is_figure = column in block.figures
        is_last = index == len(block.columns) - 1
        table.add_column(
            column,
            justify="right" if is_figure else "left",
            no_wrap=not is_last,
            overflow="fold" if is_last else "ellipsis",
        )
    for row in block.rows:
        table.add_row(*(_rich_text(value) for value in row))
    return table


def _rich_text(value: Any) -> Any:
    from rich.text import Text

    style = value.style if isinstance(value, Cell) else ""
    return Text(_text(value), style=style)


def _text(value: Any) -> str:
    if value is None or value == "":
        return "-"
    return printable(value.text if isinstance(value, Cell) else value)


def write_json(document: Any, stream: TextIO | None = None) -> None:
    """Write *document* as ``json_text`` to *stream* (standard output when None)."""
    out = _output(stream)
    if out is not None:
        out.write(json_text(document))
        out.flush()


def json_text(document: Any) -> str:
    """Return *document* as one JSON text: ASCII only, so that no terminal acts on what is in it."""
    import json
    from datetime import datetime
    from uuid import UUID

    def plain(value: Any) -> Any:
        if isinstance(value, datetime):
            return value.isoformat().replace("+00:00", "Z")
        if isinstance(value, UUID):
            return str(value)
        msg = f"{type(value).__name__} has no JSON form here"
        raise TypeError(msg)

    return json.dumps(document, default=plain, indent=2, ensure_ascii=True) + "\n"


def complain(text: str) -> None:
    """Write *text* to standard error, made harmless: it may quote what is stored, or what the application said."""
    if sys.stderr is not None:  # it may be closed
        sys.stderr.write(printable(text, lines=True) + "\n")
        sys.stderr.flush()
