"""Files that are not what they should be, and disks that are full: an error that says what to do."""

import asyncio
import contextlib
import gc
import os
import shutil
import signal
import sqlite3
import time
from pathlib import Path

import pytest

from litestar_queues.exceptions import StoreCorrupt, StoreError, StoreFull, StoreLocked
from litestar_queues.lifecycle import Succeeded
from litestar_queues.models import Query, Status
from litestar_queues.store import Store, open_store
from litestar_queues.store.sqlite import ballast, checkpoints, turnstile
from litestar_queues.store.sqlite import connection as connecting
from litestar_queues.store.sqlite.connection import OutcomeUnknown, explain
from litestar_queues.store.sqlite.location import Location
from store.making import NOW, claim, new_job, new_jobs, settlement, status_of
from store.processes import start, url_of
from support.disks import small_disk

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.fault("C7", "a damaged header", "refused")
async def test_a_damaged_header_is_refused(tmp_path: Path, create: bool) -> None:
    path = tmp_path / "q.db"
    path.write_bytes(b"this is not a database, whatever its name says" * 100)
    with pytest.raises(StoreCorrupt, match=r"\.recover"):
        await open_store(url_of(path), create=create)
    assert path.read_bytes().startswith(b"this is not")


async def test_a_database_without_our_tables_is_no_queue_to_a_reader(tmp_path: Path) -> None:
    path = tmp_path / "q.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE users (name TEXT)")
    connection.close()
    with pytest.raises(StoreCorrupt, match=r"holds no queue.*lq worker"):
        await open_store(url_of(path), create=False)
    (tmp_path / "empty.db").touch()
    with pytest.raises(StoreCorrupt, match="holds no queue"):
        await open_store(url_of(tmp_path / "empty.db"), create=False)
    assert (tmp_path / "empty.db").stat().st_size == 0


@pytest.mark.parametrize("how", ["deleted", "replaced"])
@pytest.mark.fault("C4", "the file is deleted or replaced", "noticed at the next write")
async def test_a_file_that_goes_away_under_us_is_noticed_at_the_next_write(tmp_path: Path, how: str) -> None:
    path = tmp_path / "q.db"
    async with await open_store(url_of(path)) as store:
        await store.add([new_job()])
        if how == "deleted":
            path.unlink()
        else:
            shutil.copy(path, tmp_path / "backup")
            os.replace(tmp_path / "backup", path)
        for _ in range(2):
            with pytest.raises(StoreCorrupt, match="replaced or deleted"):
                await store.add([new_job()])


@pytest.mark.fault("C6", "the write-ahead log is deleted or replaced under us", "noticed at the next write")
@pytest.mark.parametrize("how", ["deleted", "replaced"])
async def test_a_log_that_goes_away_under_us_is_noticed_at_the_next_write(tmp_path: Path, how: str) -> None:
    path = tmp_path / "q.db"
    log = tmp_path / "q.db-wal"
    async with await open_store(url_of(path)) as store:
        await store.add([new_job()])
        log.unlink()
        if how == "replaced":
            log.write_bytes(b"")
        for _ in range(2):
            with pytest.raises(StoreCorrupt, match=r"q\.db-wal was replaced or deleted"):
                await store.add([new_job()])


@pytest.mark.parametrize("left", [0, 4096])
@pytest.mark.fault("C6", "the write-ahead log is truncated under us", "noticed at the next write")
async def test_a_log_that_is_truncated_under_us_is_noticed_at_the_next_write(tmp_path: Path, left: int) -> None:
    """Before, jobs went on to be acknowledged, and the database was malformed."""
    async with await open_store(url_of(tmp_path / "q.db")) as store:
        for _ in range(3):
            await store.add(new_jobs(100))
        os.truncate(tmp_path / "q.db-wal", left)
        for _ in range(2):
            with pytest.raises(StoreCorrupt, match=r"q\.db-wal was truncated"):
                await store.add([new_job()])


async def test_a_log_that_another_program_has_emptied_in_good_order_is_no_damage(tmp_path: Path) -> None:
    async with await open_store(url_of(tmp_path / "q.db")) as store:
        await store.add(new_jobs(100))
        with contextlib.closing(sqlite3.connect(tmp_path / "q.db")) as other:
            assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall() == [(0, 0, 0)]
        assert (tmp_path / "q.db-wal").stat().st_size == 0
        for _ in range(2):
            await store.add([new_job()])
        assert (await store.statistics())["default"].pending == 102


