"""The synchronous twin: the same methods, and they block."""

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from uuid import UUID

import pytest

from litestar_queues import QueueConfig, QueueService, TaskFailed, TaskRequest, task
from litestar_queues.exceptions import QueueError
from litestar_queues.synchronous import SyncQueueService
from support.waiting import wait_until


@task("sync.identity")
def identity(value: UUID) -> UUID:
    return value


@task("sync.fails")
def fails() -> None:
    raise ValueError("on purpose")


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
    assert not [thread for thread in threading.enumerate() if thread.name == "litestar-queues-sync"]


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


def test_a_forgotten_close_does_not_keep_the_interpreter(url: str) -> None:
    script = run_script(url, "print(result.number)")
    assert script.communicate(timeout=30) == (b"1\n", b"")
    assert script.returncode == 0


def test_ctrl_c_ends_a_wait(url: str) -> None:
    script = run_script(url, "print('waiting', flush=True)\nresult.wait()")
    assert script.stdout is not None
    assert script.stdout.readline() == b"waiting\n"
    os.kill(script.pid, signal.SIGINT)
    wait_until(lambda: script.poll() is not None, "the script has ended")
    _, errors = script.communicate()
    assert errors.strip().endswith(b"KeyboardInterrupt")
