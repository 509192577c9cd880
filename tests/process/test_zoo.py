"""Tasks that do not behave, each beside good ones: it ends as it should, and the pool goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from litestar_queues import QueueConfig, QueuedTaskRecord, QueueEvent, QueueService
from support import history, logbook, zoo
from support.checker import judging
from support.masters import RunningMaster
from support.waiting import wait_until

CONCURRENCY = 2
HOSTILE = {
    "endless_regex": (zoo.endless_regex, ()),
    "hang_in_c": (zoo.hang_in_c, ()),
    "swallow_everything": (zoo.swallow_everything, ()),
    "stop_itself": (zoo.stop_itself, ()),
    "fork_holder": (zoo.fork_holder, ()),
    "setsid_child": (zoo.setsid_child, ()),
    "flood_with_gil": (zoo.flood_with_gil, ()),
    "segfault": (zoo.segfault, ()),
    "exit_zero": (zoo.exit_zero, ()),
    "sys_exit": (zoo.sys_exit, ()),
    "close_channel": (zoo.close_channel, ()),
    "cooperative": (zoo.cooperative, ()),
    "cooperative_async": (zoo.cooperative_async, ()),
    "block_the_loop": (zoo.block_the_loop, ()),
    "fails": (zoo.fails, ()),
    "not_again": (zoo.not_again, ()),
    "cancels_itself": (zoo.cancels_itself, ()),
    "snoozes_for_ever": (zoo.snoozes_for_ever, ()),
    "forks_and_returns": (zoo.forks_and_returns, ()),
    "returns_lambda": (zoo.returns_lambda, ()),
    "returns_too_much": (zoo.returns_too_much, ()),
    "many_lines": (zoo.many_lines, (30_000,)),
    "breaks_its_error": (zoo.breaks_its_error, ()),
}


class Zoo:
    """What became of all of them."""

    def __init__(self, master: RunningMaster) -> None:
        self.master = master
        self.jobs: dict[str, QueuedTaskRecord] = {}
        self.events: dict[str, list[QueueEvent]] = {}
        self.good: list[QueuedTaskRecord] = []
        self.workers_before: list[int] = []

    def messages(self, name: str) -> list[str]:
        return [event.message or "" for event in self.events[name]]


@pytest.fixture(scope="module")
def zoo_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zoo]:
    """Run every hostile task, with good jobs between them, on one real master."""
    folder = tmp_path_factory.mktemp("zoo")
    url = f"sqlite:///{folder / 'zoo.db'}"
    environment = {logbook.VARIABLE: str(folder / "logbook")}
    arguments = ("--import", "support.zoo", "--concurrency", str(CONCURRENCY))
    with (
        judging(folder, folder / "zoo.db"),
        RunningMaster(folder, *arguments, url=url, environment=environment) as master,
    ):
        master.until_serving()
        run = Zoo(master)
        run.workers_before = wait_until(master.workers, "there are workers")
        asyncio.run(_run_all(run, url))
        yield run


async def _run_all(run: Zoo, url: str) -> None:
    async with QueueService(QueueConfig(queue_backend=url)) as service:
        history.record(service)
        results = {}
        good = []
        for name, (task, args) in HOSTILE.items():
            results[name] = await service.enqueue(task, *args)
            good.append(await service.enqueue(zoo.good, len(good)))
        good.append(await service.enqueue(zoo.good_async, "hello"))
        for name, result in results.items():
            run.jobs[name] = await result.wait(60)
            run.events[name] = await result.events()
        run.good = [await result.wait(60) for result in good]


def test_good_jobs_are_not_harmed_by_their_neighbours(zoo_run: Zoo) -> None:
    assert [job.status for job in zoo_run.good] == ["completed"] * len(zoo_run.good)
    assert [job.result for job in zoo_run.good[:-1]] == list(range(1, len(zoo_run.good)))


@pytest.mark.parametrize("name", ["hang_in_c", "swallow_everything", "fork_holder", "setsid_child", "block_the_loop"])
@pytest.mark.fault("A5", "an endless loop that swallows BaseException", "killed at timeout + grace, with its line")
@pytest.mark.fault("A6", "a hang in C code", "killed at timeout + grace, with its line")
@pytest.mark.fault("A17", "a forked child that holds the descriptors", "death is known without the end of the pipe")
@pytest.mark.fault("A35", "a coroutine that blocks its loop", "killed without the worker's help")
def test_a_task_that_cannot_be_asked_is_killed_at_its_timeout_and_shows_its_line(zoo_run: Zoo, name: str) -> None:
    job = zoo_run.jobs[name]
    assert (job.status, job.failure and job.failure.type) == ("failed", "TimeoutError")
    [attempt] = job.attempts
    assert attempt.outcome == "timed_out"
    assert "SIGKILL" in (attempt.exit or "")
    assert "zoo.py" in (attempt.stack or "")
    assert f"in {name}" in (attempt.stack or "")


@pytest.mark.fault("A6", "an endless regular expression", "stopped, with its line")
def test_a_task_in_an_endless_regular_expression_is_stopped_and_shows_its_line(zoo_run: Zoo) -> None:
    job = zoo_run.jobs["endless_regex"]
    assert (job.status, job.attempts[0].outcome) == ("failed", "timed_out")
    assert "in endless_regex" in (job.attempts[0].stack or "")
    assert "before the regex" in zoo_run.messages("endless_regex")


@pytest.mark.fault("A7", "SIGSTOP by the task itself", "killed at its timeout; says that it was stopped")
def test_a_task_that_stops_itself_is_killed_and_the_record_says_why_there_is_no_stack(zoo_run: Zoo) -> None:
    job = zoo_run.jobs["stop_itself"]
    assert (job.status, job.attempts[0].outcome) == ("failed", "timed_out")
    assert "stopped (state T)" in (job.attempts[0].stack or "")


@pytest.mark.parametrize(("name", "words"), [("cooperative", "cleared up"), ("cooperative_async", "cancelled")])
def test_a_task_that_clears_up_in_time_is_not_killed(zoo_run: Zoo, name: str, words: str) -> None:
    [attempt] = zoo_run.jobs[name].attempts
    assert (attempt.outcome, attempt.exit) == ("timed_out", None)
    assert words in zoo_run.messages(name)


@pytest.mark.parametrize(
    ("name", "exit", "words"),
    [("segfault", "was killed by SIGSEGV", "last words"), ("exit_zero", "exited with status 0", "leaving")],
)
@pytest.mark.fault("A3", "os._exit(0) and SIGSEGV in a task", "not a success; failed at the third crash")
@pytest.mark.fault("A15", "a process that dies right after a line", "the line is kept")
def test_a_task_that_ends_its_process_fails_at_the_third_crash_and_its_last_words_are_kept(
    zoo_run: Zoo, name: str, exit: str, words: str
) -> None:
    job = zoo_run.jobs[name]
    assert (job.status, job.crashes, job.retry_count) == ("failed", 3, 0)
    assert [(attempt.outcome, attempt.exit) for attempt in job.attempts] == [("crashed", exit)] * 3
    assert zoo_run.messages(name).count(words) == 3


@pytest.mark.fault("A2", "SIGSEGV in a task", "signal and line are in the attempt")
def test_a_segmentation_fault_leaves_the_line_where_it_happened(zoo_run: Zoo) -> None:
    for attempt in zoo_run.jobs["segfault"].attempts:
        assert "Segmentation fault" in (attempt.stack or "")
        assert "in segfault" in (attempt.stack or "")


@pytest.mark.fault("A13", "a task closes its worker's channel", "killed, a crash")
def test_a_task_that_closes_its_channel_counts_as_a_crash(zoo_run: Zoo) -> None:
    job = zoo_run.jobs["close_channel"]
    assert (job.status, job.crashes) == ("failed", 3)


@pytest.mark.fault("A21", "1 MiB to descriptor 1 with the GIL held", "captured; the protocol is intact")
def test_a_task_may_write_a_mebibyte_to_its_output_while_it_holds_the_interpreter(zoo_run: Zoo) -> None:
    assert zoo_run.jobs["flood_with_gil"].result == "written"
    lines = [event for event in zoo_run.events["flood_with_gil"] if event.type == "task.output"]
    assert len(lines) == 1024


@pytest.mark.fault("A4", "sys.exit in a task", "a failed attempt; the worker lives")
def test_sys_exit_in_a_task_fails_the_job_and_not_the_worker(zoo_run: Zoo) -> None:
    job = zoo_run.jobs["sys_exit"]
    assert (job.status, job.crashes, job.error) == ("failed", 0, "SystemExit: 3")


def test_a_task_that_raises_is_retried_and_every_attempt_keeps_its_traceback(zoo_run: Zoo) -> None:
    job = zoo_run.jobs["fails"]
    assert (job.status, job.retry_count, job.attempt) == ("failed", 3, 3)
    for attempt in job.attempts:
        assert attempt.error is not None
        assert "ValueError: on purpose" in (attempt.error.traceback or "")
        assert "running.py" not in (attempt.error.traceback or "")


def test_an_error_that_is_not_retryable_fails_the_job_at_once(zoo_run: Zoo) -> None:
    assert (zoo_run.jobs["not_again"].status, zoo_run.jobs["not_again"].attempt) == ("failed", 1)


def test_a_snooze_without_end_is_the_tasks_own_error_and_no_crash(zoo_run: Zoo) -> None:
    job = zoo_run.jobs["snoozes_for_ever"]
    assert (job.crashes, job.failure and job.failure.type) == (0, "ValueError")
    assert "a year" in (job.error or "")


def test_a_child_that_comes_back_from_a_task_does_not_serve(zoo_run: Zoo) -> None:
    job = zoo_run.jobs["forks_and_returns"]
    assert (job.status, job.result, job.attempt, job.crashes) == ("completed", "one of two", 1, 0)


def test_a_task_may_cancel_itself(zoo_run: Zoo) -> None:
    assert zoo_run.jobs["cancels_itself"].status == "cancelled"


@pytest.mark.parametrize(("name", "words"), [("returns_lambda", "function"), ("returns_too_much", "max_result_bytes")])
@pytest.mark.fault("A22", "a result above the limit", "failed with a sentence, no retry")
@pytest.mark.fault("A23", "results that are not JSON", "failed with the path to the value")
def test_a_result_that_cannot_be_kept_fails_the_job_with_a_sentence(zoo_run: Zoo, name: str, words: str) -> None:
    job = zoo_run.jobs[name]
    assert (job.status, job.attempt) == ("failed", 1)
    assert words in (job.error or "")


def test_what_a_job_says_past_its_share_is_dropped_and_counted_and_its_result_is_kept(zoo_run: Zoo) -> None:
    job = zoo_run.jobs["many_lines"]
    assert job.result == "all said"
    said = [event.message for event in zoo_run.events["many_lines"] if event.type == "task.output"]
    assert said == [str(index) for index in range(10_000)]
    assert any("20000 more were dropped" in message for message in zoo_run.messages("many_lines"))


@pytest.mark.fault("A33", "an exception whose text raises", "kept as safe text")
def test_an_exception_that_cannot_be_shown_is_kept_all_the_same(zoo_run: Zoo) -> None:
    assert (zoo_run.jobs["breaks_its_error"].error or "").startswith("Broken")


@pytest.mark.fault("A18", "children in sessions of their own", "gone when the attempt has ended")
def test_nothing_that_the_jobs_started_is_left(zoo_run: Zoo) -> None:
    master = zoo_run.master
    wait_until(lambda: not master.strays(), "only workers and their zygote are left")


def test_the_pool_keeps_its_size_and_every_dead_worker_was_replaced(zoo_run: Zoo) -> None:
    wait_until(lambda: len(zoo_run.master.workers()) == CONCURRENCY, "the pool is full again")
    assert set(zoo_run.workers_before) - set(zoo_run.master.workers())


def test_the_fork_holder_had_a_child_that_held_the_descriptors(zoo_run: Zoo) -> None:
    path = Path(str(zoo_run.master.log_file)).parent / "logbook"
    assert any(words[2:] == ["child", "fork_holder"] for words in logbook.read(path))
