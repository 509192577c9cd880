"""From a fork of the zygote to a worker: its own session, descriptors, marks and output."""

from __future__ import annotations

import os
import signal
import socket
import sys

from msgspec import Struct

from litestar_queues import wire
from litestar_queues.cell import Cell, CellFile
from litestar_queues.clock import Clock
from litestar_queues.worker import guard, marks, speaking
from litestar_queues.worker.exiting import forget_exit_functions
from litestar_queues.worker.zygote import Newborn


class Worker(Struct, frozen=True):
    """A worker process, ready to serve."""

    name: str
    url: str
    reports: socket.socket
    jobs: socket.socket
    cells: tuple[Cell, ...]
    """One for each job that it runs at a time."""
    streams: tuple[speaking.JobStream, speaking.JobStream]
    stack: int
    """Descriptor of the file for stacks."""


def become_worker(newborn: Newborn, clock: Clock) -> Worker:
    """Make this process, which has just been forked, the worker that was ordered.

    The node's lock stays open: while it is held, this process may be running a job, and no other
    master takes that job over.
    """
    order = newborn.order
    os.setsid()
    guard.die_with(newborn.zygote)
    guard.adopt_orphans()
    guard.be_killed_first(guard.WORKER_OOM_SCORE)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    guard.restore_signals_in_forks()
    forget_exit_functions()
    at = dict(zip(wire.WORKER_DESCRIPTORS, newborn.descriptors, strict=True))
    for name, standard in (("stdout", 1), ("stderr", 2)):
        os.dup2(at[name], standard)
        os.close(at[name])
    marks.set_title(f"lq: worker {order.name}")
    marks.set_cookie(order.cookie)
    if order.nice:
        os.nice(order.nice)
    _reseed_numpy()
    stack = guard.hide(at["stack"])
    guard.show_stacks_in(stack)
    reports = socket.socket(fileno=guard.hide(at["reports"]))
    jobs = socket.socket(fileno=guard.hide(at["jobs"]))
    guard.hide(at["lock"])
    cells = CellFile(guard.hide(at["cells"]))
    streams = speaking.take_over_output(clock)
    speaking.take_over_logging(speaking.JobLogHandler(clock, streams[1]))
    slots = range(order.first_cell, order.first_cell + order.slots)
    return Worker(order.name, order.url, reports, jobs, tuple(map(cells.cell, slots)), streams, stack)


def _reseed_numpy() -> None:
    """Give numpy's global generator a state of its own; Python's ``random`` does so after a fork by itself."""
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()
