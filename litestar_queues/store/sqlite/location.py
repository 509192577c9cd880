"""From a URL to a database file and its side folder.

The database file is made here, with mode 0600, before SQLite opens it; after that nobody opens or
closes it except ``sqlite3``: closing any descriptor on it drops SQLite's locks for the whole
process, and acknowledged rows are lost at the next crash (51 acknowledged, 1 found).
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
from pathlib import Path
from urllib.parse import quote

from litestar_queues.exceptions import QueueConfigurationError, StoreError, StoreMissing, StoreReadOnly

_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "ceph", "glusterfs", "lustre"})
"""Filesystems on which WAL, which needs memory shared by all who use the file, is unsafe."""
_OCTAL = re.compile(r"\\([0-7]{3})")
"""How the kernel writes a space, a tab or a backslash in a mount point."""


class Location:
    """Where one database is."""

    def __init__(self, path: Path, *, is_temporary: bool = False) -> None:
        self.path = path
        self.is_temporary = is_temporary
        self.folder = path.with_name(path.name + ".lq")
        """Locks, cells and bells; mode 0700."""

    @classmethod
    def of(cls, url: str, *, create: bool = True) -> Location:
        """Return the place that *url* names; ``sqlite://`` is a new private folder."""
        rest = url.removeprefix("sqlite:")
        if rest in ("//", "", "///:memory:"):
            if not create:
                msg = f"{url!r} is a new private database each time it is opened; name a file to read"
                raise StoreMissing(msg)
            return cls(Path(tempfile.mkdtemp(prefix="litestar-queues-")) / "queues.db", is_temporary=True)
        if not rest.startswith("///") or rest == "///":
            msg = f"{url!r} names no file; use sqlite:///relative/path.db or sqlite:////absolute/path.db"
            raise QueueConfigurationError(msg)
        return cls(Path(os.path.realpath(rest[3:])))

    @property
    def url(self) -> str:
        """The absolute URL."""
        return f"sqlite:///{self.path}"

    def uri(self, mode: str) -> str:
        """Return the file as SQLite's URI, with *mode* ``rw`` or ``ro``: neither creates it."""
        return f"file:{quote(str(self.path))}?mode={mode}"

    def has_wal(self) -> bool:
        """Tell whether anything is, or may be, beside the database file that a reader must see."""
        try:
            return os.stat(f"{self.path}-wal").st_size > 0
        except FileNotFoundError:
            return False

    def make(self) -> None:
        """Make the file and its folder where they are not there yet."""
        self._is_there()
        if not self.path.parent.is_dir():
            msg = f"the folder {self.path.parent} does not exist; make it, or choose another place for the database"
            raise StoreMissing(msg)
        _refuse_network(self.path.parent)
        try:
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            pass  # made before, by us or by another process just now: it is not touched
        except OSError as error:
            raise self.unwritable(error) from error
        self._make_folder()

    def check(self) -> None:
        """Refuse a place that cannot be read; nothing is made."""
        if not self._is_there():
            msg = f"there is no database at {self.path}; start a worker there (lq worker), or name another with --url"
            raise StoreMissing(msg)

    def unwritable(self, error: OSError | None = None) -> StoreReadOnly:
        """Return the error for a place that this user cannot write."""
        why = f" ({error.strerror})" if error is not None and error.strerror else ""
        user = os.geteuid()
        return StoreReadOnly(
            f"{self.path} or its folder cannot be written by user {user}{why}; give that user the right, or move the file"
        )

    def remove_if_temporary(self) -> None:
        """Remove a private database."""
        if self.is_temporary:
            shutil.rmtree(self.path.parent, ignore_errors=True)

    def _is_there(self) -> bool:
        try:
            if not stat.S_ISDIR(os.stat(self.path).st_mode):
                return True
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise self.unwritable(error) from error
        msg = f"{self.path} is a folder; name a database file"
        raise StoreError(msg)

    def _make_folder(self) -> None:
        try:
            for folder in (self.folder, self.folder / "bells", self.folder / "run"):
                folder.mkdir(mode=0o700, exist_ok=True)
            if os.stat(self.folder).st_mode & 0o077:
                os.chmod(self.folder, 0o700)
        except OSError as error:
            raise self.unwritable(error) from error


def _refuse_network(folder: Path) -> None:
    kind = filesystem_of(folder)
    if kind in _NETWORK:
        msg = f"{folder} is on a network filesystem ({kind}), where SQLite loses data; use a local disk"
        raise StoreError(msg)


def filesystem_of(folder: Path, mounts: str = "/proc/self/mountinfo") -> str:
    """Return the type of the filesystem that holds *folder*; empty where the system does not tell."""
    best, kind = "", ""
    try:
        lines = Path(mounts).read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    place = str(folder.absolute())
    for line in lines:
        left, _, right = line.partition(" - ")
        point = _OCTAL.sub(lambda match: chr(int(match[1], 8)), left.split()[4])
        inside = point == "/" or place == point or place.startswith(point + "/")
        if inside and len(point) >= len(best):
            best, kind = point, right.split()[0]
    return kind
