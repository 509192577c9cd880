"""Who is woken after a commit: one datagram socket a listener, in a folder beside the database.

The name of a socket says whom to ring for what: ``m.…`` is a master, woken by whatever may give it
work; ``w.….4821-4822`` waits for those jobs, ``w.….*`` for any. A bell is a hint: every error is
ignored, and whoever listens also looks by itself from time to time.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import Collection
from pathlib import Path

from msgspec import Struct

WATCHER_PAUSE = 0.005
"""Seconds between two rings of one watcher: 8 listeners cost 0.04 ms a round, 256 cost 1.3 ms."""
_RACY = 20_000_000
"""Nanoseconds for which a folder's change time may not yet show a change: the kernel's clock ticks
every 1-10 ms."""
_LONGEST_NAME = 80
_log = logging.getLogger("litestar_queues.store")


class _Listed(Struct):
    name: str
    is_master: bool
    numbers: frozenset[int] | None
    """None: any."""
    rung_at: float = 0.0


class Ringer:
    """Rings the listeners of one database; used by the writer's thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor = -1
        self._listed: dict[str, _Listed] = {}
        self._changed_at = -1
        self._is_sure = False
        self._owed: dict[str, _Listed] = {}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def ring_masters(self, *, skip: Collection[str]) -> None:
        """Ring masters, but those in *skip*: there will be work as soon as this transaction is over.

        It need not be over: whoever claims takes SQLite's lock to write first, and so waits for its end. The
        master wakes up and hands the claim to its writer's thread while the disk is still writing this.
        """
        self._look()
        for listed in list(self._listed.values()):
            if listed.is_master and listed.name not in skip:
                self._send(listed)

    def ring_watchers(self, changed: Collection[int], *, skip: Collection[str]) -> None:
        """Ring those who wait for *changed* jobs, but for those in *skip*; after the commit, for they only read."""
        self._look()
        now = time.monotonic()
        for listed in list(self._listed.values()):
            is_for = not listed.is_master and (listed.numbers is None or not listed.numbers.isdisjoint(changed))
            if is_for and listed.name not in skip:
                self._ring_watcher(listed, now)

    def pay(self) -> float | None:
        """Ring the watchers whose pause is over; return the seconds until the next, or None."""
        now = time.monotonic()
        for listed in list(self._owed.values()):
            if now - listed.rung_at >= WATCHER_PAUSE:
                self._ring_watcher(listed, now)
        if not self._owed:
            return None
        # Not less: a wait of nothing would spin.
        return max(WATCHER_PAUSE - (now - min(each.rung_at for each in self._owed.values())), 0.0005)

    def ring_owed(self) -> None:
        """Ring those whose pause is not over: there will be no later."""
        for listed in list(self._owed.values()):
            self._send(listed)

    def close(self) -> None:
        """Let go of the socket and the folder."""
        self._socket.close()
        self._let_go_of_folder()

    def _ring_watcher(self, listed: _Listed, now: float) -> None:
        if now - listed.rung_at < WATCHER_PAUSE:
            self._owed[listed.name] = listed
            return
        listed.rung_at = now
        self._owed.pop(listed.name, None)
        self._send(listed)

    def _send(self, listed: _Listed) -> None:
        try:
            self._socket.sendto(b"", f"/proc/self/fd/{self._descriptor}/{listed.name}")
        except BlockingIOError:
            return  # its buffer is full: it has been rung
        except (ConnectionRefusedError, FileNotFoundError):
            self._remove(listed.name)
        except OSError:
            return

    def _remove(self, name: str) -> None:
        """Forget a listener that is gone, and its socket."""
        self._listed.pop(name, None)
        self._owed.pop(name, None)
        try:
            os.unlink(name, dir_fd=self._descriptor)
        except OSError:
            return  # somebody else has tidied up

    def _look(self) -> None:
        """List the folder if it has, or may have, changed."""
        try:
            changed_at = os.stat(self._folder).st_mtime_ns
            if changed_at == self._changed_at and self._is_sure:
                return
            self._is_sure = time.time_ns() - changed_at > _RACY
            self._changed_at = changed_at
            self._list()
        except OSError:  # the folder is gone: nobody listens there
            self._listed.clear()
            self._changed_at = -1

    def _list(self) -> None:
        self._let_go_of_folder()
        self._descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        names = os.listdir(self._descriptor)
        self._listed = {name: self._listed.get(name) or parsed for name in names if (parsed := _parse(name))}

    def _let_go_of_folder(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1  # first: a fork meanwhile must not close it again
        if descriptor >= 0:
            os.close(descriptor)


class SocketBell:
    """One listener, on the event loop it was made on.

    Where no socket can be hung (the folder is not there, or is not ours to write), it never rings:
    a bell is a hint.
    """

    def __init__(self, folder: Path, numbers: Collection[int] | None) -> None:
        self.name = _name(numbers)
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()
        self._is_rung = False
        self._descriptor = -1
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        try:
            self._descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            # The path of a socket has 107 bytes at most; that of a descriptor is always short.
            self._socket.bind(f"/proc/self/fd/{self._descriptor}/{self.name}")
        except OSError as error:
            _log.info("no bell can be hung in %s (%s); its listener looks from time to time", folder, error.strerror)
        else:
            self._loop.add_reader(self._socket, self._heard)

    async def wait(self, timeout: float) -> bool:
        """Return True once somebody has rung since the last call; False after *timeout* seconds, or once woken by ``ring``."""
        if not self._woken.is_set():
            try:
                async with asyncio.timeout(timeout):
                    await self._woken.wait()
            except TimeoutError:
                return False
        self._woken.clear()
        is_rung, self._is_rung = self._is_rung, False
        return is_rung

    def ring(self) -> None:
        """Wake the listener from inside its own event loop: nothing has changed in the store."""
        self._woken.set()

    def close(self) -> None:
        """Stop listening."""
        self._loop.remove_reader(self._socket)
        self._socket.close()
        if self._descriptor < 0:
            return
        try:
            os.unlink(self.name, dir_fd=self._descriptor)
        except FileNotFoundError:
            pass  # somebody tidied up
        finally:
            os.close(self._descriptor)

    def _heard(self) -> None:
        try:
            while True:
                self._socket.recv(16)
        except BlockingIOError:
            self._is_rung = True
            self._woken.set()


def _name(numbers: Collection[int] | None) -> str:
    own = f"{os.getpid()}.{secrets.token_hex(4)}"
    if numbers is None:
        return f"m.{own}"
    listed = f"w.{own}.{'-'.join(str(number) for number in sorted(numbers))}"
    return listed if numbers and len(listed) <= _LONGEST_NAME else f"w.{own}.*"


def _parse(name: str) -> _Listed | None:
    kind, *rest = name.split(".")
    if kind == "m" and len(rest) == 2:
        return _Listed(name, is_master=True, numbers=None)
    if kind != "w" or len(rest) != 3:
        return None
    if rest[2] == "*":
        return _Listed(name, is_master=False, numbers=None)
    numbers = rest[2].split("-")
    if not all(number.isascii() and number.isdigit() for number in numbers):
        return None
    return _Listed(name, is_master=False, numbers=frozenset(map(int, numbers)))
