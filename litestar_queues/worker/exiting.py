"""Whose exit functions run where, and an exit that waits for nobody."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import weakref
from typing import Any, NoReturn

from litestar_queues.worker.leftovers import has_children


def forget_exit_functions() -> None:
    """Leave what the import has registered to run at exit to the zygote, where the import was.

    A worker that is replaced would otherwise remove the temporary folder that the import has made for
    all, or wait for a pool of processes that are not its children. ``multiprocessing`` does the same in
    what it forks (``popen_fork.py``, ``process.py`` of CPython 3.13). What jobs register runs.
    """
    atexit._clear()
    finalize: Any = weakref.finalize
    finalize._registry.clear()
    finalize._registered_with_atexit = False  # or what a job makes would not be looked after at exit
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        util._finalizer_registry.clear()
        atexit.register(util._exit_function)


def exit_for_good(*, within: int, with_group: bool = False) -> NoReturn:
    """Run what was registered with ``atexit``, for at most *within* seconds, and end.

    *with_group*: this process leads a process group, and what else is in that ends too.

    Threads are not waited for, nor children: the interpreter's own exit waits for all that are not
    daemons, and a thread of the application's would keep this process for ever.
    """
    signal.signal(signal.SIGALRM, lambda *_: _end(with_group=with_group))
    signal.alarm(within)
    # Whatever an exit function raises, this process ends.
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()
    _end(with_group=with_group)


def _end(*, with_group: bool) -> NoReturn:
    if with_group and has_children():
        # At one blow: a pool that the import has made replaces its processes one by one.
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(0)
