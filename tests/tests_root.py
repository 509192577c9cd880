"""Where the checkout is, and its source files."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]


def sources() -> list[Path]:
    """Return the files of both packages."""
    return sorted((ROOT / "litestar_queues").rglob("*.py")) + sorted((ROOT / "cli").rglob("*.py"))
