"""Several processes on one file: fair turns, no lock errors, one job a key, nothing acknowledged lost."""

import asyncio
import os
import signal
import sqlite3
import time
from pathlib import Path

import pytest

from litestar_queues.store import open_store
from store.making import claim, new_job, wait_until, within
from store.processes import finish, run, start, url_of

pytestmark = pytest.mark.anyio
SECONDS = 30.0 if os.environ.get("LQ_LONG") else 2.0
WRITERS = 16


@pytest.mark.fault("C12", "many writing processes", "no lock error, fair shares")
def test_many_writers_share_the_file_without_a_lock_error(tmp_path: Path) -> None:
    """Each also claims and settles; the shares are fair, and every job ends once."""
    code = f"""
async def main():
    added = done = 0
    longest = 0.0
    async with await open_store(url) as store:
        until = time.monotonic() + {SECONDS}
        while time.monotonic() < until:
            begun = time.monotonic()
            await store.add(new_jobs(2))
            longest = max(longest, time.monotonic() - begun)
            added += 2
            jobs = await claim(store, 2, node=str(os.getpid()))
            verdicts = await store.settle([settlement(job) for job in jobs])
            assert set(verdicts) <= {{"settled"}}, verdicts
            done += len(jobs)
    say(added, done, longest)
asyncio.run(main())
"""
    said = finish([start(code, url_of(tmp_path / "q.db")) for _ in range(WRITERS)], seconds=SECONDS + 60)
    # On a machine that is too busy for 16 writers one may also have gone without a turn, and say so.
    figures = [tuple(map(float, each.splitlines()[-1].split())) for each in said]
    added, done = sum(each[0] for each in figures), sum(each[1] for each in figures)
    assert done == added, f"{added} added, {done} done"
    shares = sorted(each[0] for each in figures)
    assert shares[0] > 0, f"a writer starved: {shares}"
    assert max(each[2] for each in figures) < 2.5, f"longest waits for an add: {sorted(each[2] for each in figures)}"
    connection = sqlite3.connect(tmp_path / "q.db")
    counted = dict(connection.execute("SELECT status, sum(count) FROM lq_tally GROUP BY status"))
    there = dict(connection.execute("SELECT status, count(*) FROM lq_job GROUP BY status"))
    assert {status: count for status, count in counted.items() if count} == there == {"completed": added}
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


@pytest.mark.fault("D1", "eight processes add one key", "one live job")
def test_eight_processes_with_one_key_make_one_live_job(tmp_path: Path) -> None:
    code = """
async def main():
    made = []
    async with await open_store(url) as store:
        say("ready")
        sys.stdin.readline()
        for round in range(40):
            added = await asyncio.gather(*(store.add([new_job(key=f"k{round}")]) for _ in range(3)))
            made += [(round, entry.number) for (entry,) in added if not entry.deduplicated]
    say(made)
asyncio.run(main())
"""
    processes = [start(code, url_of(tmp_path / "q.db")) for _ in range(8)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    import ast

    made = [entry for said in finish(processes) for entry in ast.literal_eval(said)]
    assert sorted(round for round, _ in made) == list(range(40)), "each key was taken once"


@pytest.mark.fault("B3", "kill -9 of a client right after its acknowledgement", "everything acknowledged is there")
def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    code = """
async def main():
    store = await open_store(url)
    while True:
        [added] = await store.add([new_job()])
        say(added.number)
asyncio.run(main())
"""
    processes = [start(code, url_of(tmp_path / "q.db")) for _ in range(3)]
    acknowledged: list[int] = []
    for process in processes:
        assert process.stdout is not None
        acknowledged += [int(process.stdout.readline()) for _ in range(40)]
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)
        said = process.communicate()[0]
        acknowledged += [int(line) for line in said.splitlines(keepends=True) if line.endswith("\n")]
    connection = sqlite3.connect(tmp_path / "q.db")
    stored = {number for (number,) in connection.execute("SELECT number FROM lq_job")}
    connection.close()
    assert len(acknowledged) >= 120
    assert set(acknowledged) <= stored


