"""``lq bench``: it measures, and whoever hangs, fails or cannot is reported and holds up nobody."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from lq.bench import chart, report
from lq.bench.figures import summarise
from lq.bench.machine import Machine
from lq.bench.peers import find
from lq.bench.processes import all_processes, cpu_seconds, tree_of
from lq.bench.rounds import Plan
from lq.bench.running import Run
from support.waiting import wait_until

GOOD = """
import json, sys, time
if "--list" in sys.argv:
    print(json.dumps(["drain", "pickup"]))
else:
    for moment in ("begin", "end"):
        print("MARK", moment, flush=True)
        sys.stdin.readline()
        until = time.process_time() + (0.2 if moment == "begin" else 0)
        while time.process_time() < until:
            pass
    print(json.dumps({"scenario": sys.argv[1], "jobs": 100, "seconds": 0.5, "latencies_ms": [2.0, 1.0] * 2000,
                      "settings": "s", "durability": "none", "version": "1.2.3"}))
"""
HANGS = """
import subprocess, sys, time
if "--list" in sys.argv:
    print('["drain"]')
else:
    child = [sys.executable, "-c", "import time; time.sleep(600)"]
    pids = [subprocess.Popen(child).pid, subprocess.Popen(child, start_new_session=True).pid]
    open(__file__ + ".pids", "w").write(" ".join(map(str, pids)))
    print("MARK begin", flush=True)
    time.sleep(600)
