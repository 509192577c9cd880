"""The synchronous twin: the same methods, and they block."""

import asyncio
import copy
import inspect
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from litestar_queues import QueueConfig, QueueService, StoreError, TaskFailed, TaskRequest, task
from litestar_queues.exceptions import QueueError
from litestar_queues.results import TaskResult
from litestar_queues.synchronous import Blocking, SyncQueueService, SyncTaskResult
from support.waiting import wait_until


@task("sync.identity")
def identity(value: UUID) -> UUID:
    return value


@task("sync.fails")
def fails() -> None:
    raise ValueError("on purpose")


@task("sync.forever")
async def forever() -> None:
    await asyncio.Event().wait()


@pytest.fixture
def queues(url: str) -> Iterator[SyncQueueService]:
    with QueueService.sync(QueueConfig(queue_backend=url)) as queues:
        yield queues


@pytest.fixture
def at_once(url: str) -> Iterator[SyncQueueService]:
    with QueueService.sync(QueueConfig(queue_backend=url, execution_backend="immediate")) as queues:
        yield queues


def test_a_job_is_enqueued_waited_for_and_read(at_once: SyncQueueService) -> None:
    value = UUID(int=7)
    result = at_once.enqueue(identity, value)
    assert result.get(timeout=5) == value
    assert result.wait().status == result.status == "completed"
    assert result.refresh().number == result.number
    assert [event.type for event in result.events()][-1] == "task.completed"


def test_exceptions_come_as_they_are(at_once: SyncQueueService) -> None:
    with pytest.raises(TaskFailed, match="on purpose"):
        at_once.enqueue(fails).get()
    with pytest.raises(TypeError, match="missing a required argument"):
        at_once.enqueue(identity)  # type: ignore[call-overload]


def test_lists_of_results_block_too(queues: SyncQueueService) -> None:
    results = queues.enqueue_many([TaskRequest(identity, (UUID(int=n),)) for n in range(3)])
    assert [result.cancel() for result in results] == [True] * 3
    assert queues.get_statistics().cancelled == 3
    assert queues.get_result(results[0].id).status == "cancelled"
    assert [record.number for record in queues.list_tasks()] == [3, 2, 1]


def test_waiting_in_vain_is_a_timeout_that_names_the_job(queues: SyncQueueService) -> None:
    result = queues.enqueue(identity, UUID(int=1))
    with pytest.raises(TimeoutError, match=r"#1 \(sync.identity"):
        result.wait(timeout=0.01)


def test_several_threads_use_one(queues: SyncQueueService) -> None:
    numbers: list[int] = []
    threads = [
        threading.Thread(target=lambda n=n: numbers.append(queues.enqueue(identity, UUID(int=n)).number))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 9))


def test_it_refuses_to_block_a_running_event_loop(queues: SyncQueueService) -> None:
    async def call() -> None:
        queues.get_statistics()

    with pytest.raises(QueueError, match="would block the event loop"):
        asyncio.run(call())


def test_after_its_end_every_call_is_refused(url: str) -> None:
    queues = QueueService.sync(QueueConfig(queue_backend=url))
    queues.close()
    queues.close()
    with pytest.raises(QueueError, match="is closed"):
        queues.get_statistics()
    assert queues.is_open is False


def test_nothing_of_a_closed_one_is_left(url: str) -> None:
    QueueService.sync(QueueConfig(queue_backend=url)).close()  # whoever imports late has started his threads
    before = threading.active_count()
    for _ in range(3):
        with QueueService.sync(QueueConfig(queue_backend=url)) as queues:
            queues.get_statistics()
    assert threading.active_count() == before


def test_one_that_cannot_open_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(StoreError, match="does not exist"):
        QueueService.sync(QueueConfig(queue_backend=f"sqlite:///{tmp_path}/no/such.db"))
    assert threading.active_count() == before


def errors_of_threads(count: int, call: Callable[[], object]) -> tuple[list[threading.Thread], list[Exception]]:
    """Make *call* in some threads at once; return them, and where their errors will be."""
    errors: list[Exception] = []

    def catch() -> None:
        try:
            call()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=catch, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads, errors


def all_refused_as_closed(threads: list[threading.Thread], errors: list[Exception]) -> bool:
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    return [type(error) for error in errors] == [QueueError] * len(threads) and all(
        "is closed" in str(error) for error in errors
    )


def test_closing_ends_the_calls_that_other_threads_wait_for(url: str) -> None:
    queues = QueueService.sync(QueueConfig(queue_backend=url))
    result = queues.enqueue(identity, UUID(int=1))
    asked = threading.Barrier(4)
    threads, errors = errors_of_threads(3, lambda: asked.wait(20) >= 0 and result.wait())
    asked.wait(20)
    queues.close()
    assert all_refused_as_closed(threads, errors)


