"""The typed API says what it promises, and the package is clean under ``mypy --strict``."""

from __future__ import annotations

import subprocess
import sys

from tests_root import ROOT


def test_the_public_api_is_typed_as_it_is_used() -> None:
    command = [sys.executable, "-m", "mypy", "tests/typing/api.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout
