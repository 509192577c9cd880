"""What pruning costs, and what it does not cost others: counted, not timed."""

import asyncio
import re
import sqlite3
import time
from pathlib import Path

import pytest

from litestar_queues.lifecycle import Raised, Succeeded
from litestar_queues.models import FOREVER, ErrorReport, Status, StoredEvent
from litestar_queues.store import Want, open_store
from litestar_queues.store.base import Place
from litestar_queues.store.sqlite import claiming, pruning
from store.making import NOW, claim, new_job, new_jobs, settlement
from store.steps import counted

pytestmark = pytest.mark.anyio
COMPLETED_GO: dict[Status, int | None] = {Status.COMPLETED: 0}
LATER = NOW + 99


@pytest.mark.fault("C23", "many jobs to prune, and many that are kept", "a prune, and a claim beside it, walk as far")
async def test_pruning_costs_the_same_however_many_jobs_there_are(tmp_path: Path) -> None:
    prunes: dict[int, int] = {}
    claims: dict[int, int] = {}
    for many in (500, 10_000):
        path = tmp_path / f"{many}.db"
        place: Place | None = None
        async with await open_store(f"sqlite:///{path}", durability="process") as store:
            for retention in (FOREVER, None):
                await store.add(new_jobs(many, queue="done", retention=retention))
                await store.settle([settlement(job) for job in await claim(store, many)])
            await store.add(new_jobs(500))
            gone = False
            while not gone:  # past those that are kept for ever
                done = await store.prune(COMPLETED_GO, now=LATER, after=place)
                place, gone = done.place, bool(done.jobs)
        with counted(path) as (transaction, steps):
            pruned = pruning.prune(transaction, COMPLETED_GO, LATER, place, even_kept=False)
            prunes[many] = steps()
            taken = claiming.claim(transaction, "n", [Want(64, ("default",))], NOW, time.monotonic_ns())
            claims[many] = steps() - prunes[many]
        assert pruned.jobs == {Status.COMPLETED: pruning.MOST}
        assert len(taken.jobs[0]) == 64
    assert prunes[10_000] < prunes[500] * 1.05, prunes
    assert claims[10_000] < claims[500] * 1.05, claims


async def test_its_statements_walk_indexes(tmp_path: Path) -> None:
    async with await open_store(f"sqlite:///{tmp_path}/q.db", durability="process") as store:
        await store.add(new_jobs(100))
    statements = [value for name, value in vars(pruning).items() if _is_statement(name, value)]
    connection = sqlite3.connect(tmp_path / "q.db")
    for sql in [*statements, *pruning._TRIM]:
        named = {name: "[]" if name == "moments" else 1 for name in re.findall(r":(\w+)", sql)}
        parameters: object = named or ("[]",) * sql.count("?")
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", parameters)]  # type: ignore[arg-type]
        whole = [
            step
            for step in plan
            if re.match(r"SCAN (lq_\w+|job)\b(?! USING (COVERING )?INDEX lq_job_(kept|result))", step)
        ]
        assert not whole, f"{sql}\nreads a whole table:\n" + "\n".join(plan)
        assert not [step for step in plan if "TEMP B-TREE" in step], f"{sql}\nsorts:\n" + "\n".join(plan)
    connection.close()
    assert len(statements) == 8


def _is_statement(name: str, value: object) -> bool:
    return (
        isinstance(value, str)
        and bool(re.match(r"\s*(SELECT|UPDATE|WITH|DELETE)\b", value))
        and name not in ("_WALK", "IS_NEW_ENOUGH")
    )


