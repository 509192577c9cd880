"""Boot a zygote: import the application, say so, fork workers; and be one, in what is forked."""

from __future__ import annotations

import dataclasses
import os
import socket
import sys
import traceback

import msgspec

from litestar_queues import wire
from litestar_queues.clock import SystemClock
from litestar_queues.config import QueueConfig
from litestar_queues.enqueuer import set_process_enqueuer
from litestar_queues.nodes import Catalogue
from litestar_queues.running import report
from litestar_queues.worker import application, guard, marks, serving, slots
from litestar_queues.worker.birth import become_worker
from litestar_queues.worker.enqueuing import WorkerEnqueuer
from litestar_queues.worker.exiting import exit_for_good
from litestar_queues.worker.speaking import make_output_clean
from litestar_queues.worker.zygote import Newborn, Zygote, make_ready_to_fork

_PATIENCE = 1
"""Seconds that what was registered with ``atexit`` gets."""


def main() -> int:
    """Run a zygote until its master closes the channel, and in what it forks a worker; return the exit status."""
    boot = msgspec.json.decode(sys.argv[1], type=wire.Boot)
    guard.die_with(boot.parent)  # the import may hang
    guard.leave_signals_to_master()
    guard.adopt_orphans()
    guard.be_killed_first(guard.ZYGOTE_OOM_SCORE)
    marks.set_title("lq: zygote")
    make_output_clean()
    control = socket.socket(fileno=guard.hide(boot.control))
    loaded = _import_application(boot, control)
    if loaded is None:
        return 1
    config, catalogue = loaded
    guard.leave_signals_to_master()  # the import may have taken some
    threads = make_ready_to_fork()
    guard.outlive_parent()
    if os.getppid() != boot.parent:
        return 0
    wire.send(control, wire.Imported(catalogue, threads))
    newborn = _serve(control)
    if newborn is None:
        exit_for_good(within=_PATIENCE, with_group=True)
    return _work(newborn, config)


def _serve(control: socket.socket) -> Newborn | None:
    try:
        return Zygote(control).serve()
    except Exception:  # a defect: its words go to the master, and its workers end with it
        traceback.print_exc()
        return None


def _work(newborn: Newborn, config: QueueConfig) -> int:
    clock = SystemClock()
    worker = become_worker(newborn, clock)
    set_process_enqueuer(WorkerEnqueuer(dataclasses.replace(config, queue_backend=worker.url), clock))
    wire.send(worker.reports, wire.Ready(os.getpid()))
    server = serving.Server(worker, clock) if len(worker.cells) == 1 else slots.SlotServer(worker, clock)
    server.serve()
    if server.is_last:
        exit_for_good(within=_PATIENCE)
    return 0


def _import_application(boot: wire.Boot, control: socket.socket) -> tuple[QueueConfig, Catalogue] | None:
    try:
        return application.load(boot.app, boot.imports, boot.folder)
    # The application's own code: it may raise anything, or ask to exit.
    except BaseException as error:
        wire.send(control, wire.ImportFailed(report(error)))
        return None


if __name__ == "__main__":
    sys.exit(main())
