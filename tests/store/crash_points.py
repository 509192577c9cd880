"""Kill, or fail, a history at each call that reaches the disk: ``python -m store.crash_points FOLDER SEED HOW EVERY``.

Where FOLDER has a file ``old.db``, that is what each history begins with: a version to migrate from.
One process that has no thread and no connection forks a child for each point, and looks at what that
has left. Prints what it found as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from litestar_queues.exceptions import StoreError
from litestar_queues.store import open_store
from store.scenario import Content, History, content, serve
from support import vfs

SWEPT_WHOLE = 30
"""Points of a kind that are all tried; of the later ones every n-th."""


class Sweep:
    """One history, and every way to disturb it."""

    def __init__(self, folder: Path, seed: int, every: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.every = every
        self.serves_every = 3 if every > 1 else 1
        """Of the disks that were left, each n-th is given to a new store, which must serve."""
        self.steps = 2 if (folder / "old.db").exists() else 1_000
        """Of the history; of one that begins with a migration, no more than shows that it has been made."""
        self.tried: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.violations: list[str] = []
        self.counts, self.contents = self._rehearse()

    def kill(self) -> None:
        """Kill the process before each call, and in the middle of each write."""
        for kind, number in self._points():
            for torn in (False, True) if kind == "write" else (False,):
                self._try(f"{kind} {number}{' torn' if torn else ''}", vfs.KilledAt(kind, number, torn=torn))

    def fail(self) -> None:
        """Have each call fail, for once or until somebody has been told."""
        for kind, number in self._points():
            for code in vfs.FAILURES[kind]:
                once = self.random.random() < 0.5
                self._try(f"{kind} {number} fails with {code}", vfs.FailsFrom(kind, number, code, once=once))

    def _points(self) -> list[tuple[vfs.Kind, int]]:
        points: list[tuple[vfs.Kind, int]] = []
        for kind in vfs.KINDS:
            later = range(SWEPT_WHOLE + self.random.randrange(self.every), self.counts[kind], self.every)
            points += [(kind, number + 1) for number in [*range(min(SWEPT_WHOLE, self.counts[kind])), *later]]
        return points

    def _rehearse(self) -> tuple[Counter[vfs.Kind], list[Content]]:
        """Return how many calls there are, and what the database says after each step."""
        database = self._fresh()
        read, write = os.pipe()
        if os.fork() == 0:
            counting = vfs.Counting()
            shim = vfs.Shim()
            contents: list[Content] = [content(database)]

            def note(step: int) -> None:
                shim.disk = vfs.Disk()
                contents.append(content(database))
                shim.disk = counting

            shim.disk = counting
            _play(database, note, self.steps)
            os.write(write, json.dumps([counting.counts, contents]).encode())
            os._exit(0)
        os.close(write)
        with open(read, "rb") as pipe:
            counts, contents = json.loads(pipe.read())
        os.wait()
        return Counter(counts), contents

    def _try(self, point: str, disk: vfs.Disk) -> None:
        database = self._fresh()
        reached = self.folder / "reached"
        reached.write_text("")
        pid = os.fork()
        if pid == 0:
            _disturbed(database, disk, reached, self.steps)
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        words = reached.read_text().split()
        kills = isinstance(disk, vfs.KilledAt)
        if kills and code == 0:
            # Calls of two threads come in another order each time: the last ones may not be reached.
            self.tried["not reached"] += 1
        elif code != (-signal.SIGKILL if kills else 0):
            self.violations.append(f"{point}: the process ended with {code}: {' '.join(words[-60:])}")
        self.tried[point.split()[0]] += 1
        self.errors.update(word.removeprefix("error:") for word in words if word.startswith("error:"))
        self._judge(point, database, steps=sum(word == "step" for word in words))

    def _judge(self, point: str, database: Path, steps: int) -> None:
        """What was acknowledged is there, and of what was under way all or nothing."""
        copy = self.folder / "copy" / database.name
        shutil.rmtree(copy.parent, ignore_errors=True)
        copy.parent.mkdir()
        for name in (database.name, f"{database.name}-wal"):
            if (database.parent / name).exists():
                shutil.copy(database.parent / name, copy.parent)
        try:
            found = json.loads(json.dumps(content(database)))
        except Exception as error:
            self.violations.append(f"{point}: {error!r}")
            return
        if found not in self.contents[steps : steps + 2]:
            self.violations.append(f"{point}: after {steps} steps the database says {found}")
        if sum(self.tried.values()) % self.serves_every:
            return
        pid = os.fork()
        if pid == 0:
            _serve_there(copy)
        _, status = os.waitpid(pid, 0)
        if status:
            self.violations.append(f"{point}: the store that was left does not serve")

    def _fresh(self) -> Path:
        place = self.folder / "place"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        if (self.folder / "old.db").exists():
            shutil.copy(self.folder / "old.db", place / "queues.db")
        return place / "queues.db"


def _play(database: Path, note: Callable[[int], None], steps: int) -> None:
    async def play() -> None:
        async with await open_store(f"sqlite:///{database}") as store:
            for number, step in enumerate(History(store).steps[:steps]):
                await step()
                note(number)

    asyncio.run(play())


def _disturbed(database: Path, disk: vfs.Disk, reached: Path, steps: int) -> None:
    """Play the history on a disk that misbehaves; write down each step, and each error that comes out."""
    descriptor = os.open(reached, os.O_WRONLY | os.O_APPEND)

    def say(word: str) -> None:
        os.write(descriptor, f"{word}\n".encode())

    async def play() -> None:
        try:
            store = await open_store(f"sqlite:///{database}")
        except StoreError as error:
            say(f"error:{type(error).__name__}")
            return
        async with store:
            try:
                for step in History(store).steps[:steps]:
                    await step()
                    say("step")
            except StoreError as error:
                say(f"error:{type(error).__name__}")
                if isinstance(disk, vfs.FailsFrom):
                    disk.mend()
                await serve(store)

    code = 1
    try:
        shim = vfs.Shim()  # kept: SQLite calls what it holds
        shim.disk = disk
        asyncio.run(play())
        code = 0
    except BaseException:
        say(traceback.format_exc())
    os._exit(code)


def _serve_there(database: Path) -> None:
    async def go() -> None:
        async with await open_store(f"sqlite:///{database}") as store:
            await serve(store)

    code = 1
    try:
        asyncio.run(go())
        code = 0
    finally:
        os._exit(code)


if __name__ == "__main__":
    folder, seed, how, every = sys.argv[1:]
    sweep = Sweep(Path(folder), int(seed), int(every))
    getattr(sweep, how)()
    found = {"tried": sweep.tried, "errors": sweep.errors, "violations": sweep.violations, "calls": sweep.counts}
    print(json.dumps(found))
