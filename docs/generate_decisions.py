"""Write docs/decisions/README.md from the titles of the notes; with --check, only say whether it is fresh."""

from __future__ import annotations

import re
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / "decisions"
PAGE = FOLDER / "README.md"
HEAD = """# Decisions

Why things are as they are, where the reason is not plain from the code: what was measured, what was tried, what was left.
A new note takes the next number; `docs/generate_decisions.py` writes this list.

"""


def page() -> str:
    """Return the index as Markdown: a line for each note."""
    return HEAD + "".join(
        f"* [{note.name[:3]}]({note.name}): {_title(note)}\n" for note in sorted(FOLDER.glob("[0-9]*.md"))
    )


def _title(note: Path) -> str:
    first = note.read_text().splitlines()[0]
    if not first.startswith("# "):
        sys.exit(f"{note.name} does not begin with a title")
    return re.sub(r"^# (\d+: )?", "", first)


if __name__ == "__main__":
    fresh = page()
    if "--check" in sys.argv:
        sys.exit(
            0
            if PAGE.read_text() == fresh
            else "docs/decisions/README.md is stale: run python docs/generate_decisions.py"
        )
    PAGE.write_text(fresh)
