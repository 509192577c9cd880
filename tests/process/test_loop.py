"""A worker that runs one job at a time stays on its event loop while coroutines come, and nobody sees that."""

from __future__ import annotations

import asyncio
import contextvars
import weakref
from collections.abc import Callable
from contextlib import suppress
from threading import Thread

import pytest

from litestar_queues import task, wire
from litestar_queues.cell import Phase
from litestar_queues.worker.jobloop import JobLoop
from support.waiting import wait_until
from support.workers import OneWorker

_seen: contextvars.ContextVar[str] = contextvars.ContextVar("seen", default="nothing")


@task("loop.coroutine")
async def coroutine(number: int) -> list[str]:
    """Say what an asyncio task sees of itself."""
    current, loop = asyncio.current_task(), asyncio.get_running_loop()
    before = _seen.get()
    _seen.set("another job")
    async with asyncio.timeout(60):
        await asyncio.sleep(0)
    return [before, str(asyncio.all_tasks() == {current}), str(asyncio.get_event_loop() is loop)]


SEEN = '["nothing","True","True"]'


@task("loop.function")
def function(number: int) -> str:
    """Run event loops as synchronous code does: the main thread's, one of its own."""
    loop = asyncio.get_event_loop_policy().get_event_loop()
    loop.run_until_complete(asyncio.sleep(0))
    asyncio.run(asyncio.sleep(0))
    with suppress(RuntimeError):
        asyncio.get_running_loop()
        return "a loop is running"
    return "good"


@task("loop.stops")
async def stops(number: int) -> None:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0.001)


@task("loop.stops_at_end")
async def stops_at_end(number: int) -> str:
    asyncio.get_running_loop().stop()
    return "good"


@task("loop.raises_through")
async def raises_through(number: int) -> None:
    asyncio.get_running_loop().call_soon(_exit)
    await asyncio.sleep(60)


def _exit() -> None:
    raise SystemExit("on purpose")


@task("loop.leaves")
async def leaves(number: int) -> None:
    _kept.append(asyncio.create_task(asyncio.sleep(60)))
    await asyncio.sleep(0)


_kept: list[asyncio.Task[None]] = []


@task("loop.waits")
async def waits(number: int) -> None:
    await asyncio.sleep(60)


class Session:
    """What is dear to keep."""


_session: contextvars.ContextVar[Session] = contextvars.ContextVar("session")
_held: list[weakref.ref[Session]] = []


@task("loop.holds")
async def holds(number: int) -> None:
    _session.set(Session())
    _held.append(weakref.ref(_session.get()))


@task("loop.debugs")
async def debugs(number: int) -> bool:
    loop = asyncio.get_running_loop()
    was_on = loop.get_debug()
    loop.set_debug(not was_on)
    return was_on


@pytest.fixture
def entered(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """What has an entry for each time that the loop was entered."""
    entries: list[None] = []
    original: Callable[[JobLoop], None] = JobLoop.run_forever

    def run_forever(loop: JobLoop) -> None:
        entries.append(None)
        original(loop)

    monkeypatch.setattr(JobLoop, "run_forever", run_forever)
    return entries


def results(reports: list[wire.Report]) -> list[str]:
    """Return results, and what was raised; log lines apart."""
    ends = [report for report in reports if isinstance(report, wire.Done | wire.Failed)]
    return [end.result if isinstance(end, wire.Done) else f"{end.kind} {end.error.type}" for end in ends]


def test_coroutines_run_one_after_another_without_leaving_the_loop(one_worker: OneWorker, entered: list[None]) -> None:
    assert results(one_worker.serve(*["loop.coroutine"] * 20)) == [SEEN] * 20
    assert len(entered) == 1


def test_functions_between_coroutines_have_no_loop_running(one_worker: OneWorker, entered: list[None]) -> None:
    order = ["loop.function", "loop.coroutine", "loop.coroutine", "loop.function", "loop.function", "loop.coroutine"]
    good = {"loop.function": '"good"', "loop.coroutine": SEEN}
    assert results(one_worker.serve(*order)) == [good[name] for name in order]
    assert len(entered) == 2 + 3  # three by the functions themselves


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("loop.stops", "null"),
        ("loop.stops_at_end", '"good"'),
        ("loop.raises_through", "raised SystemExit"),
        ("loop.leaves", "null"),
        ("loop.unknown", "unknown UnknownTaskError"),
    ],
)
def test_what_a_coroutine_does_to_the_loop_is_nobody_elses(one_worker: OneWorker, name: str, end: str) -> None:
    reports = one_worker.serve("loop.coroutine", name, "loop.coroutine", "loop.function", "loop.coroutine")
    assert results(reports) == [SEEN, end, SEEN, '"good"', SEEN]


