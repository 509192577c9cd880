"""Real masters: ``lq worker`` as a process of its own, watched, killed, and cleaned up after."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

from support.waiting import wait_until

TESTS = Path(__file__).parent.parent
MARK = "LQ_TEST_MARK"


class RunningMaster:
    """One ``lq worker`` process."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        url: str | None = None,
        environment: dict[str, str] | None = None,
        module: str = "lq",
    ) -> None:
        self.mark = uuid.uuid4().hex
        self.log_file = folder / f"master-{self.mark[:6]}.log"
        url_options = ["--url", url] if url else []
        path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH", "")]))
        self._log = self.log_file.open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, "worker", *arguments, *url_options],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            cwd=folder,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": path, MARK: self.mark, **(environment or {})},
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def until_serving(self) -> Self:
        wait_until(lambda: "  stop " in self.log or self.process.poll() is not None, f"the master serves: {self.log}")
        assert self.process.poll() is None, self.log
        return self

    def workers(self) -> list[int]:
        """Return the pids of the worker processes that live."""
        return [pid for pid in self.descendants() if _command(pid).startswith(b"lq: worker")]

    def zygotes(self) -> list[int]:
        """Return the pids of the zygotes that live."""
        return [pid for pid in self.descendants() if _command(pid).startswith(b"lq: zygote")]

    def zygotes_proper(self) -> list[int]:
        """Return those of them that are not forks which the import has made of one."""
        return [pid for pid in self.zygotes() if _parent(pid) == self.pid]

    def strays(self) -> list[int]:
        """Return every process of this master that is neither zygote nor worker."""
        return sorted(set(self.descendants()) - set(self.workers()) - set(self.zygotes()))

    def descendants(self) -> list[int]:
        """Return every process that carries this master's mark in its environment, but the master."""
        return [pid for pid in marked(self.mark) if pid != self.pid]

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, what: str = "the master ends") -> int:
        wait_until(lambda: self.process.poll() is not None, what)
        return self.process.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._log.close()
        if error is not None:
            print(f"--- master {self.pid} ---\n{self.log}")
        for pid in self.descendants():
            with contextlib.suppress(ProcessLookupError):  # it was dying
                os.kill(pid, signal.SIGKILL)


def marked(mark: str) -> list[int]:
    """Return the living processes whose environment has *mark*."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                environment = Path(f"/proc/{name}/environ").read_bytes()
            except OSError:
                continue
            if mark.encode() in environment:
                found.append(int(name))
    return found


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
