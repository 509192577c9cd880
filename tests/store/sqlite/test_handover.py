"""Whoever lets go of a lock wakes who waits for it, across processes; and nothing depends on that."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from litestar_queues.store.sqlite import handover
from litestar_queues.store.sqlite.handover import Handover
from litestar_queues.store.sqlite.turnstile import Turnstile

PATIENCE = 0.9
"""Seconds of one wait that nobody ends: so many of them that a test would run into its own end."""
MANY = 100


@pytest.mark.timeout(MANY * PATIENCE / 2)
def test_a_wait_ends_when_the_lock_was_let_go_of_since_it_was_looked_at(tmp_path: Path) -> None:
    ours, other = Handover(tmp_path / "handover"), Handover(tmp_path / "handover")
    for _ in range(MANY):
        seen = ours.seen(1)
        other.wake(1)
        ours.wait(1, seen, PATIENCE)
    assert ours.seen(1) == MANY
    assert ours.seen(0) == 0, "the places are apart"
    ours.close()
    other.close()


@pytest.mark.timeout(MANY * PATIENCE / 2)
def test_a_process_that_sleeps_is_woken_by_another(tmp_path: Path) -> None:
    ours = Handover(tmp_path / "handover")
    child = os.fork()
    if child == 0:
        for turn in range(MANY):
            _wait_until(ours, 0, turn + 1)
            ours.wake(1)
        os._exit(0)
    for turn in range(MANY):
        ours.wake(0)
        _wait_until(ours, 1, turn + 1)
    assert os.waitpid(child, 0)[1] == 0
    ours.close()


def _wait_until(shared: Handover, place: int, count: int) -> None:
    while (seen := shared.seen(place)) < count:
        shared.wait(place, seen, PATIENCE)


@pytest.mark.parametrize("why", ["no number is known for this machine", "the file cannot be made"])
def test_where_there_is_no_futex_a_turn_is_looked_for_from_time_to_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    if why.startswith("no number"):
        monkeypatch.setattr(handover, "_SYSCALLS", {})
    else:
        (tmp_path / "handover").mkdir()
    first, second = Turnstile(tmp_path), Turnstile(tmp_path)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        first.leave()

    monkeypatch.setattr(time, "sleep", sleep)
    assert first.enter()
    assert second.enter()
    assert len(slept) == 1
    second.leave()
    first.close()
    second.close()


def test_who_has_let_go_of_the_memory_wakes_nobody_and_does_not_fail(tmp_path: Path) -> None:
    gone = Handover(tmp_path / "handover")
    gone.close()
    gone.wake(0)
    assert gone.seen(0) == 0


def test_a_file_that_is_cut_under_it_kills_nobody(tmp_path: Path) -> None:
    """Memory that no block of a file is behind is a SIGBUS to who touches it."""
    child = os.fork()
    if child == 0:
        turnstile = Turnstile(tmp_path)
        ours = Handover(tmp_path / "handover")
        os.truncate(tmp_path / "handover", 0)
        for _ in range(2):
            taken = turnstile.enter()
            ours.wait(0, ours.seen(0), 0.001)
            turnstile.leave()
            if not taken:
                os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def test_a_wait_that_the_kernel_refuses_does_not_spin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Handover(tmp_path / "handover")
    os.truncate(tmp_path / "handover", 0)
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    ours.wait(0, ours.seen(0), PATIENCE)
    assert slept == [PATIENCE]
    ours.close()
