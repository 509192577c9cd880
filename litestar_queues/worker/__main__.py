"""Boot a worker: guard the process, import the application, say Ready, wait for Start, serve."""

from __future__ import annotations

import dataclasses
import os
import socket
import sys

import msgspec

from litestar_queues import wire
from litestar_queues.cell import CellFile
from litestar_queues.clock import SystemClock
from litestar_queues.config import QueueConfig
from litestar_queues.enqueuer import set_process_enqueuer
from litestar_queues.running import report
from litestar_queues.worker import application, guard, serving, speaking
from litestar_queues.worker.enqueuing import WorkerEnqueuer


def main() -> int:
    """Run a worker until its master closes the channel; return the exit status."""
    boot = msgspec.json.decode(sys.argv[1], type=wire.Boot)
    guard.die_with(boot.parent)
    guard.ignore_terminal_signals()
    guard.be_killed_first()
    guard.show_stacks_in(guard.hide(boot.stack))
    channel = socket.socket(fileno=guard.hide(boot.channel))
    clock, speaker = SystemClock(), speaking.Speaker(channel)
    streams = speaking.take_over_output(clock, speaker)

    config = _import_application(boot, channel)
    if config is None:
        return 1
    speaking.take_over_logging(speaking.JobLogHandler(clock, speaker, streams[1]))
    try:
        start, cells = serving.await_start(channel)
    except wire.ChannelClosed:
        return 0
    set_process_enqueuer(WorkerEnqueuer(dataclasses.replace(config, queue_backend=start.url)))
    cell = CellFile(guard.hide(cells)).cell(start.slot)
    serving.Server(channel, cell, name=start.name, clock=clock, speaker=speaker, streams=streams).serve()
    return 0


def _import_application(boot: wire.Boot, channel: socket.socket) -> QueueConfig | None:
    try:
        config, catalogue = application.load(boot.app, boot.imports, boot.folder)
    # The application's own code: it may raise anything, or ask to exit.
    except BaseException as error:
        wire.send(channel, wire.BootFailed(report(error)))
        return None
    wire.send(channel, wire.Ready(os.getpid(), catalogue))
    return config


if __name__ == "__main__":
    sys.exit(main())
