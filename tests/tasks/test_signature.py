"""Calls are bound as Python binds them, and what the worker fills in is not the caller's to give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from litestar_queues.exceptions import TaskDefinitionError
from litestar_queues.payload import CallCodec, ResultCodec

if TYPE_CHECKING:
    from nowhere import Later  # type: ignore[import-not-found]  # that is the point


def called(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Call *function* as a worker does, with what its codec brings back."""
    codec = CallCodec("t", function)
    codec.bind(args, kwargs)
    back, named = codec.decode(codec.encode(args, kwargs))
    injected = dict.fromkeys(codec.injected, "injected")
    return function(*back, **named, **injected)


def test_an_injected_parameter_may_stand_before_the_callers() -> None:
    def function(_job_id: object, a: int, b: int = 2) -> Any:
        return _job_id, a, b

    assert called(function, 1) == ("injected", 1, 2)
    assert called(function, 1, 5) == ("injected", 1, 5)
    assert called(function, 1, b=5) == ("injected", 1, 5)


def test_an_injected_parameter_may_stand_between_the_callers() -> None:
    def function(a: int, _job_id: object = None, b: int = 2, *, c: int = 3) -> Any:
        return a, _job_id, b, c

    assert called(function, 1, 5, c=6) == (1, "injected", 5, 6)
    assert called(function, 1) == (1, "injected", 2, 3)


def test_stars_around_an_injected_parameter() -> None:
    def function(a: int, *rest: int, _job_id: object, **more: int) -> Any:
        return a, rest, _job_id, more

    assert called(function, 1, 2, 3, x=4) == (1, (2, 3), "injected", {"x": 4})


def test_giving_an_injected_parameter_is_a_type_error_even_where_any_keyword_is_taken() -> None:
    def function(a: int, _job_id: object = None, **more: int) -> None: ...

    with pytest.raises(TypeError, match="'_job_id'; the worker fills it in"):
        CallCodec("t", function).bind((1,), {"_job_id": 5})


def test_an_injected_parameter_that_cannot_be_passed_by_name_fails_when_the_task_is_made() -> None:
    def positional(_job_id: object, /, a: int) -> None: ...

    def swallowed(a: int, _job_id: object, *rest: int) -> None: ...

    with pytest.raises(TaskDefinitionError, match="the worker passes _job_id by name"):
        CallCodec("t", positional)
    with pytest.raises(TaskDefinitionError, match=r"\*rest would fill the injected parameter before it"):
        CallCodec("t", swallowed)


def test_a_keyword_named_as_a_positional_only_parameter_has_the_type_of_the_keywords() -> None:
    def function(a: str, /, **more: int) -> Any:
        return a, more

    assert called(function, "x", a=1) == ("x", {"a": 1})


def test_the_place_of_a_wrong_argument_among_many_is_named() -> None:
    def function(a: str, *rest: int, **more: int) -> None: ...

    codec = CallCodec("t", function)
    with pytest.raises(TypeError, match=r"^t: rest\[1\]: Expected `int`, got `str`$"):
        codec.encode(("x", 1, "y"), {})
    with pytest.raises(TypeError, match=r"^t: word: Expected `int`, got `str`$"):
        codec.encode(("x",), {"word": "y"})


def test_a_type_that_only_type_checkers_see_is_told_at_first_use() -> None:
    def function(a: Later) -> None: ...

    codec = CallCodec("t", function)
    with pytest.raises(TaskDefinitionError, match="name 'Later' is not defined; define it in the module"):
        codec.encode((1,), {})


def test_a_type_that_only_type_checkers_see_is_no_matter_where_nothing_is_decoded() -> None:
    def function(a: int, _task_context: Later) -> Later: ...

    codec = CallCodec("t", function)
    assert codec.decode(codec.encode((1,), {})) == ([1], {})
    assert codec.parameters()[0].schema == {"type": "integer"}
    with pytest.raises(TaskDefinitionError, match="'Later'"):
        ResultCodec("t", function).encode(1, 100)


def test_a_type_defined_after_its_task_is_found_at_first_use() -> None:
    namespace: dict[str, Any] = {"__name__": "later"}
    exec("from __future__ import annotations\ndef function(a: Point): ...", namespace)
    codec = CallCodec("t", namespace["function"])
    exec("import msgspec\nclass Point(msgspec.Struct):\n    x: int", namespace)
    point = namespace["Point"](1)
    assert codec.decode(codec.encode((point,), {})) == ([point], {})
