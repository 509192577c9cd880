"""Bugs to plant: each breaks one promise or mechanism, and the tests must notice.

Written from DESIGN's promises and the mechanisms' own texts. ``run.py`` plants them one by one; an
ordinary test only checks that each still has its place.
"""

from __future__ import annotations

from typing import NamedTuple


class Planted(NamedTuple):
    """One bug."""

    name: str
    breaks: str
    file: str
    old: str
    """Is there once."""
    new: str
    suspects: tuple[str, ...]
    """Tests that are run first; if they pass, the whole suite is."""


STORE = ("tests/store/conformance",)
SQLITE = ("tests/store/sqlite",)
LIFECYCLE = ("tests/tasks/test_lifecycle.py",)
WAITING = ("tests/process/test_waiting.py",)
KILLS = ("tests/process/test_kills.py",)
STRAYS = ("tests/process/test_strays.py",)
SLOTS = ("tests/process/test_slots.py",)
ZOO = ("tests/process/test_zoo.py", "tests/process/test_faults.py")
ZYGOTE = ("tests/process/test_zygote.py",)
TIME = ("tests/process/test_time.py",)
SURROUNDINGS = ("tests/process/test_surroundings.py",)
_S = "litestar_queues/store/sqlite/"
_M = "litestar_queues/master/"
_W = "litestar_queues/worker/"

