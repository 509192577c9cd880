"""What the options of ``lq bench`` take: refused at the door is what would be found out after minutes of measuring."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import click

_A_DAY = 86_400.0
"""Seconds. The kernel waits for 24 days at most; who measures has less patience."""


class Seconds(click.FloatRange):
    """So many seconds at least, and no more than a day."""

    def __init__(self, least: float) -> None:
        super().__init__(min=least, max=_A_DAY)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number; NaN, which is below and above nothing, is none."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is no number of seconds; give one from {self.min:g} to {self.max:g}", param, ctx)
        return number


class Output(click.Path):
    """A file that can be written, as far as that shows before it is: the disk may be full by then."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, writable=True, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path; a file that is not there needs a folder in which it can be made."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        folder = path.absolute().parent
        if not os.path.isdir(folder):  # False also where nobody may look, which pathlib raises
            self.fail(f"there is no folder {folder}; make it, or name another file", param, ctx)
        if not os.path.exists(path) and not os.access(folder, os.W_OK):
            self.fail(f"no file can be written in {folder}; allow it, or name another", param, ctx)
        return path


WORKPLACE = click.Path(exists=True, file_okay=False, writable=True, resolve_path=True, path_type=Path)
"""A folder in which files are made; whole, for those who work in it have a folder of their own."""
PEERS = click.Path(exists=True, file_okay=False, path_type=Path)
ENVIRONMENTS = click.Path(file_okay=False, path_type=Path)
"""Not there before the first peer is set up."""
