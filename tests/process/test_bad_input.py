"""What cannot work says so in one sentence, with an exit status, and leaves nothing half done."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from litestar_queues import QueueService
from support import zoo
from support.masters import TESTS, RunningMaster
from support.waiting import wait_until

StartMaster = Callable[..., RunningMaster]


def lq(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH", "")]))
    return subprocess.run(
        [sys.executable, "-m", "lq", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=60,
        env={**os.environ, "PYTHONPATH": path, **environment},
        check=False,
    )


def only_sentence(done: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in done.stderr, done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith(("error:", "Error:"))]
    return line


@pytest.mark.parametrize(
    "arguments",
    [
        ("--concurrency", "0"),
        ("--pool", "default=0"),
        ("--pool", "nonsense"),
        ("--queues", ","),
        ("--drain-timeout", "-1"),
    ],
)
@pytest.mark.fault("F8", "settings that make no sense", "refused, naming the setting")
def test_a_worker_refuses_numbers_that_make_no_sense(tmp_path: Path, url: str, arguments: tuple[str, ...]) -> None:
    done = lq("worker", "--import", "support.zoo", "--url", url, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert only_sentence(done)


def test_a_worker_without_an_application_says_how_to_name_one(tmp_path: Path, url: str) -> None:
    done = lq("worker", "--url", url, cwd=tmp_path)
    assert done.returncode == 4
    assert "--app MODULE:ATTR" in only_sentence(done)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import nothing_of_this_name", "nothing_of_this_name"),
        ("raise RuntimeError('no database today')", "no database today"),
        ("import sys; sys.exit(7)", "SystemExit"),
        ("x = 1", "has no application"),
        ("def (", "SyntaxError"),
    ],
)
def test_an_application_that_fails_to_import_is_told_with_its_reason(
    tmp_path: Path, url: str, source: str, words: str
) -> None:
    (tmp_path / "broken_app.py").write_text(source)
    done = lq("worker", "--app", "broken_app", "--url", url, cwd=tmp_path)
    assert done.returncode == 4
    assert [line for line in done.stderr.splitlines() if line.startswith("error:") and words in line]


def test_a_pool_that_the_application_does_not_name_is_refused(tmp_path: Path, url: str) -> None:
    done = lq("worker", "--import", "support.zoo", "--url", url, "--pool", "reports=2", cwd=tmp_path)
    assert done.returncode == 4
    assert "no pool is named 'reports'" in only_sentence(done)


@pytest.mark.fault("C7", "a damaged database", "refused, with the way to save it")
def test_a_corrupt_database_is_refused_with_the_way_to_save_it(tmp_path: Path) -> None:
    (tmp_path / "bad.db").write_bytes(b"this is no database, but it is long enough to be looked at" * 100)
    for command in (("worker", "--import", "support.zoo"), ("inspect",)):
        done = lq(*command, "--url", f"sqlite:///{tmp_path / 'bad.db'}", cwd=tmp_path)
        assert done.returncode == 4, done.stderr
        assert ".recover" in only_sentence(done)


@pytest.mark.anyio
@pytest.mark.fault("C18", "a database of a newer release", "refused, unchanged")
@pytest.mark.fault("F2", "lq inspect on a database of a newer release", "one sentence, and nothing is changed")
async def test_a_newer_database_is_refused_and_left_as_it_is(tmp_path: Path, service: QueueService, url: str) -> None:
    path = url.removeprefix("sqlite:///")
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE lq_meta SET value = '99'")
    connection.close()
    for command in (("worker", "--import", "support.zoo"), ("inspect",)):
        done = lq(*command, "--url", url, cwd=tmp_path)
        assert done.returncode == 4
        assert "upgrade litestar-lq" in only_sentence(done)


def test_a_missing_database_is_not_made_by_reading(tmp_path: Path) -> None:
    for command in (("inspect",), ("inspect", "1"), ("enqueue", "good", "1")):
        done = lq(*command, "--url", f"sqlite:///{tmp_path / 'none.db'}", cwd=tmp_path)
        assert done.returncode == 4
        assert "no database" in only_sentence(done)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = lq("worker", "--import", "support.zoo", "--url", f"sqlite:///{tmp_path}/no/such/x.db", cwd=tmp_path)
    assert done.returncode == 4
    assert "does not exist" in only_sentence(done)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody who may not write")
@pytest.mark.anyio
@pytest.mark.fault("B19", "a database of another user", "a sentence that names path and user")
@pytest.mark.fault("C9", "a read-only file, folder or file system", "a sentence that names path and user")
async def test_a_database_that_cannot_be_written_is_named_with_the_user(service: QueueService, url: str) -> None:
    program = (
        "import os, sys, asyncio, litestar_queues.store.sqlite\n"
        "from litestar_queues.store import open_store\n"
        "from litestar_queues.exceptions import StoreReadOnly\n"
        "os.seteuid(65534)\n"
        "try:\n"
        "    asyncio.run(open_store(sys.argv[1]))\n"
        "except StoreReadOnly as error:\n"
        "    print(error)\n"
    )
    for folder in Path(url.removeprefix("sqlite:///")).parents:
        if folder.stat().st_uid == os.getuid() and str(folder) not in ("/", "/tmp"):
            folder.chmod(0o755)
    done = subprocess.run([sys.executable, "-c", program, url], capture_output=True, text=True, timeout=60, check=False)
    assert "cannot be written by user 65534" in done.stdout, done.stderr


@pytest.mark.anyio
@pytest.mark.fault(
    "A12", "a task that the application does not have", "back with a delay, with the names that are known"
)
async def test_an_unknown_task_waits_for_a_deploy_and_says_which_are_known(
    service: QueueService, start_master: StartMaster
) -> None:
    result = await service.enqueue("good_asink", "x")
    start_master("--concurrency", "1").until_serving()

    def waits() -> bool:
        return "again in" in master_log()

    master_log = lambda: "".join(path.read_text() for path in Path(service.store.folder).parent.glob("master-*.log"))  # noqa: E731
    wait_until(waits, "the job is put back")
    record = await result.refresh()
    assert (record.status, record.attempt, record.retry_count) == ("scheduled", 0, 0)
    assert "did you mean 'good_async'?" in (record.error or "")


@pytest.mark.anyio
@pytest.mark.fault("D13", "wrong arguments", "TypeError in the caller, nothing stored")
async def test_wrong_arguments_never_reach_the_store(service: QueueService) -> None:
    with pytest.raises(TypeError, match="missing a required argument: 'number'"):
        await service.enqueue(zoo.good)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="Expected `int`, got `str`"):
        await service.enqueue(zoo.good, "one")  # type: ignore[call-overload]
    assert (await service.get_statistics()).total == 0


@pytest.mark.anyio
@pytest.mark.parametrize("flipped", ["a letter", "a brace", "the highest bit"])
@pytest.mark.fault("C8", "a byte of a stored payload is changed", "the job is failed and not run; others go on")
async def test_a_job_whose_stored_arguments_are_damaged_is_failed_and_not_run(
    service: QueueService, start_master: StartMaster, logbook_file: Path, tmp_path: Path, url: str, flipped: str
) -> None:
    """With its highest bit flipped a byte is no UTF-8 any more: then every claim failed, of the other jobs too."""
    damages = {
        "a letter": "replace(payload, 'damaged', 'Damaged')",
        "a brace": "replace(payload, '{\"args\"', '[\"args\"')",
        "the highest bit": "CAST(CAST(replace(payload, 'damaged', '') AS BLOB) || X'E4' AS TEXT)",
    }
    result = await service.enqueue(zoo.recorded, "damaged")
    good = await service.enqueue(zoo.good, 1)
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        connection.execute(f"UPDATE lq_job SET payload = {damages[flipped]} WHERE number = 1")
    connection.close()
    start_master("--concurrency", "1").until_serving()
    record = await result.wait(30)
    assert (record.status, record.failure and record.failure.type) == ("failed", "PayloadError")
    assert "checksum does not match" in (record.error or "")
    assert not logbook_file.exists()
    assert await good.get(30) == 2
    for arguments in ((), ("1",), ("1", "--json")):
        shown = lq("inspect", *arguments, "--url", url, cwd=tmp_path)
        assert (shown.returncode, shown.stderr) == (0, "")


@pytest.mark.anyio
async def test_modules_are_served_without_an_application_that_lies_there(
    service: QueueService, start_master: StartMaster, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text("raise RuntimeError('this is not for the worker')\n")
    start_master("--concurrency", "1").until_serving()
    assert await (await service.enqueue(zoo.good, 1)).get(30) == 2


@pytest.mark.anyio
@pytest.mark.fault("D14", "stored arguments of more than a worker can be sent", "the job is failed; others go on")
async def test_a_job_whose_stored_arguments_are_too_large_for_any_worker_is_failed(
    service: QueueService, start_master: StartMaster, url: str
) -> None:
    result = await service.enqueue(zoo.good, 1)
    good = await service.enqueue(zoo.good, 2)
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        connection.execute("UPDATE lq_job SET payload = payload || hex(zeroblob(33554432)) WHERE number = 1")
    connection.close()
    start_master("--concurrency", "1").until_serving()
    record = await result.wait(30)
    assert (record.status, record.attempt) == ("failed", 0)
    assert "more than a worker can be sent" in (record.error or "")
    assert await good.get(30) == 3


@pytest.mark.fault("F1", "escapes in the words of a broken application, and of a command line", "shown harmless")
def test_what_the_application_or_the_command_line_says_is_made_harmless(tmp_path: Path, url: str) -> None:
    (tmp_path / "broken.py").write_text("raise RuntimeError('\\x1b]0;title\\x07')\n")
    for arguments in (("worker", "--import", "broken", "--url", url), ("inspect", "--\x1b]0;title\x07")):
        done = lq(*arguments, cwd=tmp_path)
        assert done.returncode in (2, 4)
        assert "\\x1b]0;title\\x07" in done.stderr
        assert "\x1b" not in done.stderr
