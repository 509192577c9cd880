"""Whatever can be enqueued comes back as it was, for values and types nobody thought of; the rest is refused."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from litestar_queues import PayloadError
from litestar_queues.payload import CallCodec, ResultCodec


class Shade(enum.StrEnum):
    DARK = "dark"
    LIGHT = "light"


class Level(enum.IntEnum):
    LOW = 1


class Name(str):
    __slots__ = ()


class Point(msgspec.Struct):
    x: int
    when: datetime | None = None


@dataclasses.dataclass
class Order:
    price: Decimal
    lines: list[Point]


class Pair(NamedTuple):
    one: UUID
    other: frozenset[int]


def codec(annotation: Any) -> CallCodec:
    def function(value):  # type: ignore[no-untyped-def]
        return value

    function.__annotations__ = {"value": annotation}
    return CallCodec("t", function)


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
OFFSETS = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENTS = st.datetimes(timezones=OFFSETS | st.just(UTC))
POINTS = st.builds(Point, st.integers(), st.none() | MOMENTS)
PRICES = st.decimals(allow_nan=False, allow_infinity=False)
LEAVES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, st.integers()),
    (bool, st.booleans()),
    (float, st.floats(allow_nan=False, allow_infinity=False)),
    (str, TEXT),
    (bytes, st.binary()),
    (UUID, st.uuids()),
    (date, st.dates()),
    (time, st.times()),
    (datetime, MOMENTS | st.datetimes()),
    (timedelta, st.timedeltas()),
    (Decimal, PRICES),
    (Shade, st.sampled_from(Shade)),
    (Level, st.sampled_from(Level)),
    (Point, POINTS),
    (Order, st.builds(Order, PRICES, st.lists(POINTS, max_size=2))),
    (Pair, st.builds(Pair, st.uuids(), st.frozensets(st.integers(), max_size=3))),
]
KEYS = [(kind, values) for kind, values in LEAVES if kind in (str, int, UUID, date, Shade)]


LIST: Any = list  # these are subscribed with types that are values here, which a type checker need not follow
TUPLE: Any = tuple
DICT: Any = dict
SET: Any = set


def around(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Types made of others, with strategies for their values."""
    return st.one_of(
        inner.map(lambda pair: (LIST[pair[0]], st.lists(pair[1], max_size=3))),
        inner.map(lambda pair: (pair[0] | None, st.none() | pair[1])),
        inner.map(lambda pair: (TUPLE[pair[0], ...], st.lists(pair[1], max_size=3).map(tuple))),
        st.tuples(inner, inner).map(lambda two: (TUPLE[two[0][0], two[1][0]], st.tuples(two[0][1], two[1][1]))),
        st.tuples(st.sampled_from(KEYS), inner).map(
            lambda two: (DICT[two[0][0], two[1][0]], st.dictionaries(two[0][1], two[1][1], max_size=3))
        ),
        st.sampled_from(KEYS).map(lambda pair: (SET[pair[0]], st.sets(pair[1], max_size=3))),
    )


TYPED = st.recursive(st.sampled_from(LEAVES), around, max_leaves=4)


@given(TYPED, st.data())
def test_a_value_of_the_declared_type_comes_back_as_it_was(typed: Any, data: st.DataObject) -> None:
    annotation, values = typed
    value = data.draw(values)
    made = codec(annotation)
    [back], _ = made.decode(made.encode((value,), {}))
    assert repr(back) == repr(value) or back == value
    assert type(back) is type(value)


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.uuids(), MOMENTS, PRICES
) | st.sampled_from([Shade.DARK, Level.LOW, Name("x"), Point(1), object()])
ODD_KEYS = TEXT | st.integers() | st.booleans() | st.sampled_from([Shade.DARK, Level.LOW, Name("x")])
ANY = st.recursive(
    ODD,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(ODD_KEYS, inner, max_size=3)
        | st.sets(ODD_KEYS, max_size=3)
    ),
    max_leaves=8,
)


def attempt(encode: Callable[[], str]) -> tuple[str, str | None]:
    """The JSON, and why there is none."""
    try:
        return encode(), None
    except PayloadError as error:
        return "", str(error)


def shape(value: Any) -> Any:
    """A value with the type of every part, so that nothing equal but different passes for the same."""
    if isinstance(value, dict):
        return [type(value), [(shape(key), shape(each)) for key, each in value.items()]]
    if isinstance(value, (list, tuple)):
        return [type(value), [shape(each) for each in value]]
    return [type(value), repr(value)]


@given(ANY)
def test_without_annotation_a_value_comes_back_the_same_in_every_part_or_is_refused(value: Any) -> None:
    made = codec(Any)
    text, refusal = attempt(lambda: made.encode((value,), {}))
    if refusal is not None:
        assert refusal.startswith("t cannot be enqueued: ")
        assert "value" in refusal
    else:
        [back], _ = made.decode(text)
        assert shape(back) == shape(value)


@given(ANY)
def test_a_result_without_annotation_is_kept_the_same_or_is_refused(value: Any) -> None:
    made = ResultCodec("t", lambda: None)
    text, refusal = attempt(lambda: made.encode(value, 1 << 20))
    if refusal is not None:
        assert refusal.startswith("t returned what JSON cannot keep: ")
    else:
        assert shape(made.decode(text)) == shape(value)


def test_a_moment_of_a_repeated_hour_keeps_its_instant() -> None:
    made = codec(datetime)
    for fold in (0, 1):
        sent = datetime(2026, 10, 25, 2, 30, fold=fold, tzinfo=ZoneInfo("Europe/Berlin"))
        [back], _ = made.decode(made.encode((sent,), {}))
        assert (back.astimezone(UTC), back.utcoffset()) == (sent.astimezone(UTC), sent.utcoffset())


def test_an_offset_that_json_would_round_is_refused() -> None:
    with pytest.raises(PayloadError, match="value comes back as"):
        codec(datetime).encode((datetime(1800, 1, 1, tzinfo=timezone(timedelta(minutes=1, seconds=7))),), {})


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1.10", "1E+5", "-0"])
def test_a_decimal_keeps_its_digits(value: str) -> None:
    made = codec(Decimal)
    [back], _ = made.decode(made.encode((Decimal(value),), {}))
    assert str(back) == value
