"""Rules of the package that a reader would otherwise have to remember."""

import asyncio
import re
import sqlite3
import time
from pathlib import Path

import pytest

from litestar_queues.lifecycle import Succeeded
from litestar_queues.models import Query, Status
from litestar_queues.store import Want, open_store
from litestar_queues.store.sqlite import adding, claiming, reading, settling, telling, transaction
from litestar_queues.store.sqlite.transaction import ManyRows
from store.making import NOW, claim, new_jobs, settlement
from store.steps import counted

PACKAGE = Path(adding.__file__).parent


@pytest.mark.fault("C5", "our own code, searched", "nobody opens the database but sqlite3")
def test_nobody_opens_the_database_file_but_sqlite() -> None:
    """Closing a descriptor of it drops SQLite's locks for the whole process. What is opened is: the file's
    creation, which can only make a new one, the log, on which SQLite has no locks, and folders and lock files.
    """
    opening = re.compile(r"\bopen\(|\bread_bytes\(|\bread_text\(|shutil\.(copy|move)|\bmmap\.mmap\(|\bos\.truncate\b")
    found = [
        f"{path.name}: {line.strip()}"
        for path in sorted(PACKAGE.glob("*.py"))
        for line in path.read_text().splitlines()
        if opening.search(line)
        and not re.search(r"def (_?open|wait_until_open)|_reader\.open\(|open_store\(|self\._open\(", line)
    ]
    assert found == [
        "ballast.py: os.truncate(self._path, 0)",
        "ballast.py: descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)",
        "ballast.py: os.truncate(self._path, 0)",
        "bells.py: self._descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)",
        "bells.py: self._descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)",
        "files.py: self._log_descriptor = os.open(self._log, os.O_RDONLY | os.O_CLOEXEC)",
        "handover.py: self._shared = mmap.mmap(self._descriptor, _SIZE)",
        "handover.py: descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)",
        "location.py: os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))",
        'location.py: lines = Path(mounts).read_text(encoding="utf-8").splitlines()',
        'migrations.py: return files(__package__).joinpath(name).read_text(encoding="utf-8")',
        "turnstile.py: return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)",
    ]


def test_no_transaction_is_deferred_and_no_script_commits_by_itself() -> None:
    text = "\n".join(path.read_text() for path in PACKAGE.glob("*.py"))
    assert set(re.findall(r'"BEGIN[^"]*"', text)) == {'"BEGIN IMMEDIATE"'}
    assert "executescript(" not in text
    assert "pickle" not in text
    assert "strftime('now')" not in text


def test_all_tables_and_indexes_are_ours_by_name_and_strict() -> None:
    schema = re.sub(r"--.*", "", (PACKAGE / "schema.sql").read_text())
    created = re.findall(r"CREATE (?:UNIQUE )?(?:TABLE|INDEX) (\w+)", schema)
    assert created
    assert all(name.startswith("lq_") for name in created)
    assert schema.count("CREATE TABLE") == schema.count("STRICT")


@pytest.mark.anyio
async def test_the_hot_statements_walk_indexes(tmp_path: Path) -> None:
    async with await open_store(f"sqlite:///{tmp_path}/q.db", durability="process") as store:
        await store.add(new_jobs(300))
        jobs = await claim(store, 100)
        await store.settle([settlement(job) for job in jobs[:50]])
    connection = sqlite3.connect(tmp_path / "q.db")
    checked = 0
    for module in (adding, claiming, settling, telling, transaction, reading):
        for name, value in vars(module).items():
            statements = list(value._statements.values())[-1:] if isinstance(value, ManyRows) else [value]
            for sql in statements:
                if (
                    isinstance(sql, str)
                    and re.match(r"\s*(SELECT|UPDATE|INSERT|WITH|DELETE)\b", sql)
                    and name != "_JOB"
                ):
                    _check_plan(connection, f"{module.__name__}.{name}", sql)
                    checked += 1
    for attempts in (True, False):
        _check_plan(connection, "reading.jobs", reading.jobs([1], attempts=attempts)[0])
    connection.close()
    assert checked >= 25


