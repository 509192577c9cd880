"""The SQLite store: one file in WAL mode, one writer thread a process, reads beside it.

::

    location      from a URL to a file and its side folder; modes, and what is refused
    migrations    the schema's versions (schema.sql is the first)
    turnstile     a fair turn before the write lock
    handover      waking who waits for it
    writer        the process's one writer: group commit, errors in our words, checkpoints
    bells         who is woken after a commit
    adding, claiming, settling, telling, reading    SQL, by verb
    store         the contract, each method one function for the writer or one read
"""

from litestar_queues.store.sqlite.store import SQLiteStore

__all__ = ["SQLiteStore"]