def test_a_request_to_stop_reaches_the_coroutine_that_is_meant(one_worker: OneWorker) -> None:
    asking = Thread(target=one_worker.ask_to_stop, args=(2,))
    asking.start()
    reports = one_worker.serve("loop.coroutine", "loop.waits", "loop.coroutine", "loop.function")
    asking.join()
    assert results(reports) == [SEEN, "interrupted CancelledError", SEEN, '"good"']
    assert one_worker.cell.read().phase == Phase.ENDED


def test_a_worker_that_waits_for_the_next_job_holds_nothing_of_the_last(one_worker: OneWorker) -> None:
    def look() -> None:
        try:
            wait_until(lambda: len(_held) == 2, "two jobs have run")
            wait_until(lambda: not any(reference() for reference in _held), "what they had in their contexts is gone")
            outcomes.append("gone")
        finally:
            one_worker.close_queue()

    outcomes: list[str] = []
    looking = Thread(target=look)
    looking.start()
    one_worker.give("loop.holds", "loop.holds")
    one_worker.server.serve()
    looking.join()
    assert outcomes == ["gone"]


def test_the_loop_is_left_before_the_wait_for_the_next_job_when_it_watches_for_what_is_slow(
    one_worker: OneWorker, entered: list[None]
) -> None:
    assert results(one_worker.serve("loop.debugs", "loop.coroutine", "loop.debugs")) == ["false", SEEN, "true"]
    assert len(entered) == 3


def ends(reports: list[wire.Report]) -> list[str]:
    """Return what became of each job, in a word or two."""
    found = [report for report in reports if isinstance(report, wire.Done | wire.Failed)]
    return [end.result if isinstance(end, wire.Done) else f"{end.kind} {end.error.type}" for end in found]


_left: list[asyncio.Task[None]] = []
_turns = [0]
"""Turns of the loop after which what was left exits."""


@task("loop.leaves_exit")
async def leaves_exit(number: int) -> None:
    async def child() -> None:
        for _ in range(_turns[0]):
            await asyncio.sleep(0)
        raise SystemExit("not the next one's")

    _left.append(asyncio.create_task(child()))


@pytest.mark.parametrize("turns", [0, 1, 2, 3])  # one of these is the turn in which the next job is taken
@pytest.mark.parametrize(("after", "end"), [("loop.coroutine", SEEN), ("loop.function", '"good"')])
def test_what_one_job_left_and_that_exits_is_not_charged_to_the_next(
    one_worker: OneWorker, after: str, end: str, turns: int
) -> None:
    _turns[0] = turns
    reports = one_worker.serve("loop.coroutine", "loop.leaves_exit", after, "loop.coroutine")
    assert ends(reports)[2:] == [end, SEEN]
    while _left:
        left = _left.pop()
        assert left.cancelled() or isinstance(left.exception(), SystemExit)


@task("loop.odd_error")
async def odd_error(number: int) -> None:
    raise SyntaxError("odd", ("file", 1, 1, 5))  # type: ignore[arg-type]  # a number where a line of text should be


@task("loop.odd_error_of_function")
def odd_error_of_function(number: int) -> None:
    raise SyntaxError("odd", ("file", 1, 1, 5))  # type: ignore[arg-type]  # likewise


@pytest.mark.parametrize("name", ["loop.odd_error", "loop.odd_error_of_function"])
def test_an_error_whose_traceback_cannot_be_made_ends_its_job_and_holds_up_no_other(
    one_worker: OneWorker, name: str
) -> None:
    assert ends(one_worker.serve(name, "loop.coroutine")) == ["raised SyntaxError", SEEN]
