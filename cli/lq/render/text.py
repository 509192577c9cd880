"""Text that is safe for a terminal, and figures as people read them.

Everything stored passes through ``printable`` before it is printed: rich, and ``print``, pass
escape sequences through, and a job's argument could retitle the window, set the clipboard or
reverse the line.
"""

from __future__ import annotations

import unicodedata

_BIDI = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_BREAKS = frozenset("\u2028\u2029\ufeff")


def printable(text: object, *, lines: bool = False) -> str:
    """Return *text* with every control, bidirectional and unassigned-surrogate character made visible.

    With *lines*, newlines and tabs stay.
    """
    shown = str(text)
    if shown.isascii() and shown.isprintable():
        return shown
    return "".join(_visible(character, lines=lines) for character in shown)


def is_number(text: str) -> bool:
    """Say whether *text* is a whole number in ASCII digits; ``"²".isdigit()`` is true, and ``int`` refuses it."""
    return text.isascii() and text.isdigit()


def duration(seconds: float) -> str:
    """Return a duration in two figures: ``412ms``, ``1.2s``, ``1m04s``, ``2h05m``, ``3d04h``."""
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if seconds < 0.0995:
        return f"{seconds * 1000:.3g}ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    for name, size, below, inner in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size}{name}{whole % size // inner:02d}{below}"
    return f"{whole}s"


def ago(seconds: float) -> str:
    """Return an age in one figure: ``now``, ``12s ago``, ``4m ago``, ``3h ago``, ``2d ago``."""
    if seconds < 1:
        return "now"
    for name, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{name} ago"
    return f"{int(seconds)}s ago"


def size(count: int | None) -> str:
    """Return a number of bytes: ``512 B``, ``64.2 MiB``; ``-`` for None."""
    if count is None:
        return "-"
    figure = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if figure < 1024 or unit == "GiB":
            return f"{figure:.0f} {unit}" if unit == "B" else f"{figure:.1f} {unit}"
        figure /= 1024
    msg = "the last unit returns"
    raise AssertionError(msg)


def _visible(character: str, *, lines: bool) -> str:
    if lines and character in "\n\t":
        return character
    if character in _BIDI or character in _BREAKS or unicodedata.category(character) in ("Cc", "Cs", "Co", "Cn"):
        return character.encode("unicode_escape").decode()
    return character
