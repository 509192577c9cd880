"""Other Python processes in a line or two: each runs a piece of code with a store at hand."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_OPENING = """
import asyncio, concurrent.futures.thread, os, signal, sys, time
sys.path[:0] = {path!r}
from litestar_queues.exceptions import *
from litestar_queues.store import *
from store.making import *
url = {url!r}
import litestar_queues.store.sqlite
def say(*words):
    print(*words, flush=True)
def become(uid):
    os.setgroups([])
    os.setegid(uid)
    os.seteuid(uid)
"""


def start(code: str, url: str = "") -> subprocess.Popen[str]:
    """Start Python with *code*; ``url``, ``say`` and what ``store.making`` has are there."""
    path = [entry for entry in sys.path if entry]
    return subprocess.Popen(
        [sys.executable, "-c", _OPENING.format(path=path, url=url) + code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "ignore::DeprecationWarning"},
    )


def finish(processes: Sequence[subprocess.Popen[str]], seconds: float = 60) -> list[str]:
    """Wait for all of them to end well, and return what they said."""
    try:
        said = [process.communicate(timeout=seconds)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, text in zip(processes, said, strict=True):
        assert process.returncode == 0, f"exit code {process.returncode}:\n{text}"
    return said


def run(code: str, url: str = "") -> str:
    return finish([start(code, url)])[0]


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"
