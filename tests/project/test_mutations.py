"""The bugs that are planted to see whether the tests notice still have their place in the code."""

from __future__ import annotations

import pytest

from mutations.planted import BUGS, Planted
from tests_root import ROOT


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_bug_can_be_planted(bug: Planted) -> None:
    assert (ROOT / bug.file).read_text().count(bug.old) == 1


def test_there_are_enough_and_each_has_a_name_of_its_own() -> None:
    assert len({bug.name for bug in BUGS}) == len(BUGS) >= 25
