"""The versions of the schema, and the way from each to the next.

A step is additive, so that a web process of the old release and a master of the new one can work
on one file for a while; or it names itself as the oldest that can. The version, and the oldest
release that can still use the file, are in a table of our own: the file may be the application's.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from importlib.resources import files

from msgspec import Struct

from litestar_queues.exceptions import StoreTooNew


class Step(Struct, frozen=True):
    """The change from the version before to this one."""

    version: int
    oldest: int
    """The oldest version of this program that can use the file after the step."""
    sql: str


def _sql(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


STEPS = (
    Step(1, 1, _sql("schema.sql")),
    Step(2, 1, _sql("schema_2.sql")),
    Step(3, 1, _sql("schema_3.sql")),
    Step(4, 4, _sql("schema_4.sql")),
)


def migrate(connection: sqlite3.Connection, path: str, steps: tuple[Step, ...] = STEPS) -> None:
    """Bring the schema to the newest version, step by step; each is one transaction.

    Any number of processes may do it at once: the version is read again inside. Raises
    ``StoreTooNew`` for a file that this program is too old for, and changes nothing then.
    """
    check(connection, path, steps)
    for step in steps:
        if version_of(connection) >= step.version:
            continue
        connection.execute("BEGIN IMMEDIATE")
        try:
            if version_of(connection) < step.version:
                _apply(connection, step)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:  # a full disk has ended it already
                connection.execute("ROLLBACK")
            raise
    check(connection, path, steps)  # a newer release may have been at it at the same time


def check(connection: sqlite3.Connection, path: str, steps: tuple[Step, ...] = STEPS) -> None:
    """Refuse a file that only a newer release understands."""
    known = steps[-1].version
    if _has_meta(connection) and int(_meta(connection, "oldest") or 0) > known:
        raise too_new(path, version_of(connection), known)


def too_new(path: str, version: int, known: int = STEPS[-1].version) -> StoreTooNew:
    """Return the error for a file that only a newer release understands."""
    return StoreTooNew(f"{path} has schema version {version}; this release knows up to {known}: upgrade litestar-lq")


def version_of(connection: sqlite3.Connection) -> int:
    """Return the schema's version; 0 for a file without our tables."""
    return int(_meta(connection, "version") or 0) if _has_meta(connection) else 0


def _apply(connection: sqlite3.Connection, step: Step) -> None:
    connection.execute("CREATE TABLE IF NOT EXISTS lq_meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT")
    for statement in _statements(step.sql):  # executescript would commit in between
        connection.execute(statement)
    for name, value in (("version", step.version), ("oldest", step.oldest)):
        connection.execute("INSERT OR REPLACE INTO lq_meta (name, value) VALUES (?, ?)", (name, str(value)))


def _statements(sql: str) -> Iterator[str]:
    statement = ""
    for line in sql.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _has_meta(connection: sqlite3.Connection) -> bool:
    rows = connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'lq_meta'").fetchall()
    return bool(rows)


def _meta(connection: sqlite3.Connection, name: str) -> str | None:
    rows = connection.execute("SELECT value FROM lq_meta WHERE name = ?", (name,)).fetchall()
    return rows[0][0] if rows else None