def _check_plan(connection: sqlite3.Connection, name: str, sql: str) -> None:
    named = dict.fromkeys(re.findall(r":(\w+)", sql), 1)
    parameters: object = named or ("[]",) * sql.count("?")
    plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", parameters)]  # type: ignore[arg-type]
    # A scan of a partial index is what the index is for: those of what runs, is due, or is to be cancelled.
    walks = [
        step for step in plan if re.match(r"SCAN (lq_job|lq_attempt|lq_event)\b(?! USING (COVERING )?INDEX)", step)
    ]
    assert not walks, f"{name} reads the whole table:\n" + "\n".join(plan)
    wide = [step for step in plan if "lq_job_ended" in step or ("lq_job_pending" in step and step.startswith("SCAN"))]
    assert not wide, f"{name} walks an index that grows:\n" + "\n".join(plan)


@pytest.mark.anyio
@pytest.mark.fault("C23", "many jobs of every status", "a claim walks as far as in an empty store")
async def test_a_claim_costs_the_same_however_many_jobs_there_are(tmp_path: Path) -> None:
    steps: dict[int, int] = {}
    for many in (500, 20_000):
        path = tmp_path / f"{many}.db"
        async with await open_store(f"sqlite:///{path}", durability="process") as store:
            await store.add(new_jobs(many, queue="done"))
            done = (await store.claim("n", [Want(many)], now=NOW)).jobs[0]
            await store.settle([settlement(job) for job in done])
            await store.add(new_jobs(many, run_at=NOW + 10**9, queue="later"))
            await store.add(new_jobs(many, queue="other"))
            await store.add(new_jobs(many))
            await store.prune({Status.COMPLETED: 0}, now=NOW + 99)  # some of them
        with counted(path) as (moment, taken):
            claims = claiming.claim(moment, "n", [Want(64, ("default",))], NOW, time.monotonic_ns())
            moment.write_counts()
            steps[many] = taken()
        assert len(claims.jobs[0]) == 64
    assert steps[20_000] < steps[500] * 1.05, steps


@pytest.mark.anyio
async def test_what_to_claim_is_found_in_the_index_alone(tmp_path: Path) -> None:
    async with await open_store(f"sqlite:///{tmp_path}/q.db", durability="process"):
        pass
    connection = sqlite3.connect(tmp_path / "q.db")
    plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {claiming._HEAD}", ("q", "local", 0, 10))]
    connection.close()
    assert any("USING COVERING INDEX lq_job_pending" in step for step in plan), plan


@pytest.mark.anyio
async def test_the_newest_ended_jobs_are_found_without_sorting_all(tmp_path: Path) -> None:
    async with await open_store(f"sqlite:///{tmp_path}/q.db", durability="process") as store:
        await store.add(new_jobs(10))
    connection = sqlite3.connect(tmp_path / "q.db")
    sql, parameters = reading.find(Query(statuses=(Status.FAILED, Status.COMPLETED)))
    plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", parameters)]
    connection.close()
    assert sum("lq_job_ended" in step for step in plan) == 2, plan
    assert sum("TEMP B-TREE" in step for step in plan) == 1, f"only what is shown is sorted: {plan}"


@pytest.mark.anyio
async def test_settlements_that_add_many_jobs_do_not_share_one_long_transaction(tmp_path: Path) -> None:
    async with await open_store(f"sqlite:///{tmp_path}/q.db", durability="process") as store:
        await store.add(new_jobs(6))
        jobs = await claim(store)
        await asyncio.gather(*(store.settle([settlement(job, Succeeded("1", tuple(new_jobs(300))))]) for job in jobs))
        stamps = {record.sequence for record in await store.find(Query(statuses=(Status.COMPLETED,)))}
    assert len(stamps) == 6
