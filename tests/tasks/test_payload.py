"""Arguments and results come back as what they were, or are refused with the place."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypedDict, TypeVar
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from litestar_queues import PayloadError
from litestar_queues.exceptions import TaskDefinitionError
from litestar_queues.payload import CallCodec, ResultCodec, checksum

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Point(msgspec.Struct):
    x: int
    y: float = 0.0


@dataclasses.dataclass
class Data:
    name: str
    when: datetime


@attrs.define
class Attrs:
    size: int


class Model(pydantic.BaseModel):
    id: UUID
    price: Decimal


class Pair(NamedTuple):
    one: int
    other: str


class Name(str):
    __slots__ = ()


class Shade(enum.StrEnum):
    DARK = "dark"


class Size(TypedDict):
    wide: int


@dataclasses.dataclass
class Loose:
    any: Any


class LooseModel(pydantic.BaseModel):
    any: Any


class Secret(pydantic.BaseModel):
    word: pydantic.SecretStr


class Aliased(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    given_name: str = pydantic.Field(validation_alias="in", serialization_alias="out")

    @pydantic.computed_field  # type: ignore[prop-decorator]  # as Pydantic documents it
    @property
    def shout(self) -> str:
        return self.given_name.upper()


class Item(pydantic.BaseModel, Generic[T]):
    value: T


BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)
ANNOTATED: list[tuple[Any, Any]] = [
    (UUID, uuid4()),
    (datetime, NOW),
    (date, NOW.date()),
    (timedelta, timedelta(hours=1, microseconds=5)),
    (Decimal, Decimal("1.10")),
    (bytes, b"\x00\xff"),
    (Colour, Colour.RED),
    (Level, Level.LOW),
    (Path, Path("/tmp/x")),
    (tuple[int, str], (1, "a")),
    (set[int], {1, 2}),
    (frozenset[str], frozenset({"a"})),
    (dict[int, str], {1: "a"}),
    (list[UUID], [uuid4()]),
    (Point, Point(1, 2.5)),
    (Data, Data("n", NOW)),
    (Attrs, Attrs(3)),
    (Model, Model(id=uuid4(), price=Decimal("9.99"))),
    (Pair, Pair(1, "b")),
    (int | None, None),
    (int | str, "text"),
    (float, 3),
    (list[Point] | None, [Point(1)]),
    (int, 2**80),
    (Size, {"wide": 1}),
    (list[Aliased], [Aliased.model_validate({"in": "x"})]),
    (Item[int], Item[int](value=1)),
    (dict[Shade, UUID], {Shade.DARK: uuid4()}),
    (set[tuple[int, str]], {(1, "a")}),
    (time, time(1, 2, 3, 4, tzinfo=UTC)),
    (timedelta, timedelta.max),
    (timedelta, timedelta(microseconds=-1)),
    (date, date.min),
    (Literal["a", 1], 1),
    (Annotated[int, msgspec.Meta(ge=1)], 5),
    (datetime, datetime(2026, 7, 1, 12, tzinfo=BERLIN)),
    (Any, {"a": [1, 2.5, None, True, "x", {}]}),
]


def codec(annotation: Any) -> CallCodec:
    def function(value):  # type: ignore[no-untyped-def]
        return value

    function.__annotations__ = {} if annotation is None else {"value": annotation}
    return CallCodec("t", function)


@pytest.mark.parametrize(("annotation", "value"), ANNOTATED, ids=lambda each: getattr(each, "__name__", None))
@pytest.mark.fault("D12", "UUID, Decimal, enum, dataclass and others", "come back as what they were")
def test_an_annotated_argument_comes_back_as_what_it_was(annotation: Any, value: Any) -> None:
    [back], _ = codec(annotation).decode(codec(annotation).encode((value,), {}))
    assert back == value
    assert type(back) is type(value) or (annotation is float and type(back) is float)


@pytest.mark.parametrize(("annotation", "value"), ANNOTATED, ids=lambda each: getattr(each, "__name__", None))
def test_an_annotated_result_comes_back_as_what_it_was(annotation: Any, value: Any) -> None:
    def function() -> None:
        return None

    function.__annotations__ = {"return": annotation}
    results = ResultCodec("t", function)
    assert results.decode(results.encode(value, 10_000)) == value


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)


@given(JSON)
def test_any_plain_json_value_comes_back_from_an_unannotated_parameter(value: Any) -> None:
    plain = codec(None)
    try:
        text = plain.encode((value,), {})
    except PayloadError as error:
        refused = str(error)
        assert "surrogate" in refused
        return
    [back], _ = plain.decode(text)
    assert repr(back) == repr(value)


@pytest.mark.parametrize(
    ("annotation", "value", "place"),
    [
        (None, (1, 2), "value is a tuple and would come back as a list"),
        (None, {1: "a"}, "value has the key 1 of type int"),
        (None, {"a": [uuid4()]}, "value.a[0] is a UUID and would come back as a str"),
        (None, NOW, "value is a datetime"),
        (None, b"x", "value is a bytes"),
        (None, Name("x"), "value is a Name, which is not a JSON value"),
        (None, Level.LOW, "value is a Level"),
        (None, math.nan, "value is nan"),
        (float, math.inf, "value is inf, which JSON has no number for"),
        (list[float], [1.0, math.nan], "value[1] is nan"),
        (float | None, math.nan, "value is nan"),
        (None, {"deep": [1, {"x": -math.inf}]}, "value.deep[1].x is -inf"),
        (None, "\ud800", "lone surrogate"),
        (None, object(), "value is a object, which is not a JSON value"),
        (None, lambda: 1, "value is a function, which is not a JSON value"),
        (None, {"a": [1, {"when now": object()}]}, "value.a[1]['when now'] is a object"),
        (None, {"a": [1, {"b": "\ud800"}]}, "value.a[1].b has a lone surrogate"),
        (None, {"\ud800": 1}, "the key '\\ud800' of value has a lone surrogate"),
        (None, {Shade.DARK: 1}, "the key <Shade.DARK: 'dark'> of value is a Shade and would come back as a str"),
        (None, {Name("x"): 1}, "the key 'x' of value is a Name and would come back as a str"),
        (dict[int, str], {True: "a"}, "the key True of value is a bool"),
        (Pair, Pair(1, Name("b")), "value[1] is a Name"),
        (Loose, Loose((1,)), "value.any is a tuple and would come back as a list"),
        (LooseModel, LooseModel(any=Shade.DARK), "value.any is a Shade and would come back as a str"),
        (LooseModel, LooseModel(any=[1, (2,)]), "value.any[1] is a tuple"),
        (Secret, Secret(word=pydantic.SecretStr("hunter2")), "value.word comes back as SecretStr('**********')"),
        (Size, {"wide": 1, "high": 2}, "value has the key 'high' of type str, which its type does not have"),
        (set[int], {Level.LOW}, "an item of value is a Level"),
        (Callable[[int], int], 1, "a Callable cannot be made from JSON"),
        (Annotated[datetime, msgspec.Meta(tz=True)], datetime(2026, 1, 1), "timezone"),
        (int, Level.LOW, "value is a Level and would come back as a int"),
        (int, "1", "Expected `int`, got `str`"),
        (int, True, "Expected `int`, got `bool`"),
        (list[int], [1, "2"], "t: value[1]: Expected `int`, got `str`"),
        (Point, Point("x"), "Expected `int`, got `str`"),  # type: ignore[arg-type]
    ],
)
@pytest.mark.fault("A24", "NaN, lone surrogates and their like", "refused with the place")
@pytest.mark.fault("D12", "values that JSON would change", "refused with the place")
@pytest.mark.fault("D11", "a naive datetime where an aware one is declared", "refused")
def test_what_would_come_back_as_something_else_is_refused_with_the_place(
    annotation: Any, value: Any, place: str
) -> None:
    with pytest.raises((PayloadError, TypeError)) as raised:
        codec(annotation).encode((value,), {})
    assert place in str(raised.value)


@pytest.mark.fault("A25", "a value nested without end", "refused")
@pytest.mark.fault("D14", "a value that contains itself", "refused")
def test_nesting_without_end_is_refused_and_does_not_crash() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    endless: list[Any] = []
    endless.append(endless)
    ring = Loose(1)
    ring.any = ring
    for value in (deep, endless, ring):
        with pytest.raises(PayloadError, match="nested too deeply, or contains itself"):
            codec(None).encode((value,), {})


def test_a_union_that_json_cannot_tell_apart_fails_when_the_task_is_made() -> None:
    with pytest.raises(TaskDefinitionError, match="parameter 'value'"):
        codec(Point | Data)


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((), {}, "missing a required argument: 'a'"),
        ((1, 2, 3), {}, "too many positional arguments"),
        ((1,), {"a": 2}, "multiple values for argument 'a'"),
        ((1,), {"c": 2}, "unexpected keyword argument 'c'"),
    ],
)
@pytest.mark.fault("D13", "calls that do not fit", "TypeError that names the task")
def test_a_call_that_does_not_fit_is_a_type_error_that_names_the_task(args: Any, kwargs: Any, words: str) -> None:
    def function(a: int, b: int = 2) -> None:
        return None

    with pytest.raises(TypeError, match=r"^t\(a: .*") as raised:
        CallCodec("t", function).bind(args, kwargs)
    assert words in str(raised.value)


def test_injected_parameters_are_not_the_callers() -> None:
    def function(a: int, _job_id: object, _task_context: Any = None) -> None:
        return None

    made = CallCodec("t", function)
    assert made.injected == {"_job_id", "_task_context"}
    made.bind((1,), {})
    with pytest.raises(TypeError, match="_job_id"):
        made.bind((1,), {"_job_id": 5})


def test_stars_positional_only_and_keyword_only_parameters_keep_their_types() -> None:
    def function(a: UUID, /, b: int, *rest: Decimal, c: date, **more: Colour) -> None:
        return None

    made = CallCodec("t", function)
    id = uuid4()
    args, kwargs = (id, 1, Decimal("1.5")), {"c": NOW.date(), "x": Colour.RED}
    made.bind(args, kwargs)
    assert made.decode(made.encode(args, kwargs)) == (list(args), kwargs)


def test_a_payload_of_another_release_is_refused_in_words() -> None:
    def function(a: int) -> None:
        return None

    made = CallCodec("t", function)
    with pytest.raises(PayloadError, match="unexpected keyword argument 'b'; was it enqueued by another release"):
        made.decode('{"args":[1],"kwargs":{"b":2}}')
    with pytest.raises(PayloadError, match="too many positional arguments"):
        made.decode('{"args":[1,2],"kwargs":{}}')
    with pytest.raises(PayloadError, match="missing a required argument: 'a'"):
        made.decode('{"args":[],"kwargs":{}}')
    with pytest.raises(PayloadError, match="t: a: Expected `int`, got `str`"):
        made.decode('{"args":["x"],"kwargs":{}}')


@pytest.mark.parametrize(
    "stored",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"args":[],"kwargs":[]}',
        '{"args":["\\ud800"],"kwargs":{}}',
        '{"args":[1],"kwargs":{}} x',
        "\ud800",
        '{"args":[' + "[" * 100_000 + "]" * 100_000 + '],"kwargs":{}}',
    ],
    ids=range(9),
)
@pytest.mark.fault("D15", "damaged and hostile stored arguments", "PayloadError and nothing else")
def test_a_damaged_payload_is_a_payload_error_and_nothing_worse(stored: str) -> None:
    with pytest.raises(PayloadError):
        codec(None).decode(stored)


@pytest.mark.parametrize("stored", ["", "{", "[" * 100_000 + "]" * 100_000], ids=range(3))
def test_a_damaged_result_is_a_payload_error_and_nothing_worse(stored: str) -> None:
    def function() -> Any:
        return None

    with pytest.raises(PayloadError, match="the result of t"):
        ResultCodec("t", function).decode(stored)


def test_a_result_past_its_limit_is_refused_with_both_sizes() -> None:
    def function() -> str:
        return ""

    with pytest.raises(PayloadError, match=r"102 bytes of JSON; the limit is 100"):
        ResultCodec("t", function).encode("x" * 100, 100)


@given(st.text(min_size=1), st.data())
@pytest.mark.fault("C8", "a changed byte in a stored payload", "told by its checksum")
def test_the_checksum_tells_a_changed_payload(text: str, data: st.DataObject) -> None:
    payload = text.encode("utf-8", "ignore").decode() or "x"
    index = data.draw(st.integers(0, len(payload) - 1))
    changed = payload[:index] + ("a" if payload[index] != "a" else "b") + payload[index + 1 :]
    assert checksum(payload) != checksum(changed)
