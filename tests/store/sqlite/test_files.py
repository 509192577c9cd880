"""Where the files are, who may read them, and what a URL means."""

import contextlib
import os
import shutil
import sqlite3
import stat
import tempfile
from pathlib import Path

import pytest

from litestar_queues.exceptions import QueueConfigurationError, StoreError, StoreMissing
from litestar_queues.store import open_store
from litestar_queues.store.sqlite import location as place
from litestar_queues.store.sqlite.location import Location, filesystem_of
from store.making import claim, new_job
from store.processes import run, url_of

pytestmark = pytest.mark.anyio


def mode(path: Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


async def test_only_the_owner_may_read_what_is_stored(tmp_path: Path) -> None:
    before = os.umask(0o000)
    try:
        async with await open_store(url_of(tmp_path / "q.db")) as store:
            await store.add([new_job()])
            files = {path.name: mode(path) for path in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert files == {"q.db": 0o600, "q.db-wal": 0o600, "q.db-shm": 0o600, "q.db.lq": 0o700}
    assert {mode(path) for path in (tmp_path / "q.db.lq").iterdir() if path.is_dir()} == {0o700}
    assert store.folder == str(tmp_path / "q.db.lq")


async def test_a_folder_that_others_can_enter_is_closed_to_them(tmp_path: Path) -> None:
    (tmp_path / "q.db.lq").mkdir()
    os.chmod(tmp_path / "q.db.lq", 0o777)
    async with await open_store(url_of(tmp_path / "q.db")):
        assert mode(tmp_path / "q.db.lq") == 0o700


async def test_a_file_that_is_there_keeps_its_mode_and_its_other_tables(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE users (name TEXT)")
        connection.execute("INSERT INTO users VALUES ('ada')")
    connection.close()
    os.chmod(path, 0o640)
    async with await open_store(url_of(path)) as store:
        await store.add([new_job()])
    assert mode(path) == 0o640
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT name FROM users").fetchall() == [("ada",)]
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")}
    connection.close()
    assert all(name == "users" or name.startswith("lq_") for name in names), names


@pytest.mark.parametrize("name", ["a b.db", "ü – 🙂.db", "what?.db", "a#b%20c.db", "%.db", "'\".db", "x" * 200 + ".db"])
@pytest.mark.fault("C21", "spaces, question marks, 200 characters in the path", "works")
async def test_a_name_of_any_kind_works(tmp_path: Path, name: str) -> None:
    url = url_of(tmp_path / name)
    async with await open_store(url) as store, await open_store(store.url) as other, store.listen() as bell:
        await other.add([new_job()])
        assert await bell.wait(20)
        assert len(await claim(store)) == 1
    assert (tmp_path / name).exists()


async def test_a_relative_path_starts_at_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with await open_store("sqlite:///q.db") as store:
        assert store.url == f"sqlite:///{tmp_path}/q.db"


async def test_a_link_and_its_target_are_one_store(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "q.db")
    async with await open_store(url_of(tmp_path / "link.db")) as store:
        assert store.url == url_of(tmp_path / "q.db")


async def test_a_private_store_is_gone_when_it_is_closed() -> None:
    async with await open_store("sqlite://") as one, await open_store("sqlite://") as two:
        assert one.url != two.url
        await one.add([new_job()])
        assert await two.statistics() == {}
        folder = Path(one.folder).parent
        assert mode(folder) == 0o700
    assert not folder.exists()


@pytest.mark.parametrize("url", ["sqlite:relative.db", "sqlite:///", "sqlite://host/x.db", "mysql://x"])
async def test_a_url_that_names_no_file_is_refused(url: str) -> None:
    with pytest.raises(QueueConfigurationError, match="sqlite:///"):
        await open_store(url)


async def test_a_folder_is_no_database_and_a_missing_folder_is_said(tmp_path: Path) -> None:
    for create in (True, False):
        with pytest.raises(StoreError, match="is a folder"):
            await open_store(url_of(tmp_path), create=create)
    with pytest.raises(StoreMissing, match="does not exist"):
        await open_store(url_of(tmp_path / "nowhere" / "q.db"))


@pytest.mark.fault("C20", "a network file system", "refused")
async def test_a_network_filesystem_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "filesystem_of", lambda folder: "nfs4")
    with pytest.raises(StoreError, match="network filesystem"):
        await open_store(url_of(tmp_path / "q.db"))
    assert list(tmp_path.iterdir()) == []


def test_the_filesystem_is_that_of_the_innermost_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 8:1 / / rw - ext4 /dev/sda rw\n30 22 0:50 / /mnt/the\\040share rw shared:1 - nfs4 host:/x rw\n"
        "31 22 0:51 / /mnt/the rw - tmpfs tmpfs rw\n"
    )
    assert filesystem_of(Path("/mnt/the share/deep"), str(mounts)) == "nfs4"
    assert filesystem_of(Path("/mnt/the shared"), str(mounts)) == "ext4"
    assert filesystem_of(Path("/mnt/the"), str(mounts)) == "tmpfs"
    assert filesystem_of(Path("/"), str(tmp_path / "none")) == ""


def test_our_own_filesystem_is_known() -> None:
    assert filesystem_of(Path.cwd()) != ""
    assert Location.of("sqlite:////x.db").uri("ro") == "file:/x.db?mode=ro"


# Reading only


async def test_reading_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(StoreMissing, match=r"no database at .*lq worker.*--url"):
        await open_store(url_of(tmp_path / "q.db"), create=False)
    with pytest.raises(StoreMissing):
        await open_store("sqlite://", create=False)
    assert list(tmp_path.iterdir()) == []


async def test_a_reader_reads_and_cannot_write_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "q.db"
    run(
        "async def main():\n async with await open_store(url) as s: await s.add([new_job()])\nasyncio.run(main())",
        url_of(path),
    )
    connection = sqlite3.connect(path)  # a last one, that leaves no log behind
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    shutil.rmtree(tmp_path / "q.db.lq")
    async with await open_store(url_of(path), create=False) as store:
        assert [job and job.number for job in await store.get([1])] == [1]
        with pytest.raises(StoreError, match="reading only"):
            await store.add([new_job()])
        async with store.listen([1]) as bell:
            assert not await bell.wait(0.01), "no folder, no bell; its listener looks by itself"
    assert not (tmp_path / "q.db.lq").exists()


async def test_a_reader_sees_what_a_writer_beside_it_commits(tmp_path: Path) -> None:
    url = url_of(tmp_path / "q.db")
    async with await open_store(url) as store, await open_store(url, create=False) as reader:
        for number in range(1, 4):
            await store.add([new_job()])
            assert (await reader.statistics())["default"].pending == number
        async with reader.listen() as bell:
            await store.add([new_job()])
            assert await bell.wait(20)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become somebody who may only read")
@pytest.mark.parametrize("beside", ["a writer", "nobody"])
async def test_who_may_only_read_the_file_reads_it(beside: str) -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to others
        os.chmod(folder, 0o755)
        await _read_as_somebody_else(Path(folder), beside)


async def _read_as_somebody_else(folder: Path, beside: str) -> None:
    path = folder / "q.db"
    code = """
become(65534)
async def main():
    async with await open_store(url, create=False) as store:
        say((await store.statistics())["default"].pending)
    try:
        await open_store(url)
    except StoreReadOnly as error:
        say("refused:", error)
asyncio.run(main())
"""
    store = await open_store(url_of(path))
    try:
        await store.add([new_job()])
        if beside == "nobody":
            await store.close()
            connection = sqlite3.connect(path)  # a last one, that leaves no WAL behind
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.close()
        for name in ("q.db", "q.db-wal", "q.db-shm"):
            if (folder / name).exists():
                os.chmod(folder / name, 0o644)
        said = run(code, url_of(path))
    finally:
        await store.close()
    assert said.startswith("1\n"), said
    assert "refused:" in said, said
    assert "cannot be written by user 65534" in said, said


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become somebody who may not read")
@pytest.mark.fault("C9", "a file that may not be read", "a sentence that names it")
def test_who_may_not_even_read_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "q.db").touch()
    os.chmod(tmp_path, 0o700)
    code = """
become(65534)
for create in (True, False):
    try:
        asyncio.run(open_store(url, create=create))
    except StoreReadOnly as error:
        say("refused:", error)
"""
    said = run(code, url_of(tmp_path / "q.db"))
    assert said.count("refused:") == 2, said
    assert said.count("user 65534") == 2, said


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
async def test_large_arguments_come_back_from_a_file_of_another_encoding(tmp_path: Path, encoding: str) -> None:
    """The application's own, which it made so."""
    with contextlib.closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        connection.execute(f"PRAGMA encoding = '{encoding}'")
        connection.execute("CREATE TABLE mine (x)")
    payloads = ['{"args":["' + "é\U0001f600x" * size + '"],"kwargs":{}}' for size in (2_000, 1, 3_000)]
    async with await open_store(f"sqlite:///{tmp_path}/app.db") as store:
        await store.add([new_job(payload=payload) for payload in payloads])
        assert [job.payload for job in await claim(store)] == payloads
