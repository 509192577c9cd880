"""``lq demo`` runs, end to end, on this machine's own standard library."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pyte
import pytest

from lq.census import tasks
from support.masters import MARK, marked
from support.waiting import wait_until

DEMO = [sys.executable, "-m", "lq", "demo", "--quick", "--concurrency", "2"]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, **more}


def test_the_demonstration_counts_kills_retries_and_says_so(tmp_path: Path) -> None:
    done = subprocess.run(DEMO, capture_output=True, text=True, cwd=tmp_path, timeout=110, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    for words in [
        "Census of the standard library",
        "asyncio",
        "again, deduplicated",
        "was killed by SIGKILL",
        "in hang",
        "Everything ended as it should.",
    ]:
        assert words in done.stdout
    lines = done.stdout.splitlines()
    start = lines.index("ATTEMPT\tOUTCOME\tERROR")
    assert [line.split("\t")[1] for line in lines[start + 1 : start + 4]] == ["raised", "raised", "succeeded"]


def test_the_users_own_application_and_settings_are_left_alone_and_the_database_can_be_kept(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("raise RuntimeError('the demonstration imported the application')")
    (tmp_path / "pyproject.toml").write_text("[tool.litestar-queues]\napp = 'app:app'\nurl = 'sqlite:///mine.db'\n")
    settings = environment(LITESTAR_APP="app:app", LQ_WORKER_QUEUES="none-of-these", TMPDIR=str(tmp_path))
    done = subprocess.run(
        [*DEMO, "--keep"], capture_output=True, text=True, cwd=tmp_path, env=settings, timeout=110, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert not (tmp_path / "mine.db").exists()
    found = re.search(r"^kept; to look further: lq (inspect --url \S+)$", done.stdout, re.MULTILINE)
    assert found is not None
    look = [sys.executable, "-m", "lq", *found[1].split()]
    overview = subprocess.run(look, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "census.hang" in overview


def test_on_a_terminal_bars_move_and_nothing_of_them_stays(tmp_path: Path) -> None:
    screen = pyte.HistoryScreen(100, 200)
    stream = pyte.ByteStream(screen)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        DEMO, stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path, env=environment(TERM="xterm", COLUMNS="100")
    )
    os.close(theirs)
    saw_bars = False
    while chunk := _read(ours):
        stream.feed(chunk)
        saw_bars = saw_bars or any(re.match(r"census .*\d+% 0:00:0", line) for line in screen.display)
    os.close(ours)
    assert process.wait(60) == 0
    assert saw_bars
    shown = [line.rstrip() for line in screen.display if line.strip()]
    assert not any("0:00:0" in line for line in shown)
    assert shown[-1] == "Everything ended as it should."


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # how Linux says that nobody holds the other end any more
        return b""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_whoever_ends_the_demonstration_ends_its_master_and_workers(tmp_path: Path, number: signal.Signals) -> None:
    mark = uuid.uuid4().hex
    settings = environment(**{MARK: mark, "TMPDIR": str(tmp_path)})
    process = subprocess.Popen(DEMO, stdout=subprocess.PIPE, text=True, env=settings, cwd=tmp_path)
    assert process.stdout is not None
    wait_until(lambda: "completed" in process.stdout.readline(), "the first job has ended")  # type: ignore[union-attr]
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert marked(mark) == []
    assert not list(tmp_path.glob("lq-demo-*"))


def test_what_did_not_go_as_it_should_is_said_and_is_the_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A worker that cannot start: its interpreter finds this module before the real one.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nif 'worker' in sys.orig_argv and '--import' in sys.orig_argv: sys.exit('broken on purpose')\n"
    )
    settings = environment(PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(DEMO, capture_output=True, text=True, cwd=tmp_path, env=settings, timeout=110, check=False)
    assert done.returncode == 1
    assert "not as it should be: lq worker ended with status 1 before the jobs had" in done.stderr
    assert "broken on purpose" in done.stderr


def test_a_package_is_counted_by_what_its_files_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "thing"
    package.mkdir()
    (package / "__init__.py").write_bytes(b"# -*- coding: latin-1 -*-\nclass A:\n    def f(self):\n        '\xe9'\n")
    (package / "broken.py").write_text("print 'a language that was'\n")
    (package / "deep.py").write_text("(" * 5000 + ")" * 5000)
    monkeypatch.setattr(tasks, "LIBRARY", tmp_path)

    class Silent:
        def progress_sync(self, *_: object, **__: object) -> None: ...

    counted = tasks.count("thing", _task_context=Silent())  # type: ignore[arg-type]  # all that count asks of it
    assert (counted.files, counted.unparsed, counted.functions, counted.classes) == (3, 2, 1, 1)
    assert counted.longest == [tasks.Longest(2, "f", "thing/__init__.py:3")]
    assert tasks.packages() == ["thing", tasks.MODULES]
