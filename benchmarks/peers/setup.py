"""Make a virtual environment of its own for every peer, under ``.bench/`` at the top of the checkout.

``python benchmarks/peers/setup.py [NAME …]`` makes the named ones (all without names); one that
holds what the table says already is left as it is. ``--list`` prints the names as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

ENVIRONMENTS = Path(__file__).parents[2] / ".bench"

_LITESTAR_QUEUES = ["litestar-queues==0.12.0", "redis[hiredis]>=5", "uvloop==0.22.1"]

PEERS: dict[str, list[str]] = {
    "pgqueuer_on_postgres": ["pgqueuer[asyncpg]==1.6.0", "uvloop==0.22.1"],
    "saq_on_redis": ["saq[redis,hiredis]==0.26.4", "typing-extensions>=4", "uvloop==0.22.1"],
    "huey_on_sqlite": ["huey==3.5.4"],
    "taskiq_on_redis": ["taskiq[uv]==0.13.0", "taskiq-redis==1.2.4", "hiredis>=3"],
    "dramatiq_on_redis": ["dramatiq[redis]==2.2.1", "hiredis>=3"],
    "rq_on_redis": ["rq==3.0.0", "hiredis>=3"],
    "arq_on_redis": ["arq==0.28.0", "hiredis>=3", "uvloop==0.22.1"],
    "litestar_queues_on_sqlite": _LITESTAR_QUEUES,
    "litestar_queues_on_redis": _LITESTAR_QUEUES,
    "streaq_on_redis": ["streaq==7.2.0", "redis>=5", "uvloop==0.22.1"],
    "celery_on_redis": ["celery[redis]==5.7.0", "hiredis>=3"],
    "procrastinate_on_postgres": ["procrastinate==3.10.0", "psycopg[binary]>=3.2", "uvloop==0.22.1"],
}


def python_of(name: str) -> Path:
    return ENVIRONMENTS / name / "bin" / "python"


def make(name: str) -> None:
    """Install what the table says for *name*, unless it is there."""
    receipt = ENVIRONMENTS / name / "installed.json"
    if receipt.exists() and json.loads(receipt.read_text()) == PEERS[name]:
        return
    venv.create(ENVIRONMENTS / name, with_pip=True, clear=True)
    pip = [python_of(name), "-m", "pip", "install", "--quiet", *PEERS[name]]
    subprocess.run(pip, check=True, capture_output=True, text=True)
    receipt.write_text(json.dumps(PEERS[name]))


def main() -> int:
    names = sys.argv[1:] or list(PEERS)
    if names == ["--list"]:
        print(json.dumps(list(PEERS)))
        return 0
    if unknown := [name for name in names if name not in PEERS]:
        print(f"no peer is named {', '.join(unknown)}; there are {', '.join(PEERS)}", file=sys.stderr)
        return 2
    failed = 0
    for name in names:
        print(name, flush=True)
        try:
            make(name)
        except subprocess.CalledProcessError as error:
            failed += 1
            print(f"{name} could not be installed, it is left out:\n{error.stderr}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
