"""Loss of power, replayed: what was acknowledged is there, whatever of the rest has reached the disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.masters import TESTS

CUTS = 50_000 if os.environ.get("LQ_LONG") else 1_500


def cut(folder: Path, seed: int, count: int, durability: str) -> dict[str, Any]:
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-m", "store.power_cuts", str(folder), str(seed), str(count), durability],
        env={**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore::DeprecationWarning"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    print({name: found[name] for name in ("calls", "cuts", "told", "checkpoints")}, len(found["wrong"]), "wrong")
    assert (found["told"], found["cuts"]) == (48, count)
    assert found["checkpoints"] > 3
    return found


@pytest.mark.timeout(600)
@pytest.mark.fault("C3", "the power is cut: unsynced sectors lost, kept or torn, at thousands of moments",
                   "whole, and every acknowledged job and end is there")  # fmt: skip
def test_what_was_acknowledged_survives_a_loss_of_power(tmp_path: Path, seed: int) -> None:
    assert cut(tmp_path, seed, CUTS, "power")["wrong"] == []


def test_without_a_sync_at_each_commit_the_replay_shows_the_loss(tmp_path: Path, seed: int) -> None:
    wrong = cut(tmp_path, seed, 400, "process")["wrong"]
    assert any("is lost" in each or "acknowledged as" in each for each in wrong)
    assert not any("malformed" in each for each in wrong), "it loses the last ones, and does not corrupt"
