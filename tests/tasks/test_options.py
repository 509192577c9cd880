"""Which options there are, which go before which, and what they make of a job."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, get_overloads, get_type_hints

import pytest

from litestar_queues import (
    QueueConfig,
    RetryBackoff,
    options,
    task,
)
from litestar_queues.exceptions import QueueConfigurationError, TaskDefinitionError
from litestar_queues.registry import tasks
from litestar_queues.request import build_job, split_options

NOW = 1_700_000_000_000_000
CONFIG = QueueConfig(queue_backend="memory")


async def sleepy(failures: int, error: Exception) -> float:
    return 1.0


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    with tasks.isolated():
        yield


def job(made: Any, *args: Any, options: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    return build_job(made, args, kwargs, options or {}, config=CONFIG, now=NOW)


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
        ({"retry_on": "ValueError"}, "takes exception types"),
        ({"retry_on": [ValueError, 5]}, "takes exception types, not 5"),
        ({"retry_backoff": -1.0}, "retry_backoff cannot be"),
        ({"retry_backoff": RetryBackoff}, "give seconds, a RetryBackoff(…), or a plain function"),
        ({"retry_backoff": sleepy}, "give seconds, a RetryBackoff(…), or a plain function"),
        ({"retry_backoff": 1e9}, "at most 31622400 seconds"),
        ({"run_after": -1}, "give seconds (0 or more)"),
        ({"expires_in": 0}, "give seconds (more than 0)"),
        ({"kill_grace": math.inf}, "give seconds (0 or more)"),
        ({"key": ""}, "give a text of 1 to 500 characters"),
        ({"key": "a\0b"}, "none of them NUL"),
        ({"execution_backend": "a b"}, "use letters, digits"),
        ({"metadata": {"a": (1,)}}, "must hold plain JSON values"),
        ({"metadata": {"a": math.nan}}, "must hold plain JSON values"),
    ],
)
@pytest.mark.fault("D23", "a million retries and other bounds", "refused, naming the option")
@pytest.mark.fault("F8", "options that make no sense", "refused, naming the option")
def test_a_bad_option_fails_when_the_task_is_made_and_names_itself(options: dict[str, Any], words: str) -> None:
    with pytest.raises(TaskDefinitionError) as raised:
        task("t", **options)(lambda: None)
    assert words in str(raised.value)


@pytest.mark.parametrize("name", ["cron", "bogus", "scheduled_at", "expires_at", "name"])
def test_an_unknown_option_is_a_type_error_that_lists_those_there_are(name: str) -> None:
    with pytest.raises(TypeError, match=f"@task has no option '{name}' .*no_retry_on.* timeout"):
        task("t", **{name: 1})  # type: ignore[call-overload]  # that is the point
    with pytest.raises(TypeError, match="task 't' has no option 'bogus' .*scheduled_at"):
        task("t")(lambda: None).using(bogus=1)  # type: ignore[call-arg]  # likewise


def test_the_options_are_one_list_in_three_places() -> None:
    alone = {"retry_on", "no_retry_on", "description", "redact"}
    [*_, overload] = get_overloads(task)
    declared = {name for name, each in inspect.signature(overload).parameters.items() if each.kind == each.KEYWORD_ONLY}
    assert declared - alone == options.NAMES - options.MOMENTS
    assert alone <= declared
    assert get_type_hints(options.Changes) == get_type_hints(options.Options)


def test_using_changes_a_copy_and_none_takes_an_option_back() -> None:
    @task("t", queue="a", timeout=5)
    def made() -> None:
        return None

    copy = made.using(queue="b", timeout=None, priority=3)
    assert (job(made).queue, job(made).timeout, job(made).priority) == ("a", 5_000_000, 0)
    assert (job(copy).queue, job(copy).timeout, job(copy).priority) == ("b", None, 3)


@pytest.mark.parametrize("name", ["retry_on", "no_retry_on", "name", "description", "redact"])
def test_using_refuses_what_belongs_to_the_task_alone(name: str) -> None:
    @task
    def made() -> None:
        return None

    with pytest.raises(TypeError, match=name):
        made.using(**{name: ValueError})  # type: ignore[arg-type]  # that is the point
    with pytest.raises(ValueError, match="a callable belongs to @task"):
        made.using(retry_backoff=lambda failures, error: 1.0)  # type: ignore[arg-type]  # likewise


def test_a_backoff_that_the_worker_decides_cannot_be_overridden_without_effect() -> None:
    @task("t", retry_backoff=lambda failures, error: 1.0)
    def made() -> None:
        return None

    with pytest.raises(TypeError, match="is a callable, which decides in the worker"):
        made.using(retry_backoff=2.0)
    with pytest.raises(TypeError, match="is a callable, which decides in the worker"):
        job(made, options={"retry_backoff": 2.0})
    assert made.using(queue="other").delay(1, ValueError()) == 1_000_000


def test_options_of_an_enqueue_go_before_those_of_using_and_those_before_the_tasks() -> None:
    @task("t", queue="of-task", priority=1, retries=1)
    def made() -> None:
        return None

    built = job(made.using(queue="of-using", priority=2), options={"queue": "of-enqueue"})
    assert (built.queue, built.priority, built.max_retries) == ("of-enqueue", 2, 1)


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


def test_a_moment_replaces_a_span_and_a_span_a_moment() -> None:
    @task("t", run_after=5, expires_in=60)
    def made() -> None:
        return None

    moment = datetime(2030, 1, 1, tzinfo=UTC)
    at = int(moment.timestamp()) * 1_000_000
    later = made.using(scheduled_at=moment, expires_at=moment + timedelta(days=1))
    assert (job(later).run_at, job(later).expires_at) == (at, at + 86_400_000_000)
    again = job(later, options={"run_after": 1, "expires_in": 2})
    assert (again.run_at - NOW, again.expires_at - NOW) == (1_000_000, 2_000_000)
    with pytest.raises(ValueError, match="expires_in and expires_at exclude each other"):
        made.using(expires_in=1, expires_at=moment)


def test_a_backend_that_is_not_configured_is_refused_at_enqueue() -> None:
    @task
    def made() -> None:
        return None

    with pytest.raises(QueueConfigurationError, match="no execution backend is named 'cloudrun'"):
        job(made, options={"execution_backend": "cloudrun"})
