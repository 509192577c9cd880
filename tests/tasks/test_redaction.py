"""Secret values: stored, given to the task, and never shown."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Annotated, Any

import msgspec
import pytest

from litestar_queues import PayloadError, QueueConfig, Secret, redaction, task
from litestar_queues.exceptions import TaskDefinitionError
from litestar_queues.nodes import Catalogue
from litestar_queues.redaction import HIDDEN, Redactor
from litestar_queues.registry import tasks
from litestar_queues.request import build_job, build_named_job, entry_of


@pytest.fixture(autouse=True)
def own_tasks() -> Iterator[None]:
    with tasks.isolated():
        yield


NOW = 1_800_000_000_000_000


class Suit(Enum):
    HEARTS = "hearts-of-gold"


def payload(made: Any, *args: Any, **kwargs: Any) -> str:
    return build_job(made, args, kwargs, {}, config=QueueConfig(), now=NOW).payload


def test_an_annotated_parameter_is_told_by_place_and_comes_back_as_it_is() -> None:
    @task
    def charge(amount: int, card: Secret[str], *more: Secret[str], note: str = "", **rest: Secret[str]) -> None: ...

    stored = payload(charge, 3, "4111 1111", "second", note="seen", extra="third")
    assert msgspec.json.decode(stored)["secret"] == [1, 2, "extra"]
    assert redaction.shown_call(stored) == ([3, HIDDEN, HIDDEN], {"note": "seen", "extra": HIDDEN})
    assert charge.codec.decode(stored) == ([3, "4111 1111", "second"], {"note": "seen", "extra": "third"})


def test_names_in_redact_do_the_same_and_only_names_of_the_task_may_be_there() -> None:
    @task(redact=("card", "return"))
    def charge(amount: int, card: str) -> str:
        return card

    stored = payload(charge, 3, card="4111 1111")
    assert redaction.shown_call(stored) == ([3], {"card": HIDDEN})
    assert redaction.hides_result(stored)
    for wrong, message in ((("cart",), "redact names 'cart'"), ("card", "redact takes names, not one text")):
        with pytest.raises(TaskDefinitionError, match=message):

            @task("other", redact=wrong)
            def other(card: str) -> None: ...


@pytest.mark.parametrize("annotation", [Secret[str] | None, list[Secret[str]], Annotated[Secret[str], "more"]])
def test_a_secret_inside_an_annotation_hides_the_whole_argument(annotation: Any) -> None:
    def function(value):  # type: ignore[no-untyped-def]
        ...

    function.__annotations__ = {"value": annotation}
    made = task("inside")(function)
    value = ["inside it"] if annotation == list[Secret[str]] else "inside it"
    assert redaction.shown_call(payload(made, value)) == ([HIDDEN], {})


def test_a_call_without_secrets_is_stored_as_before() -> None:
    @task
    def plain(value: list[int]) -> None: ...

    stored = payload(plain, [1])
    assert stored == '{"args":[[1]],"kwargs":{}}'
    assert Redactor.of(stored) is None
    assert not redaction.hides_result(stored)


def test_a_task_that_is_known_from_the_catalogue_hides_the_same() -> None:
    @task(redact=["return"])
    def charge(amount: int, card: Secret[str], *, pin: Secret[int] = 0) -> str:
        return card

    entry = msgspec.json.decode(msgspec.json.encode(entry_of(charge)), type=type(entry_of(charge)))
    job = build_named_job("charge", entry, (3, "4111 1111"), {"pin": 4321}, {}, config=QueueConfig(), now=NOW)
    assert job.payload == payload(charge, 3, "4111 1111", pin=4321)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("not-a-suit", TypeError),
        (("hearts", "of", "gold"), PayloadError),
        ("lone \ud800 gold", PayloadError),
        ({1: object()}, PayloadError),
    ],
)
def test_what_is_refused_is_refused_without_its_value(value: Any, error: type[Exception]) -> None:
    @task
    def choose(suit: Secret[Suit], other: Secret[Any] = None) -> None: ...

    with pytest.raises(error, match="redacted") as caught:
        payload(choose, value) if error is TypeError else payload(choose, Suit.HEARTS, value)
    told: BaseException | None = caught.value
    if error is TypeError:
        assert "not-a-suit" not in str(told)
        assert told is not None
        assert told.__suppress_context__
    assert "gold" not in str(told)


def test_values_are_taken_out_of_texts_in_every_way_they_are_written() -> None:
    secret = 'quo"te\nné'
    call = {"args": [{"deep": [secret, 98765]}, "seen"], "kwargs": {"pin": "123"}, "secret": [0, "pin"]}
    redactor = Redactor.of(msgspec.json.encode(call).decode())
    assert redactor is not None
    for written in (secret, repr(secret), ascii(secret), msgspec.json.encode(secret).decode(), "it was 98765."):
        cleaned = redactor.clean(f"error: {written} seen 123")
        assert HIDDEN in cleaned
        assert "te" not in cleaned.replace("redacted", "")
        assert "98765" not in cleaned
        assert cleaned.endswith("seen 123"), "what is shorter than four characters stands in many words"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:////srv/me@home/queues.db", "sqlite:////srv/me@home/queues.db"),
        ("postgresql://user:p@ss/w?rd", "postgresql://user:***@ss/w?rd"),
        ("postgresql://user:pa/s:s@host:5432/db?sslmode=on&PassWord=x&y=1", "postgresql://user:***@host:5432/db?sslmode=on&PassWord=***&y=1"),
        ("postgresql://user@host/db", "postgresql://user@host/db"),
        ("not a url", "not a url"),
    ],
)  # fmt: skip
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert redaction.shown_url(url) == shown
    assert Catalogue(url=url).shown().url == shown


def test_damaged_arguments_have_no_secrets_and_raise_nothing_here() -> None:
    assert Redactor.of('{"args":[1,"secret":[0]}') is None


def test_no_representation_of_a_job_shows_its_arguments() -> None:
    @task
    def plain(value: str) -> None: ...

    job = build_job(plain, ("hidden",), {}, {}, config=QueueConfig(), now=NOW)
    assert "hidden" not in repr(job)


def test_no_piece_is_left_where_values_overlap_or_are_found_again() -> None:
    redactor = Redactor(["abcdefgh", "efghijkl", "redacted", "aaaa"])
    assert redactor.clean("abcdefghijkl aaaaaa") == f"{HIDDEN} {HIDDEN}"
    assert redactor.clean(redactor.clean("redacted")) == HIDDEN
    assert redactor.clean_bytes(b"\xff abcdefghijkl") == b"\xff " + HIDDEN.encode()


def test_a_value_is_known_by_its_parts_and_by_what_its_own_class_makes_of_it() -> None:
    class Slotted:
        __slots__ = ("inner", "unset")

        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __repr__(self) -> str:
            raise RuntimeError

        def __str__(self) -> str:
            return "own text"

    value = Slotted(["in a list", 10**5000, frozenset({"in a set"})])
    value.inner.append(value)
    redactor = Redactor((), ["card"])
    redactor.learn([], {"card": value}, ["card"])
    for text in ("own text", "in a list", "in a set", "in%20a%20set"):
        assert redactor.clean(f"<{text}>") == f"<{HIDDEN}>"


def test_an_argument_that_has_become_a_keyword_is_still_known() -> None:
    redactor = Redactor((), [1])
    redactor.learn([5], {"when": Suit.HEARTS}, ["amount", "when"])
    assert redactor.clean("Suit.HEARTS") == HIDDEN


def test_a_result_is_shown_without_the_secrets_of_its_call() -> None:
    @task
    def charge(card: Secret[str], amount: Secret[int]) -> Any: ...

    stored = payload(charge, "4111 1111", 12345)
    shown = redaction.shown_result(stored, '{"paid with": ["4111 1111"], "amount": 12345, "left": 1}')
    assert shown == '{"paid with":["[redacted]"],"amount":"[redacted]","left":1}'
    assert redaction.shown_result(payload(charge, "4111", 12345), "4") == "4"
    assert redaction.shown_result('{"args":[1,"secret":[0]}', "4") == '"[redacted]"', "nobody knows what was secret"
