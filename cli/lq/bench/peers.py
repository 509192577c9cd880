"""Who can be measured here: ourselves, the bare limit, and the peers that have been set up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec

from litestar_queues.exceptions import QueueConfigurationError
from lq.bench.running import Adapter
from lq.bench.servers import NAMES

OURS = Adapter("ours", (sys.executable, "-m", "lq.bench.ours"))
BARE = Adapter("bare", (sys.executable, "-m", "lq.bench.bare"))
_LISTING = 30.0
"""Seconds within which ``setup.py`` must say which peers there are."""


def find(folder: Path | None, environments: Path | None, chosen: tuple[str, ...]) -> tuple[list[Adapter], list[str]]:
    """Return the adapters to run, and the names of peers that have no environment yet.

    *folder* holds ``NAME.py`` for each peer, *environments* its own Python in ``NAME/bin/python``
    (``.bench`` two folders above when None). *chosen* names some of all; none stands for all.
    Raises ``QueueConfigurationError`` for a name that is not there, and a folder that does not say where its peers are.
    """
    adapters, missing = [OURS, BARE], list[str]()
    if folder is not None:
        homes = environments or _homes_near(folder)
        pythons = {file.stem: homes.absolute() / file.stem / "bin" / "python" for file in sorted(folder.glob("*.py"))}
        adapters += [
            Adapter(name, (str(python), str(folder.resolve() / f"{name}.py")), False, _servers_of(name))
            for name, python in pythons.items()
            if python.exists()
        ]
        missing = [name for name in _planned(folder) if name in pythons and not pythons[name].exists()]
    if not chosen:
        return adapters, missing
    known = {adapter.name: adapter for adapter in adapters}
    for name in chosen:
        if name not in known:
            msg = f"--only {name!r} is not set up here (there are: {', '.join(known)})"
            raise QueueConfigurationError(msg)
    return [known[name] for name in dict.fromkeys(chosen)], []


def _homes_near(folder: Path) -> Path:
    """Return where the environments are, when nobody says."""
    above = folder.resolve().parents
    if len(above) < 2:
        msg = (
            f"two folders above --peers {folder} there is none; say with --environments where each peer has its Python"
        )
        raise QueueConfigurationError(msg)
    return above[1] / ".bench"


def _planned(folder: Path) -> list[str]:
    """Return the peers that ``setup.py`` beside the adapters would make environments for."""
    setup = folder / "setup.py"
    if not setup.exists():
        return []
    command = [sys.executable, str(setup.resolve()), "--list"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_LISTING, check=True)
        return msgspec.json.decode(done.stdout, type=list[str])
    except (OSError, subprocess.SubprocessError, msgspec.MsgspecError) as error:
        msg = (
            f"{setup} --list does not say which peers there are ({error}); mend it, or name another folder with --peers"
        )
        raise QueueConfigurationError(msg) from error


def _servers_of(name: str) -> frozenset[str]:
    """Return what a peer keeps its jobs in, by its name (``saq_on_redis``); all there is, where that does not say."""
    _, says, place = name.rpartition("_on_")
    return NAMES & {place} if says else NAMES
