"""What ``@task`` makes, what ``using`` changes, and which options go where."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from litestar_queues import NonRetryableError, QueueConfig, QueueError, RetryBackoff, UnknownTaskError, task
from litestar_queues.exceptions import QueueConfigurationError, TaskDefinitionError
from litestar_queues.registry import tasks
from litestar_queues.request import build_job, build_named_job, entry_of, split_options

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


def test_two_functions_under_one_name_are_an_error_and_the_same_one_again_is_not() -> None:
    def make() -> Any:
        @task("same")
        def one() -> None:
            return None

        return one

    make()
    make()
    with pytest.raises(TaskDefinitionError, match="two functions are named 'same'"):

        @task("same")
        def other() -> None:
            return None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"queue": "a b"}, "use letters, digits"),
        ({"retries": -1}, "retries cannot be -1"),
        ({"timeout": 0}, "timeout cannot be 0"),
        ({"timeout": float("nan")}, "timeout cannot be nan"),
        ({"timeout": "5"}, "give seconds"),
        ({"priority": 2**40}, "priority cannot be"),
        ({"metadata": [1]}, "give a dictionary"),
        ({"key_scope": "all"}, "use one of 'task', 'global'"),
        ({"cron": "* * * * *"}, "has no option 'cron'"),
        ({"retry_on": "ValueError"}, "takes exception types"),
        ({"retry_backoff": -1.0}, "retry_backoff cannot be"),
    ],
)
def test_a_bad_option_fails_when_the_task_is_made_and_names_itself(options: dict[str, Any], words: str) -> None:
    with pytest.raises(TaskDefinitionError) as raised:
        task("t", **options)(lambda: None)
    assert words in str(raised.value)


@pytest.mark.parametrize("thing", [int, 5, "x" * 200])
def test_what_is_no_function_or_no_name_is_refused(thing: Any) -> None:
    with pytest.raises(TaskDefinitionError):
        task("fine" if not isinstance(thing, str) else thing)(thing if not isinstance(thing, str) else print)


def test_a_generator_is_refused() -> None:
    with pytest.raises(TaskDefinitionError, match="is a generator"):

        @task
        def generator() -> Iterator[int]:
            yield 1


def test_using_changes_a_copy_and_none_takes_an_option_back() -> None:
    @task("t", queue="a", timeout=5)
    def made() -> None:
        return None

    copy = made.using(queue="b", timeout=None, priority=3)
    assert (job(made).queue, job(made).timeout, job(made).priority) == ("a", 5_000_000, 0)
    assert (job(copy).queue, job(copy).timeout, job(copy).priority) == ("b", None, 3)


@pytest.mark.parametrize("name", ["retry_on", "no_retry_on", "name", "description"])
def test_using_refuses_what_belongs_to_the_task_alone(name: str) -> None:
    @task
    def made() -> None:
        return None

    with pytest.raises(TypeError, match=name):
        made.using(**{name: ValueError})
    with pytest.raises(ValueError, match="a callable belongs to @task"):
        made.using(retry_backoff=lambda failures, error: 1.0)


def test_an_option_that_is_also_a_parameter_goes_to_the_task() -> None:
    @task
    def made(key: str, other: int = 0) -> None:
        return None

    assert split_options(made, {"key": "k", "priority": 5, "other": 1}) == ({"priority": 5}, {"key": "k", "other": 1})


def test_overrides_reach_the_job() -> None:
    @task("t", retries=2)
    def made(a: int) -> None:
        return None

    built = job(
        made,
        1,
        options={
            "queue": "slow",
            "priority": 1,
            "retries": 5,
            "timeout": timedelta(minutes=10),
            "run_after": 30,
            "expires_in": 60,
            "key": "k",
            "metadata": {"by": "u"},
            "retry_backoff": 2.5,
        },
    )
    assert (built.queue, built.priority, built.max_retries, built.timeout) == ("slow", 1, 5, 600_000_000)
    assert (built.run_at - NOW, built.expires_at - NOW) == (30_000_000, 60_000_000)
    assert (built.key, built.key_scope, built.metadata) == ("k", "t", '{"by":"u"}')
    assert '"initial_delay":2.5' in built.backoff


def test_a_moment_needs_a_time_zone_and_excludes_a_delay() -> None:
    @task
    def made() -> None:
        return None

    with pytest.raises(ValueError, match="has no time zone"):
        job(made, options={"scheduled_at": datetime(2026, 1, 1)})
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    assert job(made.using(run_after=5), options={"scheduled_at": moment}).run_at == int(moment.timestamp()) * 1_000_000
    with pytest.raises(ValueError, match="exclude each other"):
        job(made, options={"scheduled_at": moment, "run_after": 5})


def test_a_backend_that_is_not_configured_is_refused_at_enqueue() -> None:
    @task
    def made() -> None:
        return None

    with pytest.raises(QueueConfigurationError, match="no execution backend is named 'cloudrun'"):
        job(made, options={"execution_backend": "cloudrun"})


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
def test_a_callable_backoff_is_clamped_and_its_faults_are_not_the_jobs(answer: Any, delay: int | None) -> None:
    @task("t", retry_backoff=lambda failures, error: answer)
    def made() -> None:
        return None

    assert made.delay(1, ValueError()) == delay


def test_an_unknown_name_says_which_is_near() -> None:
    @task("reports.render")
    def made() -> None:
        return None

    with pytest.raises(UnknownTaskError, match=r"did you mean 'reports\.render'\?"):
        tasks.get("report.render")


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


def test_without_a_service_enqueue_says_what_to_do() -> None:
    @task
    def made() -> None:
        return None

    with pytest.raises(QueueError, match="add QueuePlugin to the app"):
        asyncio.run(made.enqueue())
