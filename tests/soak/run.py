"""Enqueue, kill and check for as long as told: ``python tests/soak/run.py [--minutes N]``, or ``tox -e soak -- --minutes N``.

An epoch is a new database, clients in processes of their own, two masters, and somebody who kills,
stops, reloads and replaces all of them at random. Then it is let run empty, and judged by
``support.checker``. Prints operations, kills and violations; exit status 1 where there is one, and
then the folder with everything is kept.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).parent.parent
sys.path.insert(0, str(TESTS))

from soak import jobs
from support import checker, history, logbook, runs
from support.masters import RunningMaster, marked
from support.waiting import wait_until

CLIENTS = 2
MASTERS = 2
assert jobs.quick.name in runs.RECORDED


class Epoch:
    """One database, and what happens to those who use it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.database = folder / "soak.db"
        self.url = f"sqlite:///{self.database}"
        self.random = random.Random(seed)
        self.disturbances: Counter[str] = Counter()
        self.largest_log = 0
        self.largest_master = 0
        os.environ[runs.VARIABLE] = str(folder / "runs")
        os.environ[history.VARIABLE] = str(folder / "history")
        os.environ[logbook.VARIABLE] = str(folder / "logbook")
        self.masters = [self._master() for _ in range(MASTERS)]
        for master in self.masters:
            master.until_serving()
        self.clients = [self._client() for _ in range(CLIENTS)]

    def disturb(self, seconds: float) -> None:
        """Kill, stop and reload at random for a while."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(self.random.uniform(0.05, 1.0))
            actions = {
                self.kill_worker: 40, self.kill_zygote: 10, self.kill_master: 12, self.kill_client: 10,
                self.stop_worker: 10, self.reload: 8, self.drain: 10,
            }  # fmt: skip
            [action] = self.random.choices(list(actions), list(actions.values()))
            if action():
                self.disturbances[action.__name__.replace("_", " ")] += 1
            self._measure()

    def run_empty(self) -> None:
        """Let the clients end, and the masters do what is left; then end them too."""
        for client in self.clients:
            client.send_signal(signal.SIGTERM)
        for client in self.clients:
            # One that has just been started may not listen yet.
            assert client.wait(60) in (0, -signal.SIGTERM), f"a client ended with {client.returncode}"
        for master in self.masters:
            master.until_serving()
        wait_until(lambda: self._live() == 0, "nothing is live", deadline=120)
        for master in self.masters:
            master.signal(signal.SIGTERM)
            assert master.wait() == 0, master.log
        for master in self.masters:
            wait_until(lambda mark=master.mark: not marked(mark), "nothing of a master is left")

    def judge(self) -> tuple[checker.Evidence, list[str]]:
        """Return what there is to know, and what is wrong with it."""
        evidence = checker.collect(self.database, self.folder / "runs", self.folder / "history")
        found = checker.violations(evidence)
        left = [str(path) for path in (self.folder / "soak.db.lq" / "run").glob("*")]
        return evidence, found + [f"left behind: {path}" for path in left]

    def end(self) -> None:
        """End whatever still runs."""
        for client in self.clients:
            client.kill()
            client.wait()
        for master in self.masters:
            master.__exit__(None, None, None)

    # What happens to them. Each says whether there was somebody to whom it could happen.

    def kill_worker(self) -> bool:
        return self._signal(self._a_master().workers(), signal.SIGKILL)

    def kill_zygote(self) -> bool:
        # Not at its first import: without that there is no master.
        return self._signal(self._a_master().until_serving().zygotes(), signal.SIGKILL)

    def kill_master(self) -> bool:
        master = self._a_master()
        master.process.kill()
        master.wait()
        self._replace(master)
        return True

    def kill_client(self) -> bool:
        at = self.random.randrange(CLIENTS)
        self.clients[at].kill()
        self.clients[at].wait()
        self.clients[at] = self._client()
        return True

    def stop_worker(self) -> bool:
        workers = self._a_master().workers()
        stopped = self._signal(workers, signal.SIGSTOP)
        time.sleep(self.random.uniform(0.0, 0.5))
        for pid in workers:
            self._signal([pid], signal.SIGCONT)
        return stopped

    def reload(self) -> bool:
        return self._signal([self._a_master().until_serving().pid], signal.SIGUSR1)

    def drain(self) -> bool:
        master = self._a_master().until_serving()
        master.signal(signal.SIGTERM)
        if self.random.random() < 0.5:
            time.sleep(self.random.uniform(0, 0.2))
            self._signal([master.pid], signal.SIGTERM)
        status = master.wait()
        assert status in (0, 8), f"a master that was told to stop ended with {status}:\n{master.log}"
        self._replace(master)
        return True

    # Plumbing.

    def _master(self) -> RunningMaster:
        arguments = ("--import", "soak.jobs", "--concurrency", "2", "--drain-timeout", "2", "--log-level", "none")
        return RunningMaster(self.folder, *arguments, url=self.url)

    def _client(self) -> subprocess.Popen[bytes]:
        seed = self.random.randrange(2**32)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
        return subprocess.Popen([sys.executable, "-m", "soak.client", self.url, str(seed)], env=environment)

    def _a_master(self) -> RunningMaster:
        return self.random.choice(self.masters)

    def _replace(self, master: RunningMaster) -> None:
        wait_until(lambda: not marked(master.mark), "nothing of a master is left")
        master.__exit__(None, None, None)
        self.masters[self.masters.index(master)] = self._master()

    def _signal(self, pids: list[int], number: signal.Signals) -> bool:
        """Send a signal to one of *pids*; say whether it was there."""
        try:
            os.kill(self.random.choice(pids), number)
        except (IndexError, ProcessLookupError):
            return False
        return True

    def _measure(self) -> None:
        log = Path(f"{self.database}-wal")
        self.largest_log = max(self.largest_log, log.stat().st_size if log.exists() else 0)
        for master in self.masters:
            try:
                pages = int(Path(f"/proc/{master.pid}/statm").read_text().split()[1])
            except (OSError, IndexError):  # it has just ended
                continue
            self.largest_master = max(self.largest_master, pages * os.sysconf("SC_PAGE_SIZE"))

    def _live(self) -> int:
        connection = sqlite3.connect(self.database, timeout=30)
        try:
            [(count,)] = connection.execute(
                "SELECT count(*) FROM lq_job WHERE status IN ('scheduled', 'pending', 'running')"
            ).fetchall()
        finally:
            connection.close()
        return int(count)


def soak(minutes: float, epoch_seconds: float, seed: int) -> int:
    """Go on for *minutes*; return how many promises were broken."""
    until = time.monotonic() + minutes * 60
    print(f"LQ_TEST_SEED={seed}")
    draw = random.Random(seed)
    totals: Counter[str] = Counter()
    disturbances: Counter[str] = Counter()
    largest_log = largest_master = broken = epochs = 0
    while time.monotonic() < until:
        folder = Path(tempfile.mkdtemp(prefix="lq-soak-", dir=os.environ.get("LQ_BENCH_DIR")))
        epoch = Epoch(folder, draw.randrange(2**32))
        try:
            epoch.disturb(min(epoch_seconds, max(until - time.monotonic(), 5)))
            epoch.run_empty()
            evidence, found = epoch.judge()
        finally:
            epoch.end()
        counts = Counter({
            "operations": sum(line["phase"] == "invoke" for line in evidence.history), "jobs": len(evidence.jobs),
            "runs": sum(line.what == "start" for line in evidence.runs), "violations": len(found),
        })  # fmt: skip
        totals += counts
        disturbances += epoch.disturbances
        broken += len(found)
        epochs += 1
        largest_log = max(largest_log, epoch.largest_log)
        largest_master = max(largest_master, epoch.largest_master)
        statuses = Counter(job["status"] for job in evidence.jobs.values())
        print(f"epoch {epochs}: {dict(counts)}, {dict(statuses)}, {sum(epoch.disturbances.values())} disturbances")
        for sentence in found[:20]:
            print(f"  VIOLATION {sentence}")
        if found:
            print(f"  everything is kept in {folder}", flush=True)
        else:
            shutil.rmtree(folder)
        sys.stdout.flush()
    print(
        f"{minutes:g} minutes, {epochs} epochs: {totals['operations']} operations of clients, {totals['jobs']} jobs, "
        f"{totals['runs']} runs, {sum(disturbances.values())} disturbances {dict(disturbances)}, {broken} violations; "
        f"largest write-ahead log {largest_log / 2**20:.0f} MiB, largest master {largest_master / 2**20:.0f} MiB"
    )
    return broken


def main() -> int:
    """Read the command line, and go."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0, help="how long [20]")
    parser.add_argument("--epoch", type=float, default=60.0, metavar="SECONDS", help="until it is judged [60]")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    given = parser.parse_args()
    return 1 if soak(given.minutes, given.epoch, given.seed) else 0


if __name__ == "__main__":
    sys.exit(main())
