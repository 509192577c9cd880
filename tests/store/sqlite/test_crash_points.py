"""Killed, or failed by the disk, at every call that reaches it: the database says what was acknowledged."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from litestar_queues.store.sqlite.migrations import STEPS, migrate, version_of
from support import vfs
from support.masters import TESTS

EVERY = 1 if os.environ.get("LQ_LONG") else 120
"""Of the calls past the first thirty of a kind, each n-th."""


def sweep(folder: Path, seed: int, how: str) -> dict[str, Any]:
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-m", "store.crash_points", str(folder), str(seed), how, str(EVERY)],
        env={**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore::DeprecationWarning"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    print(how, {name: found[name] for name in ("tried", "errors", "calls")})
    assert found["violations"] == []
    assert found["tried"].get("not reached", 0) < sum(found["tried"].values()) / 20
    return found


@pytest.mark.fault("B1", "SIGKILL at the n-th write, sync, lock, open, delete and truncate, for every n; in a write, half of it",
                   "whole; what was acknowledged, and of what was under way all or nothing; the store serves")  # fmt: skip
@pytest.mark.fault("C17", "SIGKILL at every call while the schema is made", "made later, or made whole")
def test_killed_at_any_call_it_keeps_what_was_acknowledged(tmp_path: Path, seed: int) -> None:
    tried = sweep(tmp_path, seed, "kill")["tried"]
    # From Python 3.12 on nobody copies the log when he closes, and so nobody cuts it there.
    expected = set(vfs.KINDS) - ({"truncate"} if sys.version_info >= (3, 12) else set())
    assert {kind for kind in vfs.KINDS if tried.get(kind, 0)} == expected
    assert sum(tried.values()) > 80


@pytest.mark.fault("C2", "no space, and I/O errors, from every write, sync, lock, open, delete and truncate, once and lasting",
                   "a typed error; nothing acknowledged that is not there; the same store serves afterwards")  # fmt: skip
@pytest.mark.fault("C1", "a disk that is full at every write", "StoreFull to the caller, nothing lost")
def test_a_call_that_fails_is_an_error_to_the_caller_and_the_store_goes_on(tmp_path: Path, seed: int) -> None:
    found = sweep(tmp_path, seed, "fail")
    assert found["errors"]["StoreFull"] > 15
    assert set(found["errors"]) <= {"StoreFull", "StoreError", "StoreReadOnly", "StoreLocked", "StoreCorrupt"}


@pytest.mark.parametrize("how", ["kill", "fail"])
@pytest.mark.fault("C17", "SIGKILL and failures at every call of a migration", "the version before or the next, whole")
def test_a_migration_that_is_cut_off_anywhere_leaves_one_version_or_the_other(
    tmp_path: Path, seed: int, how: str
) -> None:
    with closing(sqlite3.connect(tmp_path / "old.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        migrate(connection, "old.db", STEPS[:1])
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert version_of(connection) == 1
    sweep(tmp_path, seed, how)
