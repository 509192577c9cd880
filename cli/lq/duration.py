"""Durations as people type them."""

from __future__ import annotations

import re
from typing import Any

import click

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


class Duration(click.ParamType):  # type: ignore[type-arg]  # generic in newer releases only
    """A duration: ``30``, ``30s``, ``10m``, ``2h``, ``1d``."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?", str(value))
        if match is None:
            self.fail(f"{value!r} is not a duration; write 30s, 10m, 2h or 1d", param, ctx)
        return float(match[1]) * _UNITS[match[2] or "s"]
