"""A defect in what writes is heard by everybody who waits for it; nobody waits for ever."""

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from litestar_queues.exceptions import StoreStopped
from litestar_queues.store import open_store
from litestar_queues.store.sqlite import writer as writing
from litestar_queues.store.sqlite.bells import Ringer
from litestar_queues.store.sqlite.turnstile import Turnstile
from litestar_queues.store.sqlite.writer import GROUP, Writer
from store.making import new_job
from store.processes import url_of

pytestmark = pytest.mark.anyio


class DefectError(Exception):
    """What nobody has thought of."""


def failing_once(method: Callable[..., Any]) -> Callable[..., Any]:
    calls = itertools.count()

    def fail(*arguments: object) -> Any:
        if next(calls) == 0:
            raise DefectError("nobody has thought of this")
        return method(*arguments)

    return fail


@pytest.mark.parametrize(
    ("place", "name"),
    [(Writer, "_gather"), (Turnstile, "enter"), (Turnstile, "leave"), (writing, "resolve"), (Ringer, "pay")],
)
async def test_who_waits_for_a_writer_that_a_defect_has_ended_hears_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, place: Any, name: str
) -> None:
    store = await open_store(url_of(tmp_path / "q.db"))
    await store.add([new_job()])
    monkeypatch.setattr(place, name, failing_once(getattr(place, name)))
    # More than one group: what is in hand, the one too many that was taken with it, and what waits behind.
    adds = [store.add([new_job() for _ in range(GROUP // 2 + 1)]) for _ in range(4)]
    async with asyncio.timeout(30):
        answers = await asyncio.gather(*adds, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, BaseException)]
    assert refused
    assert {type(answer) for answer in refused} == {StoreStopped}
    assert "nobody has thought of this" in str(refused[0])
    assert "restart" in str(refused[0])
    with pytest.raises(StoreStopped, match="restart"):
        await store.add([new_job()])
    await store.close()
    assert "nobody has thought of this" in caplog.text
    async with await open_store(url_of(tmp_path / "q.db")) as again:
        stored = (await again.statistics())["default"].pending
        assert stored >= 1 + sum(len(answer) for answer in answers if not isinstance(answer, BaseException))
