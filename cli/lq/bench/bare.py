"""The bare limit as an adapter: what SQLite and socket pairs allow, with nothing of a queue around them.

The same file, schema, indexes and ``synchronous=FULL`` as ours, statements in groups, one process
that writes, and two that answer messages over SOCK_SEQPACKET pairs. Left out is what makes a queue:
several writers, fair turns, deadlines, kills, typed arguments, attempts, doorbells, counts. Nobody
can use this; it shows how far a queue is from what is possible on this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import socket
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from litestar_queues.ids import uuid7
from litestar_queues.store.sqlite.migrations import migrate
from lq.bench.adapter import Part, Told, Work, serve

_GROUP = 128
"""Jobs in one transaction, and at one process at a time."""
_ROWS_AT_ONCE = 1_000
_CALLERS = 100
_NUMBER = struct.Struct("=qq")
_INSERT = (
    "INSERT INTO lq_job (id, task, queue, backend, status, priority, payload, checksum, key_scope, key_forever, "
    "max_retries, kill_grace, timeout, created_at, run_at, sequence) "
    "VALUES (?, 'bare', 'default', 'local', 'pending', 0, ?, 0, '', 0, 0, 2000000, 60000000, ?, ?, ?)"
)
_CLAIM = (
    "UPDATE lq_job SET status = 'running', fence = fence + 1, node = 'bare', claimed_at = ?, sequence = ? "
    "WHERE number IN (SELECT number FROM lq_job WHERE status = 'pending' AND queue = 'default' AND backend = 'local' "
    "ORDER BY priority DESC, number LIMIT ?) RETURNING number, fence, payload"
)
_SETTLE = (
    "UPDATE lq_job SET status = 'completed', attempts = 1, result = ?, started_at = ?, ended_at = ?, sequence = ?, node = NULL "
    "WHERE number = ? AND fence = ? AND status = 'running'"
)
Result = tuple[int, int, str]
"""Number, fence, result."""


class Table:
    """Our table of jobs, and one connection to it."""

    def __init__(self, work: Work) -> None:
        self._connection = sqlite3.connect(work.folder / "bench.db", isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL").fetchall()
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("PRAGMA cache_size = -16384")
        migrate(self._connection, "the bench")
        self.commits = 0

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def insert(self, payloads: Sequence[str]) -> None:
        """Store jobs, in one transaction."""
        with self._transaction():
            now = time.time_ns() // 1000
            rows = [(str(uuid7(now)), payload, now, now, self.commits) for payload in payloads]
            self._connection.executemany(_INSERT, rows)

    def turn(self, done: Sequence[Result], limit: int) -> list[tuple[int, int, str]]:
        """Settle *done* and claim up to *limit*, in one transaction."""
        with self._transaction():
            now = time.time_ns() // 1000
            rows = [(result, now, now, self.commits, number, fence) for number, fence, result in done]
            self._connection.executemany(_SETTLE, rows)
            return self._connection.execute(_CLAIM, (now, self.commits, limit)).fetchall() if limit else []

    def results(self) -> list[str]:
        """Return the results of all jobs, in their order."""
        rows = self._connection.execute("SELECT result FROM lq_job WHERE status = 'completed' ORDER BY number")
        return [result for (result,) in rows.fetchall()]

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        yield
        self._connection.execute("COMMIT")
        self.commits += 1


class Echoes:
    """Processes that answer each message with one."""

    def __init__(self, count: int) -> None:
        self._sockets: list[socket.socket] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._sent: dict[socket.socket, int] = {}
        for _ in range(count):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            command = [sys.executable, "-m", "lq.bench.echo", str(theirs.fileno())]
            self._processes.append(subprocess.Popen(command, pass_fds=[theirs.fileno()]))
            theirs.close()
            self._sockets.append(ours)
            self._sent[ours] = 0
            ours.recv(1)  # it is ready

    @property
    def room(self) -> int:
        """How many messages may be sent now."""
        return sum(_GROUP - sent for sent in self._sent.values())

    def send(self, jobs: Sequence[tuple[int, int, str]]) -> None:
        """Send each to the process that has the fewest."""
        for number, fence, payload in jobs:
            channel = min(self._sockets, key=self._sent.__getitem__)
            channel.send(_NUMBER.pack(number, fence) + payload.encode())
            self._sent[channel] += 1

    def receive(self) -> list[Result]:
        """Return what has been answered: one answer at least, and then what is there."""
        ready, _, _ = select.select(self._sockets, [], [])
        answers: list[Result] = []
        for channel in ready:
            with contextlib.suppress(BlockingIOError):
                for _ in range(self._sent[channel]):
                    message = channel.recv(65_536, socket.MSG_DONTWAIT)
                    self._sent[channel] -= 1
                    answers.append((*_NUMBER.unpack_from(message), message[_NUMBER.size :].decode()))
        return answers

    def close(self) -> None:
        """End them."""
        for channel in self._sockets:
            channel.close()
        for process in self._processes:
            process.wait()


async def enqueue(work: Work) -> Told:
    """Insert in transactions of as many rows as there are callers."""
    return _insert(work, _CALLERS, f"{_CALLERS} rows a transaction, as from {_CALLERS} callers")


async def bulk(work: Work) -> Told:
    """Insert in large transactions."""
    return _insert(work, _ROWS_AT_ONCE, f"{_ROWS_AT_ONCE:,} rows a transaction")


def _insert(work: Work, rows: int, how: str) -> Told:
    with contextlib.closing(Table(work)) as table:
        with Part() as part:
            for first in range(0, work.jobs, rows):
                table.insert([_payload(number) for number in range(first, min(first + rows, work.jobs))])
        return _tell(work, part, f"sqlite3, WAL, synchronous=FULL, our schema; {how}", table)


async def drain(work: Work) -> Told:
    """Claim, send, receive, settle."""
    with contextlib.closing(_filled(work)) as table, contextlib.closing(Echoes(work.workers)) as echoes:
        before = table.commits
        with Part() as part:
            left, done = work.jobs, list[Result]()
            while left:
                echoes.send(table.turn(done, min(echoes.room, _GROUP)))
                left -= len(done)
                done = echoes.receive() if left else []
        _compare(table, work.jobs)
        how = f"{work.workers} processes, at most {_GROUP} jobs a transaction"
        return _tell(work, part, f"sqlite3, WAL, synchronous=FULL, our schema; {how}", table, before)


async def store(work: Work) -> Told:
    """Claim and settle at once."""
    with contextlib.closing(_filled(work)) as table:
        before = table.commits
        with Part() as part:
            done: list[Result] = []
            while True:
                claimed = table.turn(done, _GROUP)
                if not claimed and not done:
                    break
                done = [(number, fence, payload) for number, fence, payload in claimed]
        _compare(table, work.jobs)
        return _tell(
            work, part, f"sqlite3, WAL, synchronous=FULL, our schema; {_GROUP} jobs a transaction", table, before
        )


async def pipe(work: Work) -> Told:
    """Send and receive."""
    with contextlib.closing(Echoes(work.workers)) as echoes:
        with Part() as part:
            sent = received = 0
            while received < work.jobs:
                count = min(echoes.room, work.jobs - sent)
                echoes.send([(number, 1, _payload(number)) for number in range(sent, sent + count)])
                sent += count
                received += len(echoes.receive())
        how = f"SOCK_SEQPACKET, {work.workers} processes, at most {_GROUP} messages at each"
        return Told(work.scenario, work.jobs, part.seconds, settings=how, durability="none", version=_version())


async def pickup(work: Work) -> Told:
    """Insert, claim and send one at a time; the writer, the claimer and the sender are one process."""
    took: list[float] = []
    with contextlib.closing(Table(work)) as table, contextlib.closing(Echoes(1)) as echoes:
        with Part() as part:
            for number in range(work.jobs):
                at = time.monotonic_ns()
                table.insert([_payload(number)])
                echoes.send(table.turn([], 1))
                done = echoes.receive()
                # The answer is the earliest sign that the other process runs: half a round trip too late.
                took.append((time.monotonic_ns() - at) / 1e6)
                table.turn(done, 0)
                await asyncio.sleep(0.01)
        told = _tell(work, part, "two commits (insert, claim) and one message there and back", table)
    told.latencies_ms = took
    return told


def _filled(work: Work) -> Table:
    table = Table(work)
    for first in range(0, work.jobs, _ROWS_AT_ONCE):
        table.insert([_payload(number) for number in range(first, min(first + _ROWS_AT_ONCE, work.jobs))])
    return table


def _compare(table: Table, jobs: int) -> None:
    if table.results() != [_payload(number) for number in range(jobs)]:
        msg = "the results are not those of the jobs"
        raise ValueError(msg)


def _payload(number: int) -> str:
    return json.dumps({"args": [number], "kwargs": {}})


def _tell(work: Work, part: Part, settings: str, table: Table, before: int = 0) -> Told:
    return Told(
        scenario=work.scenario,
        jobs=work.jobs,
        seconds=part.seconds,
        settings=settings,
        durability="on disk at its commit, as ours",
        version=_version(),
        extra={"commits": table.commits - before},
    )


def _version() -> str:
    return f"sqlite {sqlite3.sqlite_version}, kernel {os.uname().release}"


if __name__ == "__main__":
    serve({"enqueue": enqueue, "bulk": bulk, "drain": drain, "pickup": pickup, "pipe": pipe, "store": store})
