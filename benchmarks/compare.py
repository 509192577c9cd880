"""Ours, the bare limit and every peer that is set up, side by side: ``python benchmarks/compare.py [OPTION …]``.

It is ``lq bench`` with the peers of this checkout; the options are those of ``lq bench``, and what is
given here comes after ours. Set peers up before with ``python benchmarks/peers/setup.py [NAME …]``;
who has no environment is left out, and named.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent.resolve()


def main() -> int:
    command = [sys.executable, "-m", "lq", "bench"]
    peers = HERE / "peers"
    if peers.is_dir():
        command += ["--peers", str(peers), "--environments", str(HERE.parent / ".bench")]
    return subprocess.run([*command, *sys.argv[1:]], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