@pytest.mark.parametrize(
    "meanwhile", ["nothing", "a second store", "a reader", "the doorbell", "a fork", "the mistake"]
)
@pytest.mark.fault("C5", "everything we do beside the connection", "its locks stay")
def test_nothing_we_do_beside_the_connection_drops_its_locks(tmp_path: Path, meanwhile: str) -> None:
    """Closing any descriptor of the database file drops SQLite's locks for the whole process; the next
    process to open and close it then unlinks the log under the first: of 51 acknowledged jobs 1 was found.
    Should it happen all the same, the writer notices that the log is gone, and acknowledges nothing more.
    """
    code = f"""
async def main():
    store = await open_store(url)
    await store.add([new_job()])
    if {meanwhile!r} == "a second store":
        other = await open_store(url)
        await other.get([1])
        await other.close()
    elif {meanwhile!r} == "a reader":
        reader = await open_store(url, create=False)
        await reader.get([1])
        await reader.close()
    elif {meanwhile!r} == "the doorbell":
        async with store.listen():
            await store.add([new_job()])
    elif {meanwhile!r} == "a fork":
        if os.fork() == 0:
            os._exit(0)
        os.wait()
    elif {meanwhile!r} == "the mistake":
        open({str(tmp_path / "q.db")!r}, "rb").close()
    say("ready")
    sys.stdin.readline()
    for _ in range(50):
        [added] = await store.add([new_job()])
    say(added.number)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    master = start(code, url_of(tmp_path / "q.db"))
    assert master.stdin is not None
    assert master.stdout is not None
    assert master.stdout.readline() == "ready\n"
    # Plain sqlite3, as a person would: it checkpoints and unlinks the log if it believes to be the last.
    run(
        f"import sqlite3\nc = sqlite3.connect({str(tmp_path / 'q.db')!r})\n"
        "c.execute('SELECT * FROM lq_job').fetchall()\nc.close()",
    )
    master.stdin.write("go\n")
    master.stdin.flush()
    said, _ = master.communicate()
    if meanwhile == "the mistake":  # the log was unlinked under it: nothing is acknowledged that would be lost
        assert "q.db-wal was replaced or deleted" in said
        return
    last = int(said)
    connection = sqlite3.connect(tmp_path / "q.db")
    [(found,)] = connection.execute("SELECT count(*) FROM lq_job").fetchall()
    connection.close()
    assert found == last


@pytest.mark.fault("C15", "a fork after the store was opened", "the child is refused, and opens its own")
async def test_a_forked_child_may_not_use_its_parents_store_and_opens_its_own(tmp_path: Path) -> None:
    code = """
store = asyncio.run(open_store(url))
async def use():
    await store.add([new_job()])
    return await store.get([1])
asyncio.run(use())
pid = os.fork()
if pid == 0:
    for method in (store.add([new_job()]), store.get([1])):
        try:
            asyncio.run(method)
        except StoreError as error:
            say("refused:", error)
    asyncio.run(store.close())
    async def anew():
        async with await open_store(url) as mine:
            say(*[entry.number for entry in await mine.add(new_jobs(3))])
    asyncio.run(anew())
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
async def after():
    [entry] = await store.add([new_job()])
    say("parent", entry.number, (await store.statistics())["default"].pending)
    await store.close()
asyncio.run(after())
"""
    lines = run(code, url_of(tmp_path / "q.db")).splitlines()
    assert [line.startswith("refused: this store was opened before a fork") for line in lines[:2]] == [True, True], (
        lines
    )
    assert lines[2:] == ["2 3 4", "parent 5 5"]


@pytest.mark.fault("C15", "a fork in the middle of writing", "neither side is hurt")
def test_a_fork_in_the_middle_of_writing_hurts_neither_side(tmp_path: Path) -> None:
    code = """
async def main():
    store = await open_store(url)
    writing = [asyncio.ensure_future(store.add(new_jobs(20))) for _ in range(60)]
    children = []
    for _ in range(6):
        await asyncio.sleep(0.004)
        pid = os.fork()
        if pid == 0:
            time.sleep(0.3)
            os._exit(0)
        children.append(pid)
    await asyncio.gather(*writing)
    say((await store.statistics())["default"].pending)
    begun = time.monotonic()
    await store.add([new_job()])
    say(time.monotonic() - begun < 0.25)
    await store.close()
    for pid in children:
        os.waitpid(pid, 0)
asyncio.run(main())
"""
    assert run(code, url_of(tmp_path / "q.db")).splitlines() == ["1200", "True"]


@pytest.mark.parametrize("used", ["for writing", "for reading", "as a listener"])
@pytest.mark.fault("C14", "a store that is never closed", "the program ends")
def test_a_program_that_forgets_to_close_still_ends(tmp_path: Path, used: str) -> None:
    code = f"""