"""
FAILS = "import sys\nprint('[\"drain\"]') if '--list' in sys.argv else sys.exit('no such luck')\n"
LEAVES = GOOD.replace("import json", "import subprocess\nimport json").replace(
    "else:", "else:\n    subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])", 1
)
SKIPS = 'import sys\nprint(\'["drain"]\' if \'--list\' in sys.argv else \'{"scenario": "drain", "skipped": "no results"}\')\n'
BABBLES = "import sys\nprint('[\"drain\"]' if '--list' in sys.argv else '\\x1b[2J not JSON')\n"
# No server is found: a test is not to depend on what the machine has.
NO_SERVERS = {"LQ_BENCH_POSTGRES": "postgresql://127.0.0.1:1/none", "LQ_BENCH_REDIS_SERVER": "127.0.0.1:1"}
MACHINE = Machine("2030-01-01", 2, "CPU <&>", "Linux", "3.11", "3.40", "ext4", 0.25, 0.1)


@pytest.fixture
def peers(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout" / "benchmarks" / "peers"
    folder.mkdir(parents=True)
    return folder


def set_up(peers: Path, **programs: str) -> None:
    """Write adapters, each with a Python of its own."""
    for name, program in programs.items():
        (peers / f"{name}.py").write_text(program)
        python = peers.parents[1] / ".bench" / name / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.symlink_to(sys.executable)


def living(pids: str) -> set[int]:
    """Return those that run; who is dead may still wait for init to reap it."""
    return {int(pid) for pid in pids.split()} & {
        each.pid for each in all_processes().values() if each.state not in "ZX"
    }


def bench(tmp_path: Path, *arguments: str) -> tuple[dict[str, Any], subprocess.CompletedProcess[str]]:
    out = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", "lq", "bench", "--rounds", "1", "--json", str(out), *arguments],
        cwd=tmp_path,
        env={**os.environ, **NO_SERVERS},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return (json.loads(out.read_text()) if out.exists() else {}), done


def test_a_drain_is_measured_with_real_workers_and_its_figures_hold_together(tmp_path: Path) -> None:
    picture = tmp_path / "figures.svg"
    options = ("--jobs", "200", "--folder", str(tmp_path), "--svg", str(picture))
    document, done = bench(tmp_path, "--scenario", "drain", *options)
    assert done.returncode == 0, done.stderr
    assert [(run["peer"], run["round"]) for run in document["runs"]] == [("ours", 1), ("bare", 1)]
    ours, bare = document["figures"]
    assert (ours["jobs"], ours["rounds"], bare["jobs"]) == (200, 1, 200)
    measured = document["runs"][0]
    assert ours["rate"]["median"] == pytest.approx(measured["jobs"] / measured["seconds"])
    assert 0 < measured["cpu_seconds"] < 2 * measured["took"]
    assert ours["extra"]["commits"] == measured["extra"]["commits"] > 0
    assert "synchronous=FULL" in ours["settings"]
    assert "drain no-op jobs" in done.stdout
    assert "ours" in ET.parse(picture).getroot().itertext()
    assert not list(tmp_path.glob("lq-bench-*")), "nothing is left on the disk"


def test_a_peer_that_hangs_is_killed_with_all_it_started_and_not_asked_again(tmp_path: Path, peers: Path) -> None:
    set_up(peers, hangs=HANGS, skips=SKIPS)
    names = ("--only", "hangs", "--only", "skips", "--rounds", "2")
    document, done = bench(tmp_path, "--scenario", "drain", "--peers", str(peers), *names, "--limit", "3")
    assert done.returncode == 1
    assert [run["peer"] for run in document["runs"]] == ["hangs", "skips"], "neither is asked again"
    assert "killed after 3 s" in document["runs"][0]["failed"]
    assert not living((peers / "hangs.py.pids").read_text())


def test_of_a_run_of_ours_that_is_killed_at_its_limit_what_tells_why_is_kept(tmp_path: Path) -> None:
    options = (
        "--scenario",
        "events",
        "--only",
        "ours",
        "--rounds",
        "1",
        "--jobs",
        "50000000",
        "--limit",
        "4",
        "--folder",
    )
    document, done = bench(tmp_path, *options, str(tmp_path))
    assert done.returncode == 1
    [kept] = tmp_path.glob("lq-bench-*-hung")
    assert f"killed after 4 s; its database, logs and stacks are in {kept}" in document["runs"][0]["failed"]
    assert {"bench.db", "processes"} <= {path.name for path in kept.iterdir()}
    assert "lq: worker" in (kept / "processes").read_text()
    for log in ("worker.log", "stderr"):  # the master's and the adapter's own
        assert "Fatal Python error: Aborted" in (kept / log).read_text()
    assert "the master ended" not in (kept / "stderr").read_text()
    stacks = [path.read_text() for path in kept.glob("stack-*")]
    assert len(stacks) == 2
    assert all("serving.py" in stack for stack in stacks)


def test_a_master_that_ends_under_a_run_ends_the_run_with_its_last_words(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lq.bench.ours", "idle", "--folder", str(tmp_path), "--seconds", "600"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"MARK begin\n"
        [master] = [each for each in tree_of(process.pid) if each.parent == process.pid]
        os.kill(master.pid, signal.SIGKILL)
        _, errors = process.communicate(b"\n")
        assert b"the master ended with status -9" in errors


def test_whatever_a_peer_does_is_reported_and_the_next_is_measured(tmp_path: Path, peers: Path) -> None:
    set_up(peers, fails=FAILS, skips=SKIPS, babbles=BABBLES, broken="", leaves=LEAVES, good=GOOD)
    (peers.parents[1] / ".bench" / "broken" / "bin" / "python").unlink()
    (peers.parents[1] / ".bench" / "broken" / "bin" / "python").touch()
    chosen = [word for name in ("fails", "skips", "babbles", "broken", "leaves", "good") for word in ("--only", name)]
    document, done = bench(tmp_path, "--scenario", "drain", "--jobs", "200", "--peers", str(peers), *chosen)
    assert done.returncode == 1
    problems = {each["peer"]: each.get("problem") for each in document["figures"]}
    assert problems["fails"] == "ended with status 1: no such luck"
    assert problems["skips"] == "skipped: no results"
    assert "not what an adapter says" in problems["babbles"]
    assert "could not be run" in problems["broken"]
    assert "\x1b" not in done.stdout + done.stderr, "what a peer says must not reach the terminal as it is"
    leaves, good = document["runs"][-2:]
    assert (problems["leaves"], leaves["left"]) == (None, 1), "what it left has been ended, and told"
    assert (problems["good"], good["version"], good["latency_samples"]) == (None, "1.2.3", 4000)
    assert 0.15 <= good["cpu_seconds"] <= 0.3, "it computes for 0.2 s between its marks"
    assert len(good["latencies_ms"]) == report.MOST_LATENCIES


def test_peers_are_known_by_their_environments_and_who_has_none_is_named(peers: Path) -> None:
    set_up(peers, quick=GOOD, saq_on_redis=GOOD, huey_on_sqlite=GOOD)
    (peers / "common.py").touch()
    (peers / "absent.py").touch()
    (peers / "setup.py").write_text('print(\'["absent", "quick"]\')')
    adapters, missing = find(peers, None, ())
    assert {adapter.name: set(adapter.servers) for adapter in adapters} == {
        "ours": set(), "bare": set(), "huey_on_sqlite": set(), "quick": {"postgres", "redis"}, "saq_on_redis": {"redis"},
    }  # fmt: skip
    assert missing == ["absent"]


def test_an_interrupt_ends_what_is_being_measured(tmp_path: Path, peers: Path) -> None:
    set_up(peers, hangs=HANGS)
    command = [sys.executable, "-m", "lq", "bench", "--scenario", "drain", "--peers", str(peers), "--only", "hangs"]
    with subprocess.Popen(
        command, cwd=tmp_path, env={**os.environ, **NO_SERVERS}, stderr=subprocess.DEVNULL
    ) as process:
        started = peers / "hangs.py.pids"
        text = wait_until(lambda: started.exists() and started.read_text(), "the adapter has started its children")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 130
    assert not living(text)


def test_children_that_were_reaped_are_counted_once() -> None:
    burn = "import time\nwhile time.process_time() < 0.2: pass"
    program = (
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {burn!r}])\n"
        f"child = subprocess.Popen([sys.executable, '-c', {burn + chr(10) + 'time.sleep(600)'!r}])\n"
        "sys.stdin.read()\nchild.kill()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) as process:
        try:
            wait_until(lambda: cpu_seconds(tree_of(process.pid)) >= 0.35, "both children have computed")
            wait_until(lambda: len(tree_of(process.pid)) == 2, "the first child was reaped")
            assert cpu_seconds(tree_of(process.pid)) < 0.55
        finally:
            process.communicate()


def runs_of(peer: str, *figures: tuple[int, float, float]) -> list[Run]:
    """Return a warm-up and rounds of jobs, seconds and CPU seconds."""
    rounds = [Run(peer, "drain", at, jobs, seconds, cpu) for at, (jobs, seconds, cpu) in enumerate(figures)]
    for run in rounds:
        run.server_cpu_seconds = {"redis": run.cpu_seconds}
        run.latencies_ms = [float(value) for value in range(1, 101)]
    return rounds


def test_figures_leave_out_the_warm_up_and_take_medians() -> None:
    [figures] = summarise(runs_of("ours", (10, 1.0, 9.0), (1000, 1.0, 0.1), (1000, 2.0, 0.2), (1000, 4.0, 0.3)))
    assert figures.rate is not None
    assert figures.cpu is not None
    assert figures.latency is not None
    assert (figures.rate.least, figures.rate.median, figures.rate.most) == (250, 500, 1000)
    assert (figures.cpu.own, figures.cpu.all) == pytest.approx((200, 400))
    assert (figures.latency.p50, figures.latency.p99, figures.latency.samples) == (51, 100, 300)


def test_a_failure_after_good_rounds_is_shown_beside_their_figures() -> None:
    runs = runs_of("ours", (10, 1.0, 0.1), (1000, 1.0, 0.1))
    [figures] = summarise([*runs, Run("ours", "drain", 2, failed="ended with status 1")])
    assert (figures.rounds, figures.problem) == (1, "ended with status 1")


def test_the_chart_is_well_formed_and_no_text_leaves_it() -> None:
    runs = [
        *runs_of("ours", (10, 1.0, 0.1), (1000, 1.0, 0.1)),
        *runs_of("<peer>_on_redis", (10, 1.0, 0.1), (900, 2.0, 0.2)),
    ]
    root = ET.fromstring(chart.draw(runs, MACHINE))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    texts = [node for node in root.iter() if node.tag.endswith("text")]
    assert "<peer> · redis" in [node.text for node in texts]
    for node in root.iter():
        for name, limit in (("x", width), ("x1", width), ("x2", width), ("cx", width), ("y", height), ("y1", height)):
            assert 0 <= float(node.attrib.get(name, 0)) <= limit, ET.tostring(node)


def test_the_report_says_who_is_best_first_and_how_far_from_the_limit() -> None:
    runs = [*runs_of("ours", (10, 1.0, 0.1), (1000, 2.0, 0.2)), *runs_of("bare", (10, 1.0, 0.1), (1000, 1.0, 0.1))]
    blocks = report.as_blocks(Plan(("drain",), 1, 2), MACHINE, [], runs)
    [table] = [block for block in blocks if isinstance(block, report.Table)]
    assert [row[0] for row in table.rows] == ["bare", "ours"]
    ours = dict(zip(table.columns, table.rows[1], strict=True))
    assert (ours["JOBS/S"], ours["OF BARE"], ours["BOTH"], ours["× BARE"]) == ("500", "50%", "400", "2.0")
