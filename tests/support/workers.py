"""A worker's server in the process of the test, which has the master's ends of its channels."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from uuid import UUID

from litestar_queues import wire
from litestar_queues.cell import CellFile, Reason
from litestar_queues.clock import SystemClock
from litestar_queues.payload import checksum
from litestar_queues.worker import serving
from litestar_queues.worker.birth import Worker
from litestar_queues.worker.speaking import JobStream
from support.waiting import wait_until

CALL = '{"args":[1],"kwargs":{}}'


def run_of(number: int, task: str, payload: str = CALL) -> wire.Run:
    return wire.Run(number, 1, UUID(int=number), task, "default", 1, payload, checksum(payload), 0, 0, 1 << 20)


class OneWorker:
    """A worker's side, in this process: its server, and the master's ends of its channels."""

    def __init__(self, cells: CellFile) -> None:
        self.cell = cells.cell(0)
        self.master_jobs, jobs = wire.pair()
        self.master_reports, reports = wire.pair()
        self.master_reports.setblocking(False)
        streams = (JobStream("stdout", 1, SystemClock()), JobStream("stderr", 2, SystemClock()))
        worker = Worker("default/1", "sqlite:///none", reports, jobs, (self.cell,), streams, stack=-1)
        self.server = serving.Server(worker, SystemClock())
        self.ends = (self.master_jobs, jobs, self.master_reports, reports)

    def serve(self, *tasks: str) -> list[wire.Report]:
        """Have one job of each task run, in that order; return what came up."""
        self.give(*tasks)
        self.close_queue()
        self.server.serve()
        return list(self._reports())

    def give(self, *tasks: str) -> None:
        """Queue one job of each task."""
        for number, task in enumerate(tasks, 1):
            wire.send(self.master_jobs, run_of(number, task))

    def ask_to_stop(self, number: int) -> None:
        """Ask a job to stop once it has begun, until it has ended; from another thread than the server's."""
        wait_until(lambda: self.cell.read().is_running(number, 1), "the job has begun")
        self.cell.ask_to_stop(number, 1, Reason.CANCEL)

        def heeds() -> bool:
            os.kill(os.getpid(), signal.SIGUSR2)  # again: it may have been before the first step
            return not self.cell.read().is_running(number, 1)

        wait_until(heeds, "it ends")

    def close_queue(self) -> None:
        """Say that there will be no more."""
        self.master_jobs.shutdown(socket.SHUT_WR)

    def _reports(self) -> Iterator[wire.Report]:
        try:
            while True:
                yield wire.receive_report(self.master_reports)
        except BlockingIOError:
            return
