"""A shim between SQLite and the disk, made with ``ctypes``: kill, fail or record at any call.

``install()`` makes it the default of the very library that ``sqlite3`` uses, in this process only.
Everything passes through to SQLite's own ``unix`` layer; what changes a file, locks it or makes it
durable is shown to a ``Disk`` first. Struct layouts: https://www.sqlite.org/c3ref/vfs.html and
https://www.sqlite.org/c3ref/io_methods.html (version 3 of both).
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sqlite3
import time
from collections import Counter
from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_int, c_int64, c_void_p
from pathlib import Path
from typing import Any, Literal, NamedTuple

Kind = Literal["open", "write", "truncate", "sync", "lock", "delete"]
KINDS: tuple[Kind, ...] = ("open", "write", "truncate", "sync", "lock", "delete")
FULL, IOERR_WRITE, IOERR_FSYNC, IOERR_LOCK, IOERR_TRUNCATE, IOERR_DELETE, CANTOPEN = 13, 778, 1034, 3850, 1546, 2570, 14
FAILURES: dict[Kind, tuple[int, ...]] = {
    "open": (CANTOPEN,), "write": (FULL, IOERR_WRITE), "truncate": (IOERR_TRUNCATE,), "sync": (IOERR_FSYNC,),
    "lock": (IOERR_LOCK,), "delete": (IOERR_DELETE,),
}  # fmt: skip
"""What SQLite may be told by the disk, as its extended result codes."""
_EXCLUSIVE = 8  # SQLITE_SHM_EXCLUSIVE

# Names go through as the pointers they are: the parameters of a URI stand behind them, and SQLite keeps them.
_OPEN = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, POINTER(c_int))
_DELETE = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int)
_WRITE = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_TRUNCATE = CFUNCTYPE(c_int, c_void_p, c_int64)
_SYNC = CFUNCTYPE(c_int, c_void_p, c_int)
_LOCK = CFUNCTYPE(c_int, c_void_p, c_int)
_SHM_LOCK = CFUNCTYPE(c_int, c_void_p, c_int, c_int, c_int)


class _Vfs(Structure):
    _fields_ = [
        ("iVersion", c_int), ("szOsFile", c_int), ("mxPathname", c_int), ("pNext", c_void_p), ("zName", c_char_p),
        ("pAppData", c_void_p), ("xOpen", c_void_p), ("xDelete", c_void_p), ("rest", c_void_p * 14),
    ]  # fmt: skip


class _Methods(Structure):
    _fields_ = [
        ("iVersion", c_int), ("xClose", c_void_p), ("xRead", c_void_p), ("xWrite", c_void_p), ("xTruncate", c_void_p),
        ("xSync", c_void_p), ("xFileSize", c_void_p), ("xLock", c_void_p), ("xUnlock", c_void_p),
        ("xCheckReservedLock", c_void_p), ("xFileControl", c_void_p), ("xSectorSize", c_void_p),
        ("xDeviceCharacteristics", c_void_p), ("xShmMap", c_void_p), ("xShmLock", c_void_p), ("xShmBarrier", c_void_p),
        ("xShmUnmap", c_void_p), ("xFetch", c_void_p), ("xUnfetch", c_void_p),
    ]  # fmt: skip


class Call(NamedTuple):
    """One call that reached the disk."""

    kind: Kind
    file: str
    offset: int = 0
    data: bytes = b""


class Disk:
    """What happens at each call: nothing unless a subclass says so."""

    def reached(self, call: Call) -> int:
        """Take *call* before it is made; return 0 to let it through, or the code of the failure."""
        return 0


class KilledAt(Disk):
    """Kills this process at the n-th call of a kind, or in the middle of that, if it is a write."""

    def __init__(self, kind: Kind, number: int, *, torn: bool = False) -> None:
        self._kind, self._left, self._torn = kind, number, torn

    def reached(self, call: Call) -> int:
        if call.kind == self._kind:
            self._left -= 1
            if self._left == 0:
                if self._torn:
                    with Path(call.file).open("r+b") as file:
                        file.seek(call.offset)
                        file.write(call.data[: len(call.data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(60)
        return 0


class FailsFrom(Disk):
    """Fails from the n-th call of a kind on, until it is mended."""

    def __init__(self, kind: Kind, number: int, code: int, *, once: bool) -> None:
        self._kind, self._left, self._code, self._once = kind, number, code, once
        self.failed = 0

    def reached(self, call: Call) -> int:
        if call.kind != self._kind:
            return 0
        self._left -= 1
        if self._left > 0 or (self._once and self.failed):
            return 0
        self.failed += 1
        return self._code

    def mend(self) -> None:
        """Fail no more."""
        self._left = 1 << 60


class Counting(Disk):
    """Counts the calls of each kind."""

    def __init__(self) -> None:
        self.counts: Counter[Kind] = Counter()

    def reached(self, call: Call) -> int:
        self.counts[call.kind] += 1
        return 0


class Recording(Disk):
    """Remembers all calls, and between them what the test marks."""

    def __init__(self) -> None:
        self.calls: list[Call | object] = []

    def reached(self, call: Call) -> int:
        self.calls.append(call)
        return 0


class Shim:
    """The layer; one a process."""

    def __init__(self) -> None:
        self.disk = Disk()
        self._library = _library()
        self._files: dict[int, str] = {}
        self._tables: dict[int, _Methods] = {}
        self._kept: list[Any] = []
        self._library.sqlite3_vfs_find.restype = c_void_p
        self._library.sqlite3_vfs_find.argtypes = [c_char_p]
        self._library.sqlite3_vfs_register.argtypes = [c_void_p, c_int]
        unix = _Vfs.from_address(self._library.sqlite3_vfs_find(b"unix"))
        self._vfs = _Vfs.from_buffer_copy(unix)
        self._vfs.zName = b"shim"
        self._open = ctypes.cast(unix.xOpen, _OPEN)
        self._delete = ctypes.cast(unix.xDelete, _DELETE)
        self._vfs.xOpen = self._keep(_OPEN(self._on_open))
        self._vfs.xDelete = self._keep(_DELETE(self._on_delete))
        assert self._library.sqlite3_vfs_register(ctypes.addressof(self._vfs), 1) == 0

    def _keep(self, function: Any) -> int | None:
        self._kept.append(function)
        return ctypes.cast(function, c_void_p).value

    def _on_open(self, vfs: int, name: int | None, file: int, flags: int, out: Any) -> int:
        path = "" if name is None else os.fsdecode(ctypes.string_at(name))
        code = self.disk.reached(Call("open", path)) if path else 0
        if code:
            c_void_p.from_address(file).value = None  # pMethods: nothing to be closed
            return code
        code = self._open(vfs, name, file, flags, out)
        methods = c_void_p.from_address(file)
        if code == 0 and path and methods.value:
            self._files[file] = path
            methods.value = ctypes.addressof(self._table(methods.value))
        return code

    def _on_delete(self, vfs: int, name: int, sync: int) -> int:
        return self.disk.reached(Call("delete", os.fsdecode(ctypes.string_at(name)))) or self._delete(vfs, name, sync)

    def _table(self, original: int) -> _Methods:
        if original not in self._tables:
            self._tables[original] = self._wrap(_Methods.from_buffer_copy(_Methods.from_address(original)))
        return self._tables[original]

    def _wrap(self, table: _Methods) -> _Methods:
        write, truncate = ctypes.cast(table.xWrite, _WRITE), ctypes.cast(table.xTruncate, _TRUNCATE)
        sync, lock = ctypes.cast(table.xSync, _SYNC), ctypes.cast(table.xLock, _LOCK)
        shm_lock = ctypes.cast(table.xShmLock, _SHM_LOCK)
        files = self._files

        def on_write(file: int, data: int, size: int, offset: int) -> int:
            call = Call("write", files[file], offset, ctypes.string_at(data, size))
            return self.disk.reached(call) or write(file, data, size, offset)

        def on_truncate(file: int, size: int) -> int:
            return self.disk.reached(Call("truncate", files[file], size)) or truncate(file, size)

        def on_sync(file: int, flags: int) -> int:
            return self.disk.reached(Call("sync", files[file])) or sync(file, flags)

        def on_lock(file: int, level: int) -> int:
            return self.disk.reached(Call("lock", files[file])) or lock(file, level)

        def on_shm_lock(file: int, offset: int, count: int, flags: int) -> int:
            # Only those that are taken, and by writers: a failed unlock is not a thing that disks do.
            wanted = flags & _EXCLUSIVE and flags & 2
            code = self.disk.reached(Call("lock", files[file])) if wanted else 0
            return code or shm_lock(file, offset, count, flags)

        table.xWrite = self._keep(_WRITE(on_write))
        table.xTruncate = self._keep(_TRUNCATE(on_truncate))
        table.xSync = self._keep(_SYNC(on_sync))
        table.xLock = self._keep(_LOCK(on_lock))
        table.xShmLock = self._keep(_SHM_LOCK(on_shm_lock))
        return table


def _library() -> ctypes.CDLL:
    """Return the library that ``sqlite3`` uses; where that is part of Python itself, Python."""
    assert sqlite3.sqlite_version
    found = re.search(r"\S*/libsqlite3\.so\S*", Path("/proc/self/maps").read_text())
    library = ctypes.CDLL(found[0] if found else None)
    library.sqlite3_libversion.restype = c_char_p
    assert library.sqlite3_libversion().decode() == sqlite3.sqlite_version
    return library
