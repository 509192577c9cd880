"""A page reaches whatever the output is, and where there is none it is no error."""

from __future__ import annotations

import io
import sys

import pytest

from lq.render.page import Heading, Table, complain, show, status_cell, write_json


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_a_page_is_written_whatever_the_encoding(errors: str) -> None:
    for is_terminal in (False, True):
        out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors=errors)
        out.isatty = lambda is_terminal=is_terminal: is_terminal  # type: ignore[method-assign]  # a terminal in a test
        show([Heading("µ"), Table(("×",), (("–",),))], out)
        out.seek(0)
        assert "\\xb5" in out.read()


def test_nothing_is_written_where_there_is_no_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    show([Heading("unheard")])
    write_json({})
    complain("unheard")
    assert status_cell("failed").text == "x failed"
