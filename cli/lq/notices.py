"""What ``lq worker`` prints: a banner, then one line per notable event, all on standard error.

The master tells what happens as values; the words are made here. Stored text and what jobs say
pass through ``printable`` before they reach the terminal.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import datetime

import click

from litestar_queues.clock import SECOND
from litestar_queues.master import notices as n
from litestar_queues.models import Status
from litestar_queues.nodes import PoolEntry
from litestar_queues.redaction import shown_url
from lq.render.text import duration, printable
from lq.render.writer import LineWriter

LEVELS = ("debug", "info", "warning", "error", "critical", "none")
DONE_LINES_A_SECOND = 20
"""Completed jobs shown one by one; a busy worker's others are counted in one line."""

_PATIENCE = 1.0
"""Seconds that the reader of the last words gets."""
_COLOURS = {"✓": "green", "✗": "red", "↻": "yellow", "⊘": "magenta", "!": "yellow"}
_WHY = {
    "timeout": "its time is up",
    "cancel": "cancel was asked",
    "drain": "the master stops",
    "memory": "it uses too much memory",
}
_ASCII = {"✓": "*", "✗": "x", "↻": "~", "⊘": "-", "·": ".", "!": "!"}


class Printer:
    """Subscribes to a master's notices and writes lines."""

    def __init__(self, *, level: str = "info", version: str = "") -> None:
        self._out = LineWriter(sys.stderr.fileno())
        self._has_colours = sys.stderr.isatty()
        self._level = LEVELS.index(level)
        self._version = version
        self._is_unicode = (sys.stderr.encoding or "").lower().startswith("utf")
        self._second = 0
        self._shown = 0
        self._hidden = 0
        self.has_started = False

    def __call__(self, notice: n.Notice) -> None:  # noqa: C901 (one case a notice)
        """Write what *notice* says, if it is worth a line."""
        match notice:
            case n.Started():
                self.has_started = True
                self._banner(notice)
            case n.JobSettled():
                self._settled(notice)
            case n.JobSpoke():
                if LEVELS.index(notice.level if notice.level in LEVELS else "info") >= self._level:
                    self._line("·", f"#{notice.number} {notice.task}", notice.message)
            case n.WorkerSpoke():
                self._line("·", notice.worker, notice.text)
            case n.WorkerEnded():
                self._worker_ended(notice)
            case n.JobStopping():
                self._line("!", "stopping", f"#{notice.number} {notice.task} on {notice.worker}: {_WHY[notice.reason]}")
            case n.BootProblem() if self.has_started:  # before that it ends the program, which says why
                again = "" if notice.next_try is None else f"; next try in {notice.next_try:g} s"
                self._line("✗", "boot", f"{notice.reason}{again}")
            case n.PoolProblem():
                state = "is broken" if notice.broken else "cannot start a worker"
                self._line("✗", "pool", f"{notice.pool} {state}: {notice.reason}; next try in {notice.next_try:g} s")
            case n.ZygoteEnded():
                again = f"in {notice.next_try:g} s" if notice.next_try else "at once"
                self._line("✗", "zygote", f"(pid {notice.pid}) {notice.exit}, its workers with it; next try {again}")
            case n.Reloaded():
                names = len(notice.catalogue.tasks)
                self._line("✓", "reload", f"new code, {names} tasks; each worker is replaced when its job has ended")
            case n.ThreadsLost():
                names_of = ", ".join(notice.names)
                self._line("!", "threads", f"the import started {names_of}; workers are forked and do not have them")
            case n.StraysKilled():
                self._line("!", "strays", f"{len(notice.pids)} processes left behind at {notice.worker} were killed")
            case n.JobsAdopted():
                self._line("!", "adopted", f"{notice.jobs} jobs of {len(notice.nodes)} masters that are gone")
            case n.JobsPruned():
                also = f", and {notice.results:,} results of others" if notice.results else ""
                self._line("·", "pruned", f"{notice.jobs:,} jobs that were kept for as long as they were to be{also}")
            case n.StoreProblem():
                self._line("✗", "store", f"{notice.message} (next try in {notice.next_try:g} s; nothing is lost)")
            case n.StoreRecovered():
                self._line("✓", "store", "works again")
            case n.LateReport():
                self._line("!", "late", f"a report about #{notice.number} came after it had been settled; refused")
            case n.Stopping():
                self._stopping(notice)
            case n.Stopped():
                self._stopped(notice)
            case n.WorkerStarted() | n.BootProblem():
                return

    def _banner(self, started: n.Started) -> None:
        catalogue = started.catalogue
        self._write(click.style(f"lq {self._version}", bold=True) + f"  node {started.node[:8]}")
        self._field("app", catalogue.app or "none (tasks imported by name)")
        self._field("store", shown_url(started.url))
        for pool in started.pools:
            self._field("pool", _pool(pool))
        names = sorted(task.name for task in catalogue.tasks)
        shown = ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
        self._field("tasks", f"{len(names)} registered" + (f": {shown}" if names else "; nothing can run"))
        self._field("stop", "Ctrl-C once: finish running jobs · twice: hand them back now")
        self._field("reload", f"kill -USR1 {os.getpid()}: import the application anew")

    def _settled(self, notice: n.JobSettled) -> None:
        job, change = notice.job, notice.settlement
        if change.status == Status.COMPLETED:
            self._completed(notice)
            return
        head = f"#{job.number} {job.task}"
        error = f"  {change.error}" if change.error else ""
        match change.status:
            case Status.FAILED:
                self._line("✗", "failed", f"{head}  attempt {change.attempts}{error}  (lq inspect {job.number})")
            case Status.CANCELLED:
                self._line("⊘", "cancel", head)
            case Status.SCHEDULED:
                wait = (change.run_at - change.settled_at) / SECOND
                self._line("↻", "retry", f"{head}  again in {duration(wait)}{error}")
            case Status.PENDING if change.receipt is None:
                return  # given back before it began: no news
            case _:
                self._line("↻", "again", f"{head}  {notice.outcome}{error}")

    def _completed(self, notice: n.JobSettled) -> None:
        second = int(time.monotonic())
        if second != self._second:
            hidden, self._hidden = self._hidden, 0
            self._second, self._shown = second, 0
            if hidden:
                self._line("✓", "done", f"and {hidden:,} more")
        self._shown += 1
        if self._shown <= DONE_LINES_A_SECOND:
            self._line("✓", "done", f"#{notice.job.number} {notice.job.task}  {_took(notice.settlement.receipt)}")
        else:
            self._hidden += 1

    def _worker_ended(self, notice: n.WorkerEnded) -> None:
        if notice.expected:
            return
        doing = f" while running #{notice.job}" if notice.job else ""
        self._line("!", "worker", f"{notice.worker} (pid {notice.pid}) {notice.exit}{doing}")

    def _stopping(self, notice: n.Stopping) -> None:
        if notice.running:
            what = f"finishing {notice.running} running jobs (up to {notice.timeout:g} s); Ctrl-C again: hand them back now"
        else:
            what = "no job is running"
        self._line("·", "stopping", what)

    def _stopped(self, notice: n.Stopped) -> None:
        if self._hidden:
            self._line("✓", "done", f"and {self._hidden:,} more")
        self._line(
            "·", "stopped", f"{notice.handed_back} jobs handed back" if notice.handed_back else "nothing left running"
        )

    def _field(self, name: str, value: str) -> None:
        self._write(f"  {name:<6} {printable(value)}")

    def _line(self, sign: str, word: str, text: str) -> None:
        at = datetime.now().astimezone().strftime("%H:%M:%S")
        mark = sign if self._is_unicode else _ASCII.get(sign, sign)
        mark = click.style(mark, fg=_COLOURS[sign]) if sign in _COLOURS else mark
        self._write(f"{at} {mark} {word:<8} {printable(text)}")

    def _write(self, text: str) -> None:
        if not self._is_unicode:
            text = text.encode("ascii", "backslashreplace").decode()
        self._out.write(text if self._has_colours else click.unstyle(text))

    def flush(self) -> None:
        """Wait a moment until what was said is written."""
        self._out.flush(_PATIENCE)


def _pool(pool: PoolEntry) -> str:
    served = ", ".join(pool.queues) if pool.queues is not None else "every other queue"
    slots = f" × {pool.slots} slots" if pool.slots > 1 else ""
    return f"{pool.name} ×{pool.processes}{slots}  serves {served}"


def _took(receipt: object) -> str:
    started, ended = getattr(receipt, "started_at", None), getattr(receipt, "ended_at", None)
    return duration((ended - started) / SECOND) if started is not None and ended is not None else ""
