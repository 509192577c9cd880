"""From each version of the schema to the next, whoever else does the same, wherever it is cut off."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from litestar_queues.exceptions import StoreError, StoreTooNew
from litestar_queues.ids import uuid7
from litestar_queues.lifecycle import Succeeded, settle
from litestar_queues.models import Status
from litestar_queues.store import open_store
from litestar_queues.store.base import Verdict, Want
from litestar_queues.store.sqlite import migrations
from litestar_queues.store.sqlite.migrations import STEPS, Step, migrate, version_of
from store.making import new_job
from store.processes import finish, run, start, url_of

pytestmark = pytest.mark.anyio
NEWEST = STEPS[-1].version
NEXT_STEP = Step(
    NEWEST + 1,
    1,
    "ALTER TABLE lq_job ADD COLUMN colour TEXT;\nCREATE TABLE lq_more (x TEXT);\nINSERT INTO lq_more VALUES ('a;b');\n",
)
FILES = 10
"""One race is won by chance: without our care 7 of 200 opens failed."""
OPEN = """
async def main():
    async with await open_store(url) as store:
        [added] = await store.add([new_job()])
        say(added.number)
sys.stdin.readline()
asyncio.run(main())
"""


def connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, timeout=10)


def set_meta(path: Path, **values: int) -> None:
    connection = connect(path)
    for name, value in values.items():
        connection.execute("UPDATE lq_meta SET value = ? WHERE name = ?", (str(value), name))
    connection.close()


OPEN_MANY = """
async def main():
    for at in range({files}):
        sys.stdin.readline()
        async with await open_store(url + str(at)) as store:
            [added] = await store.add([new_job()])
            say(added.number)
say("ready")
asyncio.run(main())
"""


def open_in_eight_processes(path: Path, files: int) -> list[list[int]]:
    """Open each of the files in all of them at once, add a job in each, and return the jobs' numbers by file."""
    processes = [start(OPEN_MANY.format(files=files), url_of(path)) for _ in range(8)]
    numbers: list[list[int]] = []
    for at in range(-1, files):
        if at >= 0:
            for process in processes:  # all at once
                assert process.stdin is not None
                process.stdin.write("go\n")
                process.stdin.flush()
        said = [process.stdout.readline() for process in processes if process.stdout is not None]
        if at < 0:
            assert said == ["ready\n"] * 8
        else:
            assert all(each.strip().isdigit() for each in said), said
            numbers.append(sorted(map(int, said)))
    finish(processes)
    return numbers


async def test_a_fresh_file_gets_the_newest_version(tmp_path: Path) -> None:
    async with await open_store(url_of(tmp_path / "q.db")):
        pass
    connection = connect(tmp_path / "q.db")
    assert version_of(connection) == STEPS[-1].version
    connection.close()


@pytest.mark.fault("C16", "eight processes open a fresh file at once", "all succeed")
def test_eight_processes_that_open_one_fresh_file_all_succeed(tmp_path: Path) -> None:
    assert open_in_eight_processes(tmp_path / "q.db", FILES) == [list(range(1, 9))] * FILES


async def test_a_step_is_taken_once_and_the_jobs_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = url_of(tmp_path / "q.db")
    async with await open_store(url) as store:
        await store.add([new_job()])
    monkeypatch.setattr(migrations.migrate, "__defaults__", ((*STEPS, NEXT_STEP),))
    for _ in range(2):
        async with await open_store(url) as store:
            assert (await store.statistics())["default"].pending == 1
            await store.add([new_job(queue="more")])
    connection = connect(tmp_path / "q.db")
    assert version_of(connection) == NEWEST + 1
    assert connection.execute("SELECT x FROM lq_more").fetchall() == [("a;b",)]
    connection.close()


@pytest.mark.fault("B18", "an old program on a newer file", "works where that is allowed")
async def test_an_old_program_works_on_a_newer_file_that_still_allows_it(tmp_path: Path) -> None:
    url = url_of(tmp_path / "q.db")
    async with await open_store(url):
        pass
    connection = connect(tmp_path / "q.db")
    migrate(connection, "q.db", (*STEPS, NEXT_STEP))
    connection.close()
    async with await open_store(url) as store, await open_store(url, create=False) as reader:
        await store.add([new_job()])
        assert (await reader.statistics())["default"].pending == 1


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.fault("C18", "a file that only a newer release understands", "refused, not a byte changed")
async def test_a_file_that_is_too_new_is_refused_and_not_touched(tmp_path: Path, create: bool) -> None:
    path = tmp_path / "q.db"
    async with await open_store(url_of(path)):
        pass
    set_meta(path, version=9, oldest=8)
    connection = connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreTooNew, match=r"version 9.*upgrade"):
        await open_store(url_of(path), create=create)
    assert path.read_bytes() == before


@pytest.mark.fault("C17", "kill -9 in the middle of a migration", "the version before, whole")
def test_a_step_that_is_killed_in_the_middle_leaves_the_version_before(tmp_path: Path) -> None:
    code = """
import sqlite3
from litestar_queues.store.sqlite.migrations import STEPS, Step, migrate
connection = sqlite3.connect(url, isolation_level=None)
connection.execute("PRAGMA journal_mode = WAL").fetchall()
migrate(connection, url)
connection.create_function("die", 0, lambda: os.kill(os.getpid(), 9))
migrate(connection, url, (*STEPS, Step(STEPS[-1].version + 1, 1, "CREATE TABLE lq_half (x TEXT);\\nSELECT die();\\n")))
"""
    process = start(code, str(tmp_path / "q.db"))
    said = process.communicate(timeout=60)[0]
    assert process.returncode == -9, said
    connection = connect(tmp_path / "q.db")
    assert version_of(connection) == NEWEST
    assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'lq_half'").fetchall() == [(0,)]
    connection.close()
    assert run(OPEN.replace("sys.stdin.readline()", ""), url_of(tmp_path / "q.db")) == "1\n"