@pytest.mark.fault("C6", "the shared memory is truncated under us (SIGBUS)", "all that was acknowledged is there")
def test_shared_memory_that_is_truncated_under_us_costs_the_process_and_no_job(tmp_path: Path) -> None:
    code = """
async def main():
    store = await open_store(url)
    say((await store.add(new_jobs(100)))[-1].number)
    os.truncate(url.removeprefix("sqlite:///") + "-shm", 0)
    while True:
        say((await store.add([new_job()]))[0].number)
asyncio.run(main())
"""
    process = start(code, url_of(tmp_path / "q.db"))
    said = process.communicate(timeout=60)[0].split()
    assert process.returncode == -signal.SIGBUS
    with contextlib.closing(sqlite3.connect(tmp_path / "q.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        [(count,)] = connection.execute("SELECT count(*) FROM lq_job").fetchall()
    assert count >= int(said[-1]) >= 100


@pytest.mark.parametrize("left", [100, 4096, 60_000])
@pytest.mark.parametrize("create", [True, False])
@pytest.mark.fault("C7", "a database that has been truncated", "refused, with the way to save it")
async def test_a_truncated_database_is_refused(tmp_path: Path, left: int, create: bool) -> None:
    path = tmp_path / "q.db"
    async with await open_store(url_of(path)) as store:
        await store.add(new_jobs(500))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    os.truncate(path, left)

    async def use() -> None:
        async with await open_store(url_of(path), create=create) as store:
            await store.find(Query(limit=500))

    with pytest.raises(StoreCorrupt, match=r"\.recover"):
        await use()


@pytest.mark.fault("C11", "another program holds the write lock", "an error after the deadline, once for all who wait")
async def test_a_lock_that_is_not_let_go_is_an_error_for_all_who_wait_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "BUSY", 0.2)
    path = tmp_path / "q.db"
    async with await open_store(url_of(path)) as store:
        rude = sqlite3.connect(path, isolation_level=None)
        rude.execute("BEGIN IMMEDIATE")
        async with asyncio.timeout(2):  # once for the group, not once for each of the twenty
            failures = await asyncio.gather(*(store.add([new_job()]) for _ in range(20)), return_exceptions=True)
        assert {type(failure) for failure in failures} == {StoreLocked}
        assert "another program" in str(failures[0])
        assert len({id(failure) for failure in failures}) == 20, "each caller has an exception of its own"
        rude.execute("ROLLBACK")
        rude.close()
        await store.add([new_job()])
        assert (await store.statistics())["default"].pending == 1


async def test_a_turn_that_never_comes_is_gone_without_after_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import fcntl

    monkeypatch.setattr(turnstile, "PATIENCE", 0.05)
    async with await open_store(url_of(tmp_path / "q.db")) as store:
        for name in ("turn", "write"):
            with open(tmp_path / "q.db.lq" / name) as held:
                fcntl.flock(held, fcntl.LOCK_EX)
                for _ in range(20):
                    await store.add([new_job()])
    assert (tmp_path / "q.db").exists()
    assert len([record for record in caplog.records if "without a turn" in record.message]) == 1, "said once"


@pytest.mark.fault("D6", "a claim that has to wait for its turn to write", "dated when it has it")
async def test_a_claim_is_dated_when_its_turn_has_come(tmp_path: Path) -> None:
    import fcntl

    async with await open_store(url_of(tmp_path / "q.db")) as store:
        await store.add([new_job()])
        with open(tmp_path / "q.db.lq" / "write") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            begun = time.monotonic_ns()
            claiming = asyncio.ensure_future(claim(store, now=NOW))
            await asyncio.sleep(0)  # it has asked
            asked = time.monotonic_ns()
            for _ in range(5):  # a few milliseconds
                assert await status_of(store, 1) == "pending"
            free = time.monotonic_ns()
        assert len(await claiming) == 1
        ended = time.monotonic_ns()
    with contextlib.closing(sqlite3.connect(tmp_path / "q.db")) as connection:
        [(claimed_at,)] = connection.execute("SELECT claimed_at FROM lq_job").fetchall()
    assert NOW + (free - asked) // 1_000 <= claimed_at <= NOW + (ended - begun) // 1_000


@pytest.mark.fault("D14", "a claim of more arguments together than SQLite puts into one value", "all are claimed")
async def test_jobs_whose_arguments_fit_no_one_value_are_claimed_all_the_same(tmp_path: Path) -> None:
    async with await open_store(url_of(tmp_path / "q.db")) as store:
        payload = '{"args":["' + "x" * 200_000 + '"],"kwargs":{}}'
        await store.add(new_jobs(11, payload=payload))
        limit = sqlite3.SQLITE_LIMIT_LENGTH  # 1 GB, which is what 30 jobs of 30 MiB are
        await store._run(lambda transaction: transaction._connection.setlimit(limit, 1_000_000))  # type: ignore[attr-defined]
        # As those are that an older release has added, which did not say how large they are.
        await store._run(lambda transaction: transaction.change("UPDATE lq_job SET payload_bytes = 0", ()))  # type: ignore[attr-defined]
        jobs = await claim(store, 11)
        assert [job.number for job in jobs] == list(range(1, 12))
        assert {job.payload for job in jobs} == {payload}


@pytest.mark.parametrize("size", [10, 10_000])
async def test_who_has_read_a_text_that_is_none_sees_what_comes_after(tmp_path: Path, size: int) -> None:
    async with await open_store(url_of(tmp_path / "q.db")) as store:
        await store.add(new_jobs(2, payload='{"args":["' + "x" * size + '"],"kwargs":{}}'))
        with contextlib.closing(sqlite3.connect(tmp_path / "q.db", isolation_level=None)) as connection:
            connection.execute("UPDATE lq_job SET payload = CAST(X'E4' AS TEXT) WHERE number = 1 AND payload != ''")
            connection.execute("UPDATE lq_payload SET text = CAST(X'E4' AS TEXT) WHERE job = 1")
        [damaged, _] = await store.get([1, 2])
        assert damaged is not None
        assert damaged.payload == "\N{REPLACEMENT CHARACTER}"
        gc.disable()
        try:
            assert [job.payload[:9] for job in await claim(store)] == ["\N{REPLACEMENT CHARACTER}", '{"args":[']
            assert await status_of(store, 2) == "running"
        finally:
            gc.enable()


async def fill(store: Store, size: int = 10_000) -> tuple[int, StoreFull]:
    """Add jobs of *size* bytes until the disk is full; return how many were accepted, and what the caller was told."""
    accepted = 0
    while accepted < 5_000:
        try:
            await store.add([new_job(payload='{"args":["' + "x" * size + '"],"kwargs":{}}')])
        except StoreFull as error:
            return accepted, error
        accepted += 1
    raise AssertionError("the disk is not full")


def count_on(disk: Path) -> int:
    with contextlib.closing(sqlite3.connect(disk / "q.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        [(count,)] = connection.execute("SELECT count(*) FROM lq_job").fetchall()
    return int(count)


@pytest.mark.fault("C1", "a disk that is full, too small for any reserve", "StoreFull to the caller, nothing lost")
async def test_a_full_disk_is_an_error_and_loses_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path, 1) as disk:
        await _meet_a_full_disk(disk)


async def _meet_a_full_disk(disk: Path) -> None:
    async with await open_store(url_of(disk / "q.db")) as store:
        await store.add(new_jobs(5))
        running = await claim(store, 5)
        (disk / "other").write_bytes(b"x" * 200_000)
        accepted, failure = await fill(store)
        assert "free some space" in str(failure)
        assert accepted > 0
        assert sum(each.total for each in (await store.statistics()).values()) == accepted + 5
        (disk / "other").unlink()
        assert await store.settle([settlement(job) for job in running]) == ["settled"] * 5
        await store.add([new_job()])
    assert count_on(disk) == accepted + 6


@pytest.mark.fault(
    "C1", "a disk that stays full while jobs end", "they are recorded in the ballast's room; later all goes on"
)
async def test_what_has_run_is_recorded_on_a_full_disk_and_nothing_else(tmp_path: Path) -> None:
    with small_disk(tmp_path, 20) as disk:
        await _record_on_a_full_disk(disk)


async def _record_on_a_full_disk(disk: Path) -> None:
    reserve = disk / "q.db.lq" / "ballast"
    async with await open_store(url_of(disk / "q.db")) as store:
        assert (reserve.stat().st_size, reserve.stat().st_blocks * 512) == (ballast.SIZE, ballast.SIZE)
        await store.add(new_jobs(30))
        running = await claim(store, 30)
        (disk / "other").write_bytes(b"x" * 8 * 1024 * 1024)
        accepted, _ = await fill(store)
        await fill(store, 10)
        assert reserve.stat().st_size == ballast.SIZE, "nobody else gets it"
        result = Succeeded('"' + "y" * 50_000 + '"')
        for job in running:
            assert await store.settle([settlement(job, result)]) == ["settled"]
        assert reserve.stat().st_size == 0
        with pytest.raises(StoreFull):
            await store.add([new_job()])
        with pytest.raises(StoreFull):
            await claim(store, 1)
        (disk / "other").unlink()
        await store.add([new_job()])
        assert reserve.stat().st_size == ballast.SIZE, "taken up again"
        assert len(await claim(store, 1)) == 1
        assert (await store.statistics())["default"].completed == 30
    assert count_on(disk) > accepted + 30


@pytest.mark.fault("C2", "a commit that fails", "the error says that the outcome is unknown")
async def test_a_failed_commit_says_that_the_outcome_is_unknown(tmp_path: Path) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
    unknown = OutcomeUnknown()
    unknown.__cause__ = error
    location = Location.of(url_of(tmp_path / "q.db"))
    assert "unknown" in str(explain(unknown, location))
    assert "same ids" in str(explain(unknown, location))
    assert "nothing of this was stored" in str(explain(error, location))
    assert isinstance(explain(error, location), StoreError)
    assert explain(ValueError("ours"), location).args == ("ours",)


@pytest.mark.fault("C10", "a log that cannot be checkpointed for a while", "it is, as soon as that is possible")
async def test_the_log_does_not_grow_for_ever(tmp_path: Path) -> None:
    wal = tmp_path / "q.db-wal"
    async with await open_store(url_of(tmp_path / "q.db"), durability="process") as store:
        for _ in range(300):
            await store.add(new_jobs(100))
        assert wal.stat().st_size < 16 * 1024 * 1024, wal.stat().st_size


@pytest.mark.fault("C10", "pruning beside a full load", "the log stays as short as without it")
async def test_the_log_stays_bounded_while_jobs_are_added_ended_and_pruned(tmp_path: Path) -> None:
    wal = tmp_path / "q.db-wal"
    sizes: list[int] = []
    async with await open_store(url_of(tmp_path / "q.db"), durability="process") as store:
        for turn in range(90):
            await store.add(new_jobs(100))
            await store.settle([settlement(job) for job in await claim(store, 100)])
            await store.prune({Status.COMPLETED: 0}, now=NOW + 99)
            sizes.append(wal.stat().st_size)
            assert sum(each.total for each in (await store.statistics()).values()) <= 200, turn
    assert max(sizes) < 12 * 1024 * 1024, sizes


@pytest.mark.fault("C10", "a reader that stays, while jobs are pruned", "the log is cut as soon as it has gone")
async def test_a_log_that_a_reader_has_kept_is_cut_when_it_has_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "TRUNCATE_AT", 6 * 1024 * 1024)
    wal = tmp_path / "q.db-wal"
    async with await open_store(url_of(tmp_path / "q.db"), durability="process") as store:
        await store.add(new_jobs(100))
        reader = sqlite3.connect(tmp_path / "q.db", isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM lq_job").fetchall()

        async def work() -> None:
            await store.add(new_jobs(100))
            await store.settle([settlement(job) for job in await claim(store, 100)])
            await store.prune({Status.COMPLETED: 0}, now=NOW + 99)

        while wal.stat().st_size <= 2 * checkpoints.TRUNCATE_AT:
            await work()
        reader.close()
        for _ in range(2 * checkpoints.LOOK_EVERY):
            await work()
        assert wal.stat().st_size <= checkpoints.TRUNCATE_AT


async def test_the_most_careful_store_of_the_process_decides_about_durability(tmp_path: Path) -> None:
    url = url_of(tmp_path / "q.db")
    async with await open_store(url, durability="process") as careless:

        async def level() -> int:
            def read(transaction: object) -> int:
                [(value,)] = transaction.rows("PRAGMA synchronous")  # type: ignore[attr-defined]
                return int(value)

            return await careless._run(read)  # type: ignore[attr-defined]

        assert await level() == 1
        async with await open_store(url, durability="power"):
            assert await level() == 2
