"""``lq bench`` loses nothing that it has measured: what cannot be is refused before, and the rest is shown whatever comes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from litestar_queues.exceptions import QueueConfigurationError
from lq import exits
from lq.__main__ import make_group
from lq.bench import peers
from support.disks import fill_up, small_disk
from support.waiting import wait_until

QUICK = ("--scenario", "pipe", "--only", "bare", "--rounds", "1", "--jobs", "200", "--quiet")
GOOD = """
import json, sys
if "--list" in sys.argv:
    print('["drain"]')
else:
    for moment in ("begin", "end"):
        print("MARK", moment, flush=True)
        sys.stdin.readline()
    print(json.dumps({"scenario": "drain", "jobs": 100, "seconds": 0.5, "version": "1.2.3"}))
"""
HANGS = """
import sys, time
if "--list" in sys.argv:
    print('["drain"]')
else:
    open(__file__ + ".started", "w").close()
    time.sleep(600)
"""


def bench(
    *arguments: str, stdout: int | None = subprocess.PIPE, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lq", "bench", *arguments],
        env={**os.environ, **environment},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )


def is_one_sentence(error: str, says: str) -> bool:
    return "Traceback" not in error and says in error.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        *(((option, value), option) for option in ("--limit", "--longest", "--seconds") for value in ("inf", "nan")),
        (("--limit", "1e300"), "is not in the range"),
        (("--json", "nowhere/figures.json"), "there is no folder"),
        (("--svg", "nowhere/figures.svg"), "there is no folder"),
        (("--json", "."), "is a directory"),
        (("--folder", "nowhere"), "'nowhere' does not exist"),
        (("--peers", "nowhere"), "'nowhere' does not exist"),
        (("--scenario", "brew"), "no scenario 'brew'"),
        (("--alone", "brew"), "no scenario 'brew'"),
        (("--only", "nobody"), "'nobody' is not set up here"),
        (("--peers", "/"), "--environments"),
        (("--scenario", "pipe", "--only", "ours"), "nothing to measure"),
    ],
)
def test_what_cannot_be_measured_or_written_is_refused_as_wrong_usage(arguments: tuple[str, ...], says: str) -> None:
    done = bench(*arguments)
    assert is_one_sentence(done.stderr, says), done.stderr
    assert done.returncode == exits.USAGE


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with small_disk(tmp_path, 1) as disk:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        for option, path in (("--folder", disk), ("--json", disk / "figures.json")):
            done = CliRunner().invoke(make_group(), ["bench", option, str(path)])
            assert is_one_sentence(done.output, "writ"), done.output
            assert done.exit_code == exits.USAGE


def test_a_folder_without_room_is_told_in_a_sentence(tmp_path: Path) -> None:
    with small_disk(tmp_path, 1) as disk:
        fill_up(disk / "full")
        done = bench(*QUICK, "--folder", str(disk))
    assert is_one_sentence(done.stderr, "No space left on device; name another with --folder"), done.stderr
    assert done.returncode == exits.UNUSABLE


def test_a_folder_may_be_named_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = bench("--scenario", "bulk", "--only", "ours", "--rounds", "1", "--jobs", "100", "--folder", ".")
    assert done.returncode == exits.OK, done.stderr


def test_peers_whose_setup_fails_are_refused(tmp_path: Path) -> None:
    (tmp_path / "setup.py").write_text("raise SystemExit('no such luck')")
    with pytest.raises(QueueConfigurationError, match="setup.py"):
        peers.find(tmp_path, None, ())


def test_a_report_that_cannot_be_kept_is_shown_and_the_other_file_written(tmp_path: Path) -> None:
    picture = tmp_path / "figures.svg"
    done = bench(*QUICK, "--json", "/dev/full", "--svg", str(picture))
    assert "messages to two processes and back" in done.stdout
    assert is_one_sentence(done.stderr, "/dev/full could not be written: No space left on device"), done.stderr
    assert (done.returncode, picture.exists()) == (exits.FAILED, True)


def test_figures_are_kept_where_the_report_cannot_be_shown(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    with Path("/dev/full").open("w") as full:
        done = bench(*QUICK, "--json", str(out), stdout=full.fileno())
    assert is_one_sentence(done.stderr, "the report could not be written"), done.stderr
    assert done.returncode == exits.FAILED
    assert json.loads(out.read_text())["figures"]


def test_figures_are_kept_where_the_reader_of_the_report_has_gone(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    reader, writer = os.pipe()
    os.close(reader)
    done = bench(*QUICK, "--json", str(out), stdout=writer)
    os.close(writer)
    assert done.stderr == ""
    assert json.loads(out.read_text())["figures"]


def test_what_the_encoding_of_the_output_lacks_is_escaped() -> None:
    done = bench(*QUICK, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (exits.OK, "")
    assert "CPU \\xb5s" in done.stdout


def test_measuring_needs_no_output(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    command = f"exec {sys.executable} -m lq bench {' '.join(QUICK)} --json {out} >&-"
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (exits.OK, "")
    assert json.loads(out.read_text())["figures"]


def test_an_interrupt_shows_and_keeps_what_was_measured_until_then(tmp_path: Path) -> None:
    folder = tmp_path / "checkout" / "benchmarks" / "peers"
    folder.mkdir(parents=True)
    for name, program in (("fast", GOOD), ("hangs", HANGS)):
        (folder / f"{name}.py").write_text(program)
        home = tmp_path / "checkout" / ".bench" / name / "bin"
        home.mkdir(parents=True)
        (home / "python").symlink_to(sys.executable)
    out = tmp_path / "figures.json"
    options = ("--scenario", "drain", "--jobs", "200", "--only", "fast", "--only", "hangs", "--json", str(out))
    command = [sys.executable, "-m", "lq", "bench", "--peers", str(folder), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_until((folder / "hangs.py.started").exists, "the second is being measured")
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=30)
    assert process.returncode == exits.INTERRUPTED
    assert "fast\t100\t200" in said
    assert "Traceback" not in errors
    assert [run["peer"] for run in json.loads(out.read_text())["runs"]] == ["fast"]