async def main():
    global store
    store = await open_store(url)
    await store.add([new_job()])
    if {used!r} == "for reading":
        await store.get([1])
    if {used!r} == "as a listener":
        await store.listen().__aenter__()
asyncio.run(main())
say("end")
"""
    begun = time.monotonic()
    assert "end\n" in run(code, url_of(tmp_path / "q.db"))
    assert time.monotonic() - begun < 20


async def test_a_job_of_another_process_rings_within_a_moment(tmp_path: Path) -> None:
    url = url_of(tmp_path / "q.db")
    async with await open_store(url) as store, store.listen() as bell, within(30, "a job from another process"):
        adding = start(
            "async def main():\n async with await open_store(url) as s: await s.add([new_job()])\nasyncio.run(main())",
            url,
        )
        assert await bell.wait(30)
        assert len(await claim(store)) == 1
        await asyncio.to_thread(finish, [adding])


async def test_the_bells_of_the_dead_are_taken_down(tmp_path: Path) -> None:
    url = url_of(tmp_path / "q.db")
    bells = tmp_path / "q.db.lq" / "bells"
    code = """
async def main():
    store = await open_store(url)
    async with store.listen(), store.listen([1, 2]):
        say("listening")
        os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    listener = start(code, url)
    listener.communicate()
    assert len(list(bells.iterdir())) == 2
    async with await open_store(url) as store:
        await store.add([new_job()])
        await store.cancel([1], now=0)
        wait_until(lambda: list(bells.iterdir()) == [], "dead bells to be taken down")


async def test_with_every_bell_gone_jobs_are_still_there_to_be_found(tmp_path: Path) -> None:
    import shutil

    url = url_of(tmp_path / "q.db")
    async with await open_store(url) as store, await open_store(url) as other, store.listen() as bell:
        shutil.rmtree(tmp_path / "q.db.lq" / "bells")
        for _ in range(3):
            await other.add([new_job()])
        assert not await bell.wait(0.02)
        assert len(await claim(store)) == 3
        async with store.listen() as silent:
            assert not await silent.wait(0.01)


@pytest.mark.fault(
    "C22", "bells that nobody hears, foreign files in their place, a folder", "no write waits, no bell is lost"
)
async def test_bells_that_are_full_foreign_or_no_bells_hold_up_nobody(tmp_path: Path) -> None:
    url = url_of(tmp_path / "q.db")
    bells = tmp_path / "q.db.lq" / "bells"
    async with await open_store(url) as store, await open_store(url) as other, other.listen() as deaf:
        [name] = [path.name for path in bells.iterdir()]
        (bells / "foreign").write_text("not a socket")
        (bells / f"{name}x").write_text("not a socket, with almost a bell's name")
        (bells / f"x{name}").mkdir()
        async with within(30, "2,000 adds beside a bell that nobody hears"):
            for _ in range(20):
                await asyncio.gather(*(store.add([new_job()]) for _ in range(100)))
        assert await deaf.wait(10), "what was rung is heard once somebody listens"
        await store.add([new_job()])
        assert await deaf.wait(10)


def test_bells_ring_under_uvloop(tmp_path: Path) -> None:
    pytest.importorskip("uvloop")
    code = """
import uvloop
async def main():
    async with await open_store(url) as store, await open_store(url) as other, store.listen() as bell:
        for _ in range(20):
            await other.add([new_job()])
            assert await bell.wait(20)
        say((await store.statistics())["default"].pending)
uvloop.run(main())
"""
    assert run(code, url_of(tmp_path / "q.db")) == "20\n"


def test_a_busy_thread_beside_does_not_stop_the_writer(tmp_path: Path) -> None:
    """sqlite3 gives up the GIL at every step and waits up to 5 ms to have it back: a claim of 64 jobs,
    one row at a time, took a second beside a busy thread.
    """
    code = """
import threading
async def main():
    async with await open_store(url, durability="process") as store:
        await store.add(new_jobs(640))
        threading.Thread(target=lambda: [None for _ in iter(int, 1)], daemon=True).start()
        begun = time.monotonic()
        for _ in range(5):
            jobs = await claim(store, 64)
            await store.settle([settlement(job) for job in jobs])
        say((time.monotonic() - begun) / 5)
        os._exit(0)
asyncio.run(main())
"""
    assert float(run(code, url_of(tmp_path / "q.db"))) < 1.0
