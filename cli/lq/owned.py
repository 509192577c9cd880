"""Masters that a command starts for itself, on a temporary database, and ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from litestar_queues.config import APP_VARIABLE


def start(
    folder: Path, log: Path, *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start ``lq worker`` with *arguments* in *folder*; what it writes goes to the file *log*."""
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "lq", "worker", *arguments],
            cwd=folder,
            env={**inherited(), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            # Ctrl-C is ours to pass on: a master that hears it twice, from the terminal and from us, is in a hurry.
            start_new_session=True,
        )


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a master in good order; after 30 s, in any order."""
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def inherited() -> dict[str, str]:
    """Return our environment without what would have the master serve the user's own application."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LQ_WORKER_")}
    kept.pop(APP_VARIABLE, None)
    # The master runs in a folder of its own; what is found from this one must be found from there.
    kept["PYTHONPATH"] = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path if entry)
    return kept


def last_words(log: Path, lines: int = 20) -> str:
    """Return the end of what a master wrote."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
