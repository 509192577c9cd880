"""``lq demo`` runs, end to end, on this machine's own standard library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_the_demonstration_counts_kills_retries_and_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lq", "demo", "--quick", "--concurrency", "2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=110, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    for words in [
        "Census of the standard library",
        "asyncio",
        "deduplicated: True",
        "was killed by SIGKILL",
        "in hang",
    ]:
        assert words in done.stdout
    lines = done.stdout.splitlines()
    start = lines.index("ATTEMPT\tOUTCOME\tERROR")
    assert [line.split("\t")[1] for line in lines[start + 1 : start + 4]] == ["raised", "raised", "succeeded"]
