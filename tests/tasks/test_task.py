"""What ``@task`` makes of a function, and what it refuses."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from typing import Any

import pytest

from litestar_queues import (
    INJECTED,
    NonRetryableError,
    QueueConfig,
    QueueError,
    RetryBackoff,
    task,
)
from litestar_queues.exceptions import QueueConfigurationError, TaskDefinitionError
from litestar_queues.registry import tasks
from litestar_queues.request import build_job, build_named_job, entry_of

NOW = 1_700_000_000_000_000
CONFIG = QueueConfig(queue_backend="memory")


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    with tasks.isolated():
        yield


def job(made: Any, *args: Any, options: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    return build_job(made, args, kwargs, options or {}, config=CONFIG, now=NOW)


def test_a_task_can_be_made_in_three_ways_and_called_directly() -> None:
    @task
    def plain(a: int) -> int:
        """Add one."""
        return a + 1

    @task("named")
    def function(a: int) -> int:
        return a + 2

    @task(queue="slow")
    async def coroutine(a: int) -> int:
        return a + 3

    assert (plain.name, function.name, coroutine.name) == ("plain", "named", "coroutine")
    assert (plain(1), function(1), asyncio.run(coroutine(1))) == (2, 3, 4)
    assert plain.description == "Add one."
    assert tasks.names() == ["coroutine", "named", "plain"]


@pytest.mark.parametrize("thing", [int, 5, classmethod(lambda cls: None), object(), max, lambda: None])
def test_what_is_no_function_with_a_name_and_a_signature_is_refused_at_once(thing: Any) -> None:
    with pytest.raises(TaskDefinitionError):
        task(thing)


@pytest.mark.fault("D16", "names with paths, escapes and NUL", "refused")
def test_a_name_that_would_need_quoting_is_refused() -> None:
    for name in ("x" * 200, "a b", "", "-a", "a\n"):
        with pytest.raises(TaskDefinitionError, match="a task's name cannot be"):
            task(name)(lambda: None)
        with pytest.raises(QueueConfigurationError, match="a task's name cannot be"):
            build_named_job(name, None, (), {}, {}, config=CONFIG, now=NOW)


def test_a_static_method_is_the_function_in_it() -> None:
    class Reports:
        @task("reports.render")
        @staticmethod
        async def render(a: int) -> int:
            return a

    assert Reports.render.is_coroutine
    assert asyncio.run(Reports.render(3)) == 3


def test_what_a_task_says_of_itself() -> None:
    @task("t")
    async def made(a: int, _job_id: object = INJECTED) -> None:
        """Render a report.

        Slowly.
        """

    assert (made.name, made.description, made.is_coroutine) == ("t", "Render a report.", True)
    assert made.injected == {"_job_id"}
    assert (vars(made)["__name__"], made.__wrapped__) == ("made", made.func)  # type: ignore[attr-defined]  # update_wrapper's
    assert inspect.signature(made).parameters.keys() == {"a", "_job_id"}
    assert str(made.codec.signature).startswith("(a: ")


def test_a_generator_is_refused() -> None:
    with pytest.raises(TaskDefinitionError, match="is a generator"):

        @task
        def generator() -> Iterator[int]:
            yield 1


@pytest.mark.fault("D14", "arguments above the limit", "refused with both sizes")
def test_arguments_past_the_limit_are_refused_with_both_sizes() -> None:
    @task
    def made(text: str) -> None:
        return None

    with pytest.raises(QueueError, match="the limit is 1048576"):
        job(made, "x" * 2_000_000)


def test_which_errors_are_retried_is_the_tasks_to_say() -> None:
    @task("t", retry_on=(OSError, ValueError), no_retry_on=FileNotFoundError)
    def made() -> None:
        return None

    assert made.retryable(ConnectionError())
    assert not made.retryable(FileNotFoundError())
    assert not made.retryable(KeyError())
    assert not made.retryable(NonRetryableError())


@pytest.mark.parametrize(
    ("answer", "delay"),
    [
        (2.0, 2_000_000),
        (-5, 0),
        (float("nan"), None),
        (1e300, 30 * 24 * 3600 * 1_000_000),
        ("soon", None),
        (None, None),
    ],
)
@pytest.mark.fault("D18", "a retry policy that raises or returns nonsense", "clamped; the job is retried all the same")
def test_a_callable_backoff_is_clamped_and_its_faults_are_not_the_jobs(answer: Any, delay: int | None) -> None:
    @task("t", retry_backoff=lambda failures, error: answer)
    def made() -> None:
        return None

    assert made.delay(1, ValueError()) == delay


def test_a_task_known_by_its_catalogue_entry_is_checked_as_the_call_would_be() -> None:
    @task("t", queue="q", retries=3, retry_backoff=RetryBackoff(initial_delay=5.0), timeout=9)
    def made(a: int, b: str = "x", *, c: bool = False) -> None:
        return None

    entry = entry_of(made)

    def named(*args: Any, **kwargs: Any) -> Any:
        return build_named_job("t", entry, args, kwargs, {}, config=CONFIG, now=NOW)

    built = named(1, c=True)
    assert (built.queue, built.max_retries, built.timeout, built.key_scope) == ("q", 3, 9_000_000, "t")
    assert built.backoff == job(made, 1).backoff
    for args, kwargs, words in [
        ((), {}, "missing a required argument: 'a'"),
        ((1, "x", 3), {}, "too many positional"),
        ((1,), {"d": 1}, "unexpected keyword argument 'd'"),
        ((1,), {"a": 1}, "several values for argument 'a'"),
    ]:
        with pytest.raises(TypeError, match=words):
            named(*args, **kwargs)
