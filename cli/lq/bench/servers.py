"""PostgreSQL and Redis as they are found on the machine, for peers that need them.

Each run gets an empty database of what it uses: a new one of PostgreSQL's, or one of Redis's
numbered ones that is empty, taken by a key so that nobody else's is ever emptied. Spoken to by
``psql`` and by Redis's own plain protocol, so that nothing need be installed. What they are set to
do at a crash is read and reported.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import uuid
from collections.abc import Collection, Iterator

from msgspec import Struct

POSTGRES = "LQ_BENCH_POSTGRES"
"""Environment variable: DSN of a PostgreSQL database from which others may be made."""
REDIS = "LQ_BENCH_REDIS_SERVER"
"""Environment variable: ``HOST:PORT`` of a Redis."""
_POSTGRES = "postgresql://postgres@127.0.0.1:5432/postgres"
_REDIS = "127.0.0.1:6379"
_NUMBERS = range(15, 0, -1)
_TAKEN = "lq-bench"
"""The key that says that a Redis database is a run's, and may be emptied. Peers' adapters look for it."""
_PATIENCE = 5.0


NAMES = frozenset({"postgres", "redis"})


class Server(Struct, frozen=True):
    """A server that was found."""

    name: str
    """``postgres`` or ``redis``."""
    program: str
    """Its processes are called so."""
    version: str
    durability: str
    """What it is set to keep, in its own words."""


class Servers:
    """Those that were found."""

    def __init__(self, *, wanted: bool = True) -> None:
        """Look for them, where they are *wanted* at all."""
        self._dsn = os.environ.get(POSTGRES, _POSTGRES)
        self._address = os.environ.get(REDIS, _REDIS)
        found = (self._find_postgres(), self._find_redis()) if wanted else ()
        self.found = [server for server in found if server is not None]

    def used_by(self, wanted: Collection[str]) -> list[Server]:
        """Return those of *wanted* that are there."""
        return [server for server in self.found if server.name in wanted]

    @contextlib.contextmanager
    def databases(self, wanted: Collection[str]) -> Iterator[dict[str, str]]:
        """Make empty databases of *wanted* servers; give the environment that names them, and remove them afterwards."""
        names = {server.name for server in self.used_by(wanted)}
        with contextlib.ExitStack() as stack:
            environment: dict[str, str] = {}
            if "postgres" in names:
                made = f"lq_bench_{uuid.uuid4().hex[:12]}"
                self._psql(f'CREATE DATABASE "{made}"')
                stack.callback(self._psql, f'DROP DATABASE IF EXISTS "{made}" WITH (FORCE)')
                environment["LQ_BENCH_PG"] = f"{self._dsn.rpartition('/')[0]}/{made}"
            number = next(filter(self._take, _NUMBERS), None) if "redis" in names else None
            if number is not None:
                stack.callback(self._redis, "FLUSHDB", number=number)
                environment["LQ_BENCH_REDIS"] = f"redis://{self._address}/{number}"
            yield environment

    def _take(self, number: int) -> bool:
        """Make a Redis database ours; False when something is in it, or another was faster."""
        if self._redis("DBSIZE", number=number) != "0":
            return False
        return self._redis("SET", _TAKEN, str(os.getpid()), "NX", number=number) == "OK"

    def _find_postgres(self) -> Server | None:
        if shutil.which("psql") is None:
            return None
        names = ("server_version", "fsync", "synchronous_commit")
        try:
            values = self._psql(f"SELECT {', '.join(f'current_setting({name!r})' for name in names)}").split("|")
        except (OSError, subprocess.SubprocessError):  # there is none, or none that lets us in
            return None
        version, fsync, commit = values
        return Server("postgres", "postgres", version.split()[0], f"fsync={fsync}, synchronous_commit={commit}")

    def _find_redis(self) -> Server | None:
        try:
            about = self._redis("INFO", "server")
            sync = [
                self._redis("CONFIG", "GET", name).split("\r\n")[-1] for name in ("appendonly", "appendfsync", "save")
            ]
        except (OSError, ValueError):  # there is none, or it lets nobody in
            return None
        version = next(
            (line.partition(":")[2] for line in about.split("\r\n") if line.startswith("redis_version")), "?"
        )
        append, fsync, save = sync
        return Server("redis", "redis-server", version, f"appendonly={append}, appendfsync={fsync}, save={save!r}")

    def _psql(self, sql: str) -> str:
        command = ["psql", "--no-psqlrc", "--no-password", "-qAt", self._dsn, "-c", sql]
        environment = {**os.environ, "PGCONNECT_TIMEOUT": str(int(_PATIENCE))}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.strip()

    def _redis(self, *words: str, number: int | None = None) -> str:
        """Run one command in a database, and return what it answers; ``ValueError`` where that is an error."""
        host, _, port = self._address.rpartition(":")
        with socket.create_connection((host, int(port)), _PATIENCE) as connection, connection.makefile("rb") as answers:
            if number is not None:
                connection.sendall(_command("SELECT", str(number)))
                _answer(answers.readline())
            connection.sendall(_command(*words))
            head = _answer(answers.readline())
            if head == "$-1":  # nothing, as from a SET that another was before
                return ""
            if head.startswith("$"):
                return answers.read(max(int(head[1:]), 0)).decode()
            if head.startswith("*"):  # pairs of a length and a value
                lines = [answers.readline().decode().rstrip("\r\n") for _ in range(2 * int(head[1:]))]
                return "\r\n".join(lines[1::2])
            return head[1:]


def _command(*words: str) -> bytes:
    parts = [f"*{len(words)}\r\n", *(f"${len(word.encode())}\r\n{word}\r\n" for word in words)]
    return "".join(parts).encode()


def _answer(line: bytes) -> str:
    text = line.decode().rstrip("\r\n")
    if not text or text.startswith("-"):
        raise ValueError(text or "Redis closed the connection")
    return text