async def test_a_job_without_a_period_of_its_own_is_in_no_index_of_those_that_have_one(tmp_path: Path) -> None:
    async with await open_store(f"sqlite:///{tmp_path}/q.db", durability="process") as store:
        own = [*new_jobs(2, retention=5, result_retention=1), *new_jobs(3, result_retention=1)]
        await store.add([*new_jobs(300), *own])
        await store.settle([settlement(job) for job in await claim(store, 1000)])
        connection = sqlite3.connect(tmp_path / "q.db")
        assert {index: _entries(connection, index) for index in ("lq_job_kept", "lq_job_result")} == {
            "lq_job_kept": 2, "lq_job_result": 5,
        }  # fmt: skip
        await store.prune({Status.COMPLETED: None}, now=LATER)
        assert (_entries(connection, "lq_job_kept"), _entries(connection, "lq_job_result")) == (0, 0)
        connection.close()


def _entries(connection: sqlite3.Connection, index: str) -> int:
    [(sql,)] = connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", (index,)).fetchall()
    counting = f"SELECT count(*) FROM lq_job INDEXED BY {index} WHERE {sql.partition('WHERE')[2]}"
    return int(connection.execute(counting).fetchone()[0])


async def test_what_hangs_on_a_pruned_job_leaves_no_rows(tmp_path: Path) -> None:
    """The foreign keys are enforced on the writer's connection: seen with another one."""
    async with await open_store(f"sqlite:///{tmp_path}/q.db", durability="process") as store:
        await store.add(new_jobs(5))
        error = ErrorReport("E", "no")
        await store.settle([settlement(job, Raised(error, retryable=False)) for job in await claim(store)])
        await store.record([StoredEvent(job=job, attempt=1, type="task.log", at=NOW) for job in range(1, 6)])
        await store.prune({Status.FAILED: 0}, now=LATER)
    connection = sqlite3.connect(tmp_path / "q.db")
    for table in ("lq_job", "lq_attempt", "lq_event"):
        assert connection.execute(f"SELECT count(*) FROM {table}").fetchall() == [(0,)], table
    connection.close()


async def test_the_large_texts_of_a_pruned_job_leave_no_rows(tmp_path: Path) -> None:
    async with await open_store(f"sqlite:///{tmp_path}/q.db", durability="process") as store:
        await store.add(new_jobs(5, payload='{"args":["' + "x" * 10_000 + '"],"kwargs":{}}', result_retention=1))
        await store.settle([settlement(job, Succeeded('"' + "x" * 10_000 + '"')) for job in await claim(store)])
        connection = sqlite3.connect(tmp_path / "q.db")
        counts = "SELECT (SELECT count(*) FROM lq_payload), (SELECT count(*) FROM lq_result)"
        assert connection.execute(counts).fetchall() == [(5, 5)]
        await store.prune({Status.COMPLETED: None}, now=LATER)
        assert connection.execute(counts).fetchall() == [(5, 0)]
        await store.prune(COMPLETED_GO, now=LATER)
        assert connection.execute(counts).fetchall() == [(0, 0)]
        connection.close()


async def test_a_prune_waits_for_no_sync_and_shares_its_commit_with_nobody(tmp_path: Path) -> None:
    async with await open_store(f"sqlite:///{tmp_path}/q.db") as store:
        await store.add(new_jobs(3))
        await store.settle([settlement(job) for job in await claim(store)])
        said: list[str] = []
        store._writer._connection.set_trace_callback(said.append)  # type: ignore[attr-defined]
        await asyncio.gather(store.add([new_job()]), store.prune(COMPLETED_GO, now=LATER), store.add([new_job()]))
        store._writer._connection.set_trace_callback(None)  # type: ignore[attr-defined]
    deletes = next(at for at, statement in enumerate(said) if statement.startswith("DELETE"))
    marks = [
        "delete" if at == deletes else statement
        for at, statement in enumerate(said)
        if at == deletes or statement in ("BEGIN IMMEDIATE", "COMMIT") or "synchronous" in statement
    ]
    whole = ["BEGIN IMMEDIATE", "COMMIT"]
    pruning_ = ["PRAGMA synchronous = NORMAL", "BEGIN IMMEDIATE", "delete", "COMMIT"]
    assert marks == [*whole, *pruning_, "PRAGMA synchronous = FULL", *whole]
