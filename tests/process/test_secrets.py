"""A secret on its way through real processes: the task gets it, and nobody else sees it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest

from litestar_queues import QueueService
from litestar_queues.models import QueuedTaskRecord
from support import hard, talkers
from support.masters import RunningMaster

pytestmark = pytest.mark.anyio
CARD = "4111-1111-1111-1111"


def lq(url: str, *arguments: str) -> str:
    command = [sys.executable, "-m", "lq", *arguments, "--url", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize("slots", [1, 2])
async def test_nobody_but_the_task_sees_a_secret(
    service: QueueService, start_master: Callable[..., RunningMaster], tmp_path: Path, url: str, slots: int
) -> None:
    from support.apps import write_app

    app = write_app(tmp_path, url, worker=f"max_concurrency=1, slots={slots}")
    master = start_master(*app, "--log-level", "debug", serve=None, url=None).until_serving()
    good = await service.enqueue(hard.charge, 5, CARD)
    assert await good.get(30) == f"charged {CARD}"
    bad = await service.enqueue(hard.charge.using(retries=0), -5, card=CARD)
    assert (await bad.wait(30)).status == "failed"
    shown = [master.log, lq(url, "inspect")]
    for number in (good.number, bad.number):
        shown += [lq(url, "inspect", str(number)), lq(url, "inspect", str(number), "--json")]
    for text in shown:
        assert CARD not in text
    assert shown[2].count("[redacted]") >= 5, "argument, result, log, output, progress"
    page = json.loads(shown[5])
    assert (page["args"], page["kwargs"]) == ([-5], {"card": "[redacted]"})
    assert page["error"]["message"] == "cannot charge [redacted]"
    assert "cannot charge [redacted]" in page["error"]["traceback"]
    by_name = lq(url, "enqueue", "charge", "7", f'"{CARD}"')
    assert CARD not in by_name
    assert CARD not in lq(url, "inspect", "3", "--json")


TELLING = [
    talkers.in_a_thread, talkers.in_a_pool_of_an_earlier_job, talkers.in_an_executor, talkers.as_bytes,
    talkers.to_a_stream_kept_at_import, talkers.in_pieces, talkers.with_a_broken_backoff.using(retries=1),
    talkers.in_arguments_that_do_not_fit, talkers.as_types_and_levels, talkers.as_the_type_of_an_exception,
    talkers.in_notes_and_groups, talkers.where_a_text_is_cut, talkers.in_the_command_of_a_process,
]  # fmt: skip
KEY = "-----BEGIN KEY-----\nMIIEvQIBADANBg\n-----END KEY-----"
BORN = datetime(1980, 2, 3, 4, 5, 6, tzinfo=UTC)
ID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")


@pytest.mark.parametrize("slots", [1, 2])
async def test_a_secret_is_told_neither_to_the_store_nor_to_the_terminal_however_a_job_tries(
    service: QueueService, start_master: Callable[..., RunningMaster], tmp_path: Path, url: str, slots: int
) -> None:
    from support.apps import write_app

    master = start_master(
        *write_app(tmp_path, url, worker=f"max_concurrency=1, slots={slots}"), serve=None, url=None
    ).until_serving()
    jobs = [await service.enqueue(talkers.in_a_pool_of_an_earlier_job, "another of these")]
    jobs += [await service.enqueue(task, CARD) for task in TELLING]
    jobs.append(await service.enqueue(talkers.of_several_lines, KEY))
    person = talkers.Person("Ana Nowak", BORN, Decimal("4711.50"))
    kinds = (b"hidden-\xff-bytes", talkers.Suit.HEARTS, ID, [person], 98765)
    jobs.append(await service.enqueue(talkers.of_several_kinds, *kinds))
    kept = []
    for job in jobs:
        kept.append(await everything_kept(service, await job.wait(60)))
        # Of raw output with several slots nobody knows whose it is: it goes to the terminal.
        assert "[r" in (kept[-1] if slots == 1 else kept[-1] + master.log), f"{job.task_name} has said it: {kept[-1]}"
    forms = [CARD[:8], "another of", "MIIEvQ", "hidden-", "68696464656e2dff", "of-gold", "HEARTS", str(ID), ID.hex]
    forms += ["Ana Nowak", "1980-02-03", "1980, 2, 3", "4711.50", "98765"]
    for text in (*kept, master.log):
        assert [form for form in forms if form in text] == []
    assert "the retry_backoff of task 'talkers.backoff' raised" in "".join(kept), "it is told with the job"


async def everything_kept(service: QueueService, record: QueuedTaskRecord) -> str:
    """Return all that the store keeps of what a job has said, as it is stored."""
    [whole] = await service.store.get([record.number], attempts=True)
    assert whole is not None
    events = await service.store.events(record.number)
    texts = [text for event in events for text in (event.type, event.level, event.message, event.data)]
    errors = [each.error for each in whole.attempts if each.error is not None]
    texts += [text for error in errors for text in (error.type, error.message, error.traceback)]
    return "\n".join([*filter(None, texts), str(whole.failure)])


async def test_what_no_worker_can_search_is_hidden_by_whoever_shows_it(
    service: QueueService, start_master: Callable[..., RunningMaster], url: str
) -> None:
    start_master("--concurrency", "1", serve="support.talkers").until_serving()
    job = await service.enqueue(talkers.to_the_descriptor_itself, CARD)
    await job.wait(30)
    page = json.loads(lq(url, "inspect", str(job.number), "--json"))
    assert page["result"] == "returned [redacted]"
    assert "written [redacted]" in [event["message"] for event in page["events"]]
    for how in ([], ["--json"]):
        shown = lq(url, "enqueue", "talkers.token", "--wait", *how)
        assert "[redacted]" in shown
        assert "hidden-token" not in shown


@pytest.mark.parametrize("given", ["option", "variable"])
def test_the_password_of_a_store_is_never_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    url = "postgresql://user:pass-w0rd@127.0.0.1:1/queues?password=other-w0rd"
    if given == "variable":
        monkeypatch.setenv("LITESTAR_QUEUES_URL", url)
    for command in (["worker", "--import", "json"], ["inspect"], ["inspect", "1", "--json"], ["enqueue", "task"]):
        options = ["--url", url] if given == "option" else []
        program = [sys.executable, "-m", "lq", *command, *options]
        done = subprocess.run(program, capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False)
        assert done.returncode != 0
        assert "postgresql" in done.stderr
        assert "w0rd" not in done.stdout + done.stderr, command