def test_a_step_that_fails_is_undone(tmp_path: Path) -> None:
    connection = connect(tmp_path / "q.db")
    broken = Step(NEWEST + 1, 1, "CREATE TABLE lq_half (x TEXT);\nCREATE TABLE lq_half (x TEXT);\n")
    with pytest.raises(sqlite3.OperationalError):
        migrate(connection, "q.db", (*STEPS, broken))
    assert not connection.in_transaction
    assert version_of(connection) == NEWEST
    connection.close()


def write_old_file(path: Path, version: int, jobs: list[dict[str, object]]) -> None:
    """Write a file of an old version, with SQLite alone, as a release of that version did."""
    with closing(connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        migrate(connection, "q.db", STEPS[:version])
        for number, changes in enumerate(jobs):
            old: dict[str, object] = {
                "id": str(uuid7(number)), "task": "t", "queue": "default", "backend": "local", "status": "pending",
                "priority": 0, "payload": "{}", "checksum": 0, "key_scope": "t", "key_forever": 0, "max_retries": 0,
                "kill_grace": 0, "created_at": 1, "run_at": 1, "sequence": 1,
            } | changes  # fmt: skip
            names, marks = ", ".join(old), ", ".join("?" * len(old))
            connection.execute(f"INSERT INTO lq_job ({names}) VALUES ({marks})", tuple(old.values()))
            count = "INSERT INTO lq_tally VALUES ('default', ?, 1) ON CONFLICT DO UPDATE SET count = count + 1"
            connection.execute(count, (old["status"],))
            if old["key_forever"]:
                columns = "key_scope, key, number, id"
                bury = f"INSERT INTO lq_key ({columns}) SELECT {columns} FROM lq_job WHERE id = ?"
                connection.execute(bury, (old["id"],))


async def test_the_jobs_of_a_file_of_version_1_can_be_claimed_and_settled(tmp_path: Path) -> None:
    url = url_of(tmp_path / "q.db")
    write_old_file(tmp_path / "q.db", 1, [{}])
    async with await open_store(url) as store:
        claims = await store.claim("node", [Want(1)], now=2)
        [[job]] = claims.jobs
        assert (job.max_rss, job.allow_background, job.suspect) == (None, False, False)
        assert await store.settle([settle(job, Succeeded("1"), now=3)]) == [Verdict.SETTLED]


async def test_the_jobs_of_a_file_of_version_2_are_kept_as_the_configuration_says_and_pruned(tmp_path: Path) -> None:
    url = url_of(tmp_path / "q.db")
    ended = {"status": "failed", "ended_at": 5}
    old = [{}, ended | {"key": "k", "key_forever": 1}, ended, {"status": "completed", "ended_at": 5, "result": "1"}]
    write_old_file(tmp_path / "q.db", 2, old)
    with pytest.raises(StoreError, match="made by an older release; start lq worker"):
        await open_store(url, create=False)
    async with await open_store(url) as store:
        assert (await store.prunable({Status.FAILED: 10}, now=20)).jobs == {Status.FAILED: 2}
        assert (await store.prune({Status.FAILED: 10}, now=14)).jobs == {}
        assert (await store.prune({Status.FAILED: 10}, now=15)).jobs == {Status.FAILED: 2}
        counts = (await store.statistics())["default"]
        assert (counts.pending, counts.failed, counts.completed) == (1, 0, 1)
        [again] = await store.add([new_job(task="t", key_scope="t", key="k")])
        assert (again.number, again.status, again.deduplicated) == (2, "failed", True)


async def test_a_release_of_version_3_which_would_not_find_large_texts_is_refused(tmp_path: Path) -> None:
    async with await open_store(url_of(tmp_path / "q.db")):
        with pytest.raises(StoreTooNew):
            write_old_file(tmp_path / "q.db", 3, [{}])


async def test_large_texts_of_a_file_of_version_3_are_found_where_they_are(tmp_path: Path) -> None:
    large = '{"args":["' + "x" * 100_000 + '"],"kwargs":{}}'
    ended = {"status": "completed", "ended_at": 5, "result": f'"{large!r}"'}
    write_old_file(tmp_path / "q.db", 3, [{"payload": large}, {"payload": large} | ended])
    async with await open_store(url_of(tmp_path / "q.db")) as store:
        [[job]] = (await store.claim("node", [Want(1)], now=2)).jobs
        [_, other] = await store.get([1, 2])
        assert job.payload == large
        assert other is not None
        assert (other.payload, other.result_json) == (large, ended["result"])
        assert (await store.prune({Status.COMPLETED: 0}, now=15)).jobs == {Status.COMPLETED: 1}


@pytest.mark.fault("C16", "eight processes migrate a file of version 1 at once", "all succeed, each step is taken once")
def test_eight_processes_that_migrate_one_old_file_all_succeed(tmp_path: Path) -> None:
    for at in range(FILES):
        connection = connect(tmp_path / f"q.db{at}")
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        migrate(connection, "q.db", STEPS[:1])
        connection.close()
    assert open_in_eight_processes(tmp_path / "q.db", FILES) == [list(range(1, 9))] * FILES
    for at in range(FILES):
        connection = connect(tmp_path / f"q.db{at}")
        assert version_of(connection) == NEWEST
        connection.close()