def test_closing_amid_calls_lets_each_return_or_be_refused(url: str) -> None:
    queues = QueueService.sync(QueueConfig(queue_backend=url, durability="process"))
    numbers: list[int] = []

    def enqueue_for_ever() -> None:
        while True:
            numbers.append(queues.enqueue("some.task").number)

    threads, errors = errors_of_threads(4, enqueue_for_ever)
    wait_until(lambda: len(numbers) > 20, "jobs are enqueued")
    queues.close()
    assert all_refused_as_closed(threads, errors)
    with QueueService.sync(QueueConfig(queue_backend=url)) as again:
        assert again.get_statistics().total >= len(numbers)


def test_closing_cancels_a_job_that_runs_here_and_the_record_says_so(url: str) -> None:
    config = QueueConfig(queue_backend=url, execution_backend="immediate")
    with QueueService.sync(config) as other:
        queues = QueueService.sync(config)
        threads, errors = errors_of_threads(1, lambda: queues.enqueue(forever))
        wait_until(lambda: other.get_statistics().running, "the job runs")
        queues.close()
        assert all_refused_as_closed(threads, errors)
        assert other.get_result(1).status == "cancelled"


def test_a_forked_child_is_refused_and_does_not_hang(queues: SyncQueueService) -> None:
    def call(pipe: object) -> None:
        try:
            queues.get_statistics()
        except QueueError as error:
            pipe.send(str(error))  # type: ignore[attr-defined]

    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    child = context.Process(target=call, args=(there,))
    child.start()
    assert here.poll(20)
    assert "belongs to the parent process" in here.recv()
    child.join()


SCRIPT = """
import sys
from litestar_queues import QueueConfig, QueueService
queues = QueueService.sync(QueueConfig(queue_backend=sys.argv[1]))
result = queues.enqueue("some.task", 1)
{then}
"""


def run_script(url: str, then: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", SCRIPT.format(then=then), url]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.parametrize("then", ["print(result.number)", "print(queues.get_task(1).number)"])
def test_a_forgotten_close_does_not_keep_the_interpreter(url: str, then: str) -> None:
    script = run_script(url, then)
    assert script.communicate(timeout=30) == (b"1\n", b"")
    assert script.returncode == 0


def test_a_thread_that_outlives_the_main_one_goes_on_using_it(url: str) -> None:
    later = (
        "import threading\n"
        "def later():\n"
        "    threading.main_thread().join()\n"
        "    print(queues.get_statistics().total)\n"
        "threading.Thread(target=later).start()\n"
    )
    script = run_script(url, later)
    assert script.communicate(timeout=30) == (b"1\n", b"")
    assert script.returncode == 0


def test_ctrl_c_ends_a_wait(url: str) -> None:
    script = run_script(url, "print('waiting', flush=True)\nresult.wait()")
    assert script.stdout is not None
    assert script.stdout.readline() == b"waiting\n"
    os.kill(script.pid, signal.SIGINT)
    wait_until(lambda: script.poll() is not None, "the script has ended")
    _, errors = script.communicate()
    assert b"\nKeyboardInterrupt\n" in errors


class Ticker:
    """Something with asynchronous iterators, as the service may have."""

    def __init__(self) -> None:
        self.ended = False

    async def ticks(self) -> AsyncIterator[int]:
        try:
            for n in range(3):
                await asyncio.sleep(0)
                yield n
        finally:
            self.ended = True

    async def more(self) -> AsyncIterator[int]:
        return self.ticks()


def test_asynchronous_iterators_are_ordinary_ones_and_end_when_they_are_left(queues: SyncQueueService) -> None:
    ticker = Ticker()
    blocking = Blocking(ticker, queues._thread)  # type: ignore[attr-defined]
    assert list(blocking.ticks()) == list(blocking.more()) == [0, 1, 2]
    ticker.ended = False
    for tick in blocking.ticks():
        assert tick == 0
        break
    assert ticker.ended


def test_a_copy_is_no_endless_recursion(queues: SyncQueueService) -> None:
    assert repr(copy.copy(queues)) == repr(queues)


OF_THE_ASYNCHRONOUS_ALONE = {"open", "prepare", "add", "enqueue_call"}


@pytest.mark.parametrize(("protocol", "original"), [(SyncQueueService, QueueService), (SyncTaskResult, TaskResult)])
def test_type_checkers_are_told_of_every_method_as_it_is(protocol: Any, original: Any) -> None:
    methods = {name for name, each in vars(original).items() if inspect.iscoroutinefunction(each) and name[0] != "_"}
    told = {name for name, each in vars(protocol).items() if inspect.isfunction(each) and name[0] != "_"}
    assert told == methods - OF_THE_ASYNCHRONOUS_ALONE
    for name in told - {"enqueue"}:  # overloaded: tests/typing has it
        assert str(inspect.signature(getattr(protocol, name)).parameters) == str(
            inspect.signature(getattr(original, name)).parameters
        )
