"""Three ways to start a worker, side by side: ``python benchmarks/starting.py``.

Each starts a process whose application takes a second to import (Litestar, and a wait), twenty
times in turn: exec of a fresh interpreter, the standard library's forkserver with the application
preloaded, and our zygote. Printed: from the request to the first line that runs in the new process,
from SIGKILL to the known exit status, and the memory of one more process (PSS).
"""

from __future__ import annotations

import asyncio
import multiprocessing
import multiprocessing.connection
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path

from common import milliseconds

from litestar_queues import wire
from litestar_queues.master.exit_status import OutOfMemory
from litestar_queues.master.liveness import NodeFiles
from litestar_queues.master.nursery import Nursery
from litestar_queues.master.process import WorkerProcess
from litestar_queues.master.zygote import Launch
from lq.bench.processes import memory_of

ROUNDS = 20
APP = "import time\nimport litestar\nfrom litestar_queues import task\ntime.sleep(1)\n"
SAY = "import os, signal, sys, time\nimport slow_app\nos.write(1, b'%d\\n' % time.monotonic_ns())\nsignal.pause()\n"


class Sample:
    """What was measured of one way."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.starts: list[float] = []
        self.ends: list[float] = []
        self.memory: list[float] = []

    def __str__(self) -> str:
        memory = sum(self.memory) / len(self.memory)
        starts, ends = milliseconds(self.starts), milliseconds(self.ends)
        return f"{self.name:<10} to the first line {starts}; SIGKILL to status {ends}; {memory:.1f} MiB PSS"


async def by_exec(sample: Sample) -> None:
    at = time.monotonic_ns()
    process = subprocess.Popen([sys.executable, "-c", SAY], stdout=subprocess.PIPE)
    assert process.stdout is not None
    sample.starts.append((int(process.stdout.readline()) - at) / 1e9)
    sample.memory.append(memory_of([process.pid]).pss)
    at = time.monotonic_ns()
    process.kill()
    process.wait()
    sample.ends.append((time.monotonic_ns() - at) / 1e9)


async def by_forkserver(sample: Sample, context: ForkServerContext) -> None:
    queue = context.Pipe(duplex=False)
    at = time.monotonic_ns()
    process = context.Process(target=say_on, args=(queue[1],))
    process.start()
    sample.starts.append((queue[0].recv() - at) / 1e9)
    assert process.pid is not None
    sample.memory.append(memory_of([process.pid]).pss)
    at = time.monotonic_ns()
    process.kill()
    process.join()
    sample.ends.append((time.monotonic_ns() - at) / 1e9)


def say_on(pipe: multiprocessing.connection.Connection) -> None:
    pipe.send(time.monotonic_ns())
    signal.pause()


class Watcher:
    """The owner of one worker process: knows when it is ready and when it is dead."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.ready, self.dead = loop.create_future(), loop.create_future()

    def reported(self, worker: WorkerProcess, report: wire.Report) -> None:
        self.ready.set_result(time.monotonic_ns())

    def wrote(self, worker: WorkerProcess, stream: str, line: str) -> None:
        print(line)

    def violated(self, worker: WorkerProcess, reason: str) -> None:
        self.ready.set_exception(RuntimeError(reason))

    def unreaped(self, worker: WorkerProcess) -> None:
        """Its zygote tells soon."""

    def died(self, worker: WorkerProcess) -> None:
        self.dead.set_result(time.monotonic_ns())


async def by_zygote(sample: Sample, nursery: Nursery, files: NodeFiles) -> None:
    owner, serial = Watcher(), nursery.new_serial()
    cookie = nursery.launch.cookie(serial)
    at = time.monotonic_ns()
    worker = WorkerProcess(serial, cookie, "bench/1", (files.cells.cell(0),), owner, OutOfMemory())
    nursery.order(worker, wire.Fork(serial, "bench/1", cookie, "sqlite://", 0), files)
    sample.starts.append((await owner.ready - at) / 1e9)
    sample.memory.append(memory_of([worker.pid]).pss)
    at = time.monotonic_ns()
    worker.kill()
    sample.ends.append((await owner.dead - at) / 1e9)
    nursery.forget(worker)


async def main() -> None:
    with tempfile.TemporaryDirectory(prefix="lq-bench-") as folder:
        Path(folder, "slow_app.py").write_text(APP)
        os.environ["PYTHONPATH"] = os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["slow_app", "__main__"])
        launch = Launch(None, ("slow_app",), folder, "bench")
        nursery = Nursery(launch, lambda notice: None, lambda catalogue: None, lambda zygote: None)
        files = NodeFiles.create(folder, "bench", 1)
        nursery.start()
        await nursery.first_import
        samples = [Sample("exec"), Sample("forkserver"), Sample("zygote")]
        await by_forkserver(Sample("warm"), context)
        ways: list[Callable[[Sample], Awaitable[None]]] = [
            by_exec,
            lambda sample: by_forkserver(sample, context),
            lambda sample: by_zygote(sample, nursery, files),
        ]
        for _ in range(ROUNDS):
            for way, sample in zip(ways, samples, strict=True):
                await way(sample)
        nursery.close()
        while not nursery.is_empty:
            await asyncio.sleep(0.01)
        files.remove()
    for sample in samples:
        print(sample)


if __name__ == "__main__":
    asyncio.run(main())
