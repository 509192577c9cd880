"""Count what a transaction does in steps of SQLite's virtual machine, which no other load on the machine disturbs."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from litestar_queues.store.sqlite.transaction import Transaction


@contextmanager
def counted(path: Path) -> Iterator[tuple[Transaction, Callable[[], int]]]:
    """Begin a transaction on the database, and give a function that says how many steps it has taken."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA foreign_keys = ON")
    steps = 0

    def tick() -> None:
        nonlocal steps
        steps += 1

    connection.set_progress_handler(tick, 1)
    connection.execute("BEGIN IMMEDIATE")
    transaction = Transaction(connection)
    yield transaction, lambda: steps
    transaction.write_counts()
    connection.execute("COMMIT")
    connection.close()