BUGS = (
    Planted(
        "no fence",
        "a late report is refused",
        _S + "settling.py",
        "if fence != settlement.fence:",
        "if fence is None:",
        STORE,
    ),
    Planted(
        "acknowledged before the commit",
        "durable when enqueue returns",
        _S + "writer.py",
        "            self._commit()\n        # Whatever",
        "            resolve(group)\n            self._commit()\n        # Whatever",
        SQLITE,
    ),
    Planted(
        "NORMAL for FULL",
        "survives loss of power",
        _S + "connection.py",
        'level = "FULL" if',
        'level = "NORMAL" if',
        SQLITE,
    ),
    Planted(
        "no turnstile",
        "writers get fair turns",
        _S + "turnstile.py",
        "            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "            return True\n",
        SQLITE,
    ),
    Planted(
        "no look at the file",
        "a database that is gone is noticed",
        _S + "files.py",
        "if _identity_of(self._path) != self._identity:",
        "if False:",
        SQLITE,
    ),
    Planted(
        "adopting keeps the fence",
        "the old owner of a job is refused",
        _S + "claiming.py",
        '_ADOPT = "UPDATE lq_job SET fence = fence + 1,',
        '_ADOPT = "UPDATE lq_job SET fence = fence + 0,',
        STORE,
    ),
    Planted(
        "no priority",
        "higher priority first",
        _S + "claiming.py",
        "sorted(heads, key=lambda head: head[:2])",
        "sorted(heads, key=lambda head: head[1])",
        STORE,
    ),
    Planted(
        "newest first",
        "first in, first out",
        _S + "claiming.py",
        '"ORDER BY priority DESC, number LIMIT ?)"',
        '"ORDER BY priority DESC, number DESC LIMIT ?)"',
        STORE,
    ),
    Planted(
        "expired jobs are claimed",
        "a job past its expiry does not start",
        _S + "claiming.py",
        "WHERE expires_at IS NOT NULL AND status IN ('scheduled', 'pending') AND expires_at <= :now",
        "WHERE expires_at IS NOT NULL AND status IN ('scheduled', 'pending') AND expires_at <= 0",
        STORE,
    ),
    Planted(
        "counts are not moved",
        "counts change with the jobs",
        _S + "settling.py",
        "        transaction.move(settlement.queue, Status.RUNNING, settlement.status)\n",
        "",
        STORE,
    ),
    Planted(
        "a cancel request is overlooked",
        "a cancelled job does not live on",
        _S + "settling.py",
        "elif is_cancelled and settlement.status not in TERMINAL:",
        "elif False:",
        STORE,
    ),
    Planted(
        "successors of the losers",
        "both or neither",
        _S + "settling.py",
        "for settlement in accepted for job in settlement.successors",
        "for settlement in settlements for job in settlement.successors",
        STORE,
    ),
    Planted(
        "one retry too many",
        "N retries are N+1 attempts",
        "litestar_queues/lifecycle.py",
        "self.job.failures >= self.job.max_retries",
        "self.job.failures > self.job.max_retries",
        LIFECYCLE,
    ),
    Planted(
        "four crashes",
        "a job that kills its worker three times is failed",
        "litestar_queues/lifecycle.py",
        "Status.FAILED if crashes >= MAX_CRASHES",
        "Status.FAILED if crashes > MAX_CRASHES",
        LIFECYCLE,
    ),
    Planted(
        "suspects are forgotten",
        "a suspect's next attempt runs alone",
        "litestar_queues/lifecycle.py",
        "return isinstance(self.outcome, Suspected) or",
        "return",
        (*LIFECYCLE, *SLOTS),
    ),
    Planted(
        "the checksum is not looked at",
        "damaged arguments are told",
        "litestar_queues/running.py",
        "if checksum(run.payload) != run.checksum:",
        "if False:",
        ("tests/tasks", "tests/service", "tests/process/test_bad_input.py"),
    ),
    Planted(
        "what was taken back stays counted",
        "what waits is not lost when it is taken back",
        _M + "lanes.py",
        "taken = [assignment for number in numbers if (assignment := self.remove(number)) is not None]",
        "taken = [self.assignments[number] for number in numbers if number in self.assignments]",
        WAITING,
    ),
    Planted(
        "neighbours are lost when one is withdrawn",
        "no job is lost",
        _M + "dispatch.py",
        "            if other is not assignment:\n",
        "            if other is None:\n",
        WAITING,
    ),
    Planted(
        "what waited at the dead is forgotten",
        "what waited at a dead worker runs elsewhere",
        _M + "crew.py",
        "        self._dispatch.replace(lane, unbegun)\n",
        "",
        WAITING,
    ),
    Planted(
        "nobody looks at those who wait",
        "nothing waits behind a job that hangs",
        _M + "timekeeper.py",
        "        if waiting:\n            moved",
        "        if False:\n            moved",
        WAITING,
    ),
    Planted(
        "no sweep after a death",
        "a killed job's processes are gone with it",
        _M + "burials.py",
        "        if not worker.is_released:\n            await self.sweep(worker)\n",
        "",
        STRAYS,
    ),
    Planted(
        "the cookie is only in os.environ",
        "a daemon is told from its neighbour's",
        _W + "marks.py",
        "    if at >= 0 and len(before) == len(cookie):",
        "    if False:",
        STRAYS,
    ),
    Planted(
        "leftovers of a success live on",
        "a job leaves nothing behind",
        _W + "leftovers.py",
        "    while reap_dead() and time.monotonic() < give_up:",
        "    while False:",
        STRAYS,
    ),
    Planted(
        "neighbours of a killed job pay",
        "what we killed for one job costs that one alone",
        _M + "assignments.py",
        "        if culprit is not None:\n",
        "        if False:\n",
        SLOTS,
    ),
    Planted(
        "last words are not read",
        "what a job said before it died is kept",
        _M + "process.py",
        "        self._read_the_rest()\n        for pipe",
        "        for pipe",
        ZOO,
    ),
    Planted(
        "a master's lock is not looked at",
        "jobs of a living master are left to it",
        _M + "liveness.py",
        "    if _is_free(path):\n        return False\n    holder",
        "    return False\n    holder",
        (*KILLS, "tests/process/test_faults.py"),
    ),
    Planted(
        "workers outlive the zygote",
        "when the zygote dies, its workers do",
        _W + "birth.py",
        "    guard.die_with(newborn.zygote)\n",
        "",
        ZYGOTE,
    ),
    Planted(
        "the zygote leaves its workers",
        "when the master dies, its workers die",
        _W + "zygote.py",
        "            self._end_all()\n            return None",
        "            os._exit(0)",
        (*STRAYS, *KILLS, *ZYGOTE),
    ),
    Planted(
        "one look for timeouts",
        "timeouts are enforced from outside",
        _M + "timekeeper.py",
        "                self._stop(assignment, Reason.TIMEOUT, 0)\n            else:",
        "                pass\n            else:",
        ZOO,
    ),
    Planted(
        "a drain keeps what waits",
        "SIGTERM gives back what has not begun",
        _M + "dispatch.py",
        "        for lane in list(self._pool_of):\n            self.take_back(lane)\n        for pool",
        "        for pool",
        (*WAITING, *ZOO),
    ),
    Planted(
        "starts are not remembered",
        "recorded attempts are real starts",
        "litestar_queues/cell.py",
        "        _LONG.pack_into(self._memory, self._at + _COUNT, count + 1)\n",
        "",
        WAITING,
    ),
    Planted(
        "escapes reach the terminal",
        "what is stored is made harmless",
        "cli/lq/render/text.py",
        '    return "".join(_visible(character, lines=lines) for character in shown)',
        "    return shown",
        ("tests/cli",),
    ),
    Planted(
        "no kill of the group",
        "a killed job's processes are gone with it",
        _M + "process.py",
        "                _kill_group(self.pid)\n",
        "                pass\n",
        (*STRAYS, *ZOO),
    ),
    Planted(
        "deaths are only hearsay",
        "a death is known from the kernel, not from a pipe or another process",
        _M + "process.py",
        "        self._loop.add_reader(pidfd, self._ended)\n",
        "",
        (*ZYGOTE, *SURROUNDINGS),
    ),
    Planted(
        "doorbell without poll",
        "a lost bell costs a poll and no job",
        _M + "rounds.py",
        "        self._poll = min(self._poll * 2, LONGEST_POLL)\n",
        "        self._poll = patience = 3600.0\n",
        KILLS,
    ),
    Planted(
        "waiters without poll",
        "wait() returns though every bell is lost",
        "litestar_queues/watching.py",
        "LONGEST_POLL = 1.0\n",
        "LONGEST_POLL = SHORTEST_POLL = 3600.0\n",
        ("tests/service",),
    ),
    Planted(
        "the log is never copied",
        "the write-ahead log stays small",
        _S + "writer.py",
        "        if size <= CHECKPOINT_AT:\n",
        "        if True:\n",
        SQLITE,
    ),
    Planted(
        "adoption by the wall clock",
        "what is measured is measured by the monotonic clock",
        _M + "watch.py",
        "        return self._clock.monotonic() / 1e9\n",
        "        return self._clock.now() / 1e6\n",
        TIME,
    ),
    Planted(
        "durations by the wall clock",
        "what is measured is measured by the monotonic clock",
        "litestar_queues/running.py",
        "        took = (self._clock.monotonic() - self._began) // 1_000",
        "        took = self._clock.now() - self._started_at",
        TIME,
    ),
    Planted(
        "pids mean the same everywhere",
        "a master in another container is not taken for dead",
        _M + "liveness.py",
        'if holder is None or holder.namespace not in ("", _namespace()):',
        "if holder is None:",
        SURROUNDINGS,
    ),
    Planted(
        "the next worker forgets the last one's starts",
        "recorded attempts are real starts",
        "litestar_queues/cell.py",
        "bytes(_COUNT)",
        "bytes(_COUNT); self._memory[self._at + _COUNT : self._at + _RING] = bytes(8)",
        ZOO,
    ),
    Planted(
        "a drain does not wait for its dead",
        "SIGTERM drains: nothing is left to be settled",
        _M + "crew.py",
        ", *self._burials.unsettled]",
        "]",
        ZOO,
    ),
    Planted(
        "new code is not published",
        "a reload brings the tasks that are new",
        _M + "crew.py",
        "        self._publish(catalogue)\n",
        "",
        ZYGOTE,
    ),
    Planted(
        "a full key blocks for ever",
        "a key is free when its job has ended",
        _S + "adding.py",
        "AND status IN ('scheduled', 'pending', 'running')",
        "AND status IN ('scheduled', 'pending', 'running', 'completed')",
        STORE,
    ),
    Planted(
        "zygotes wait for threads",
        "when the master dies, its workers die, and so does the zygote",
        _W + "__main__.py",
        "        exit_for_good(within=_PATIENCE, with_group=True)\n",
        "        return 0\n",
        SURROUNDINGS,
    ),
    Planted(
        "a signal for all ends the workers",
        "SIGTERM drains, also when it is sent to all processes of the service",
        _W + "guard.py",
        "            signal.signal(number, _do_nothing)\n",
        "            pass\n",
        SURROUNDINGS,
    ),
    Planted(
        "strays of a dead node live on",
        "an adopted job has no live run beside it",
        _M + "liveness.py",
        '    return strays.sweep(cookie=f"{node}.", released=_released(store_folder, node))\n',
        "    return []\n",
        (*STRAYS, *KILLS),
    ),
    Planted(
        "claims are dated before their turn",
        "the dates of claims stand in their order",
        _S + "transaction.py",
        "return now + (self._began_at - asked_at) // 1_000",
        "return now",
        SQLITE,
    ),
    Planted(
        "starts are read after the adoption",
        "recorded attempts are real starts, also with two masters",
        _M + "watch.py",
        "        for job in jobs:\n            # Adopting raised",
        "        starts = liveness.starts_of(folder, dead)\n        for job in jobs:\n            # Adopting raised",
        ("tests/process/test_adoption.py",),
    ),
    Planted(
        "text must be UTF-8",
        "a damaged row holds up no other job",
        _S + "connection.py",
        "    connection.text_factory = text_of\n",
        "",
        ("tests/process/test_bad_input.py",),
    ),
    Planted(
        "a job that is too large for a frame ends the master",
        "a stored payload fails its own job alone",
        _M + "dispatch.py",
        "        except FrameError as error:\n",
        "        except ZeroDivisionError as error:\n",
        ("tests/process/test_bad_input.py",),
    ),
    Planted(
        "the ballast is anybody's",
        "on a full disk the last room is for what has run",
        _S + "writer.py",
        "return self._only_vital(group) if self._ballast.is_spent() else group",
        "return group",
        (*SQLITE, "tests/process/test_full_disk.py"),
    ),
    Planted(
        "the ballast is never given up",
        "on a full disk what has run is recorded",
        _S + "writer.py",
        "if is_vital and may_use_ballast and is_full(error.__cause__ or error) and",
        "if is_vital and may_use_ballast and is_full(None) and",
        (*SQLITE, "tests/process/test_full_disk.py"),
    ),
    Planted(
        "a truncated log is not noticed",
        "nothing is acknowledged that is not there",
        _S + "files.py",
        "if log.st_size < self._log_size or not log.st_size:",
        "if log.st_size < 0:",
        SQLITE,
    ),
    Planted(
        "nobody is below the zygote",
        "a killed job's processes are gone with it",
        _M + "strays.py",
        "            return _descendants(below)\n",
        "            return []\n",
        STRAYS,
    ),
    Planted(
        "one death at an import breaks the pool",
        "a pool is broken when it is sure that it cannot start",
        _M + "nursery.py",
        "if error is not None or not self.first_import.done() or self.failures >= BROKEN_AFTER:",
        "if reason:",
        ZYGOTE,
    ),
)
