"""A secret on its way through real processes: the task gets it, and nobody else sees it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from litestar_queues import QueueService
from support import hard
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
