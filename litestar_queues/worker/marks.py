"""What a process shows of itself in ``/proc``: its title, and the cookie that its descendants carry.

A fork keeps the memory in which the kernel looks for both (the arguments and the environment it
was started with), so a worker writes its own over the zygote's. Without that, a daemon that a job
forks twice, that closes every descriptor and never calls ``exec``, could not be told from its
neighbour's. ``os.environ`` is changed too: programs started from here get their environment from
that.
"""

from __future__ import annotations

import ctypes
import os

from litestar_queues.wire import COOKIE

_PR_SET_NAME = 15
_ARGUMENTS = 45
_ENVIRONMENT = 47
"""Where ``/proc/self/stat`` has the bounds of the two areas, counted from the state on."""


def set_title(title: str) -> None:
    """Show *title* in ``ps`` and ``top`` in place of the command line."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, title.encode()[:15], 0, 0, 0)
    start, end = _area(_ARGUMENTS)
    text = title.encode()[: max(end - start - 1, 0)]
    if text:
        ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)


def set_cookie(cookie: str) -> None:
    """Mark this process and what it will start with *cookie*, which is as long as the one before it."""
    before, os.environ[COOKIE] = os.environ.get(COOKIE, ""), cookie
    start, end = _area(_ENVIRONMENT)
    # Somebody may have used the area already (setproctitle does): then session and descriptors must do.
    at = ctypes.string_at(start, end - start).find(f"{COOKIE}={before}\0".encode())
    if at >= 0 and len(before) == len(cookie):
        ctypes.memmove(start + at, f"{COOKIE}={cookie}".encode(), len(COOKIE) + 1 + len(cookie))


def _area(index: int) -> tuple[int, int]:
    with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    return int(fields[index]), int(fields[index + 1])
