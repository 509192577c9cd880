"""What a disk may hold after a loss of power: record what was written and synced, and build such disks.

``python -m store.power_cuts FOLDER SEED CUTS DURABILITY`` prints what it found as JSON. What was
synced is there. Of what was written to a file since, any part may be: whole writes or sectors of
them, in any order. The shared memory is gone; names of files are taken to be durable.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from litestar_queues.models import Status
from litestar_queues.store import open_store
from litestar_queues.store.opening import Durability
from litestar_queues.store.sqlite import checkpoints
from litestar_queues.store.sqlite import connection as connecting
from store.making import NOW, claim, new_job, settlement
from support import vfs

SECTOR = 512
LIVES = ("pending", "running", "completed")


class Acknowledged(NamedTuple):
    """A client was told that job *number* has come as far as *status*."""

    number: int
    status: str


def record(folder: Path, durability: Durability) -> list[vfs.Call | object]:
    """Run clients that add, claim and settle beside each other; return what reached the disk, and what they were told."""
    shim = vfs.Shim()
    disk = shim.disk = vfs.Recording()

    async def client(store, queue: str) -> None:  # type: ignore[no-untyped-def]
        for _ in range(6):
            [added] = await store.add([new_job(queue=queue, payload='{"args":["' + "x" * 2_000 + '"],"kwargs":{}}')])
            disk.calls.append(Acknowledged(added.number, "pending"))
            # A claim is synced after it was told, and acknowledged to nobody: the job may wait again.
            [job] = await claim(store, 1, queues=(queue,), node=queue, now=NOW)
            await store.settle([settlement(job)])
            disk.calls.append(Acknowledged(job.number, "completed"))

    async def pruner(store) -> None:  # type: ignore[no-untyped-def]
        """Between the others' commits, make some that are not synced."""
        for _ in range(6):
            await store.add([new_job(queue="brief", retention=0)])
            await store.settle([settlement(job) for job in await claim(store, 1, queues=("brief",), now=NOW)])
            await store.prune({Status.COMPLETED: None}, now=NOW + 900)

    async def play() -> None:
        async with await open_store(f"sqlite:///{folder}/q.db", durability=durability) as store:
            for _ in range(2):
                await asyncio.gather(*(client(store, f"q{number}") for number in range(4)), pruner(store))

    # Small, so that the log is copied into the database again and again.
    connecting.CHECKPOINT_AT = checkpoints.CHECKPOINT_AT = 64 * 1024
    asyncio.run(play())
    return disk.calls


class Disks:
    """Replays what was recorded, up to a moment."""

    def __init__(self, calls: list[vfs.Call | object], seed: int) -> None:
        self._calls = calls
        self._random = random.Random(seed)
        self.synced: dict[str, bytearray] = {}
        self.unsynced: dict[str, list[vfs.Call]] = {}
        self.told: dict[int, str] = {}

    def advance(self, at: int) -> None:
        """Let the call at this place happen."""
        call = self._calls[at]
        if isinstance(call, Acknowledged):
            self.told[call.number] = call.status
        elif isinstance(call, vfs.Call):
            match call.kind:
                case "open":
                    self.synced.setdefault(call.file, bytearray())
                case "write" | "truncate":
                    self.unsynced.setdefault(call.file, []).append(call)
                case "sync":
                    for each in self.unsynced.pop(call.file, []):
                        _apply(self.synced[call.file], each)
                case "delete":
                    self.synced.pop(call.file, None)
                    self.unsynced.pop(call.file, None)

    def cut(self, how: str) -> dict[str, bytearray]:
        """Return what the files may hold if the power fails now."""
        files = {name: bytearray(content) for name, content in self.synced.items()}
        for name, calls in self.unsynced.items():
            if name not in files:
                continue
            for call in calls:
                for piece in self._survivors(call, how):
                    _apply(files[name], piece)
        return files

    def _survivors(self, call: vfs.Call, how: str) -> list[vfs.Call]:
        if how == "none" or (how == "some" and self._random.random() < 0.5):
            return []
        if how in ("all", "some") or call.kind == "truncate":
            return [call]
        pieces = []
        for start in range(0, len(call.data), SECTOR):
            if self._random.random() < 0.5:
                data = call.data[start : start + SECTOR]
                pieces.append(call._replace(offset=call.offset + start, data=data))
        return pieces


def _apply(content: bytearray, call: vfs.Call) -> None:
    if call.kind == "truncate":
        del content[call.offset :]
        return
    end = call.offset + len(call.data)
    if len(content) < end:
        content.extend(bytes(end - len(content)))
    content[call.offset : end] = call.data


def look(folder: Path, files: dict[str, bytearray], told: dict[int, str]) -> str | None:
    """Start a machine with this disk; return what is wrong with it."""
    for path in folder.iterdir():
        path.unlink()
    for name, content in files.items():
        (folder / Path(name).name).write_bytes(content)
    try:
        with closing(sqlite3.connect(folder / "q.db")) as connection:
            [(verdict,)] = connection.execute("PRAGMA integrity_check").fetchall()
            there = dict(connection.execute("SELECT number, status FROM lq_job").fetchall()) if told else {}
    except sqlite3.Error as error:
        return f"{error!r} with {len(told)} jobs acknowledged"
    if verdict != "ok":
        return str(verdict)
    for number, status in told.items():
        if number not in there:
            return f"#{number} was acknowledged as {status} and is lost"
        if LIVES.index(there[number]) < LIVES.index(status):
            return f"#{number} was acknowledged as {status} and is {there[number]}"
    return None


def main(folder: Path, seed: int, cuts: int, durability: Durability) -> dict[str, object]:
    """Record, cut and look, spread over the whole recording."""
    (folder / "recorded").mkdir()
    (folder / "cut").mkdir()
    read, write = os.pipe()
    if os.fork() == 0:
        calls = record(folder / "recorded", durability)
        with open(write, "wb") as pipe:
            for call in calls:
                words = ["ack", *call] if isinstance(call, Acknowledged) else [*call[:3], call.data.hex()]  # type: ignore[misc]
                pipe.write(json.dumps(words).encode() + b"\n")
        os._exit(0)
    os.close(write)
    calls = []
    with open(read, "rb") as pipe:
        for line in pipe:
            words = json.loads(line)
            calls.append(
                Acknowledged(words[1], words[2]) if words[0] == "ack" else vfs.Call(*words[:3], bytes.fromhex(words[3]))
            )
    os.wait()
    disks = Disks(calls, seed)
    made = 0
    wrong: list[str] = []
    for at in range(len(calls)):
        disks.advance(at)
        while made < cuts * (at + 1) // len(calls):
            how = ("none", "all", "some", "torn")[made % 4]
            made += 1
            problem = look(folder / "cut", disks.cut(how), disks.told)
            if problem:
                wrong.append(f"after {at} of {len(calls)} calls, {how}: {problem}")
    checkpoints = sum(
        isinstance(call, vfs.Call) and call.kind == "sync" and call.file.endswith("q.db") for call in calls
    )
    return {"calls": len(calls), "cuts": made, "told": len(disks.told), "checkpoints": checkpoints, "wrong": wrong}


if __name__ == "__main__":
    where, number, count, level = sys.argv[1:]
    print(json.dumps(main(Path(where), int(number), int(count), level)))  # type: ignore[arg-type]
