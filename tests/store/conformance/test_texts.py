"""Texts that are large for a row: they come back whole, are replaced, and go with their job."""

import pytest

from litestar_queues.lifecycle import Raised, Succeeded
from litestar_queues.models import ErrorReport, Query, Status
from litestar_queues.store import Store, Verdict
from store.making import NOW, claim, new_job, settlement

pytestmark = pytest.mark.anyio
SIZES = (0, 1_700, 1_800, 1_801, 5_000, 100_000)


def call(text: str) -> str:
    return f'{{"args":["{text}"],"kwargs":{{}}}}'


def texts(letter: str) -> list[str]:
    return [call(letter * size) for size in SIZES]


@pytest.mark.parametrize("letter", ["x", "é", "\U0001f600", "\0"])
async def test_texts_of_all_sizes_come_back_from_one_batch_as_they_were(store: Store, letter: str) -> None:
    payloads, results = texts(letter), [f'"{letter * size}"' for size in SIZES]
    added = await store.add([new_job(payload=payload) for payload in payloads])
    jobs = await claim(store)
    assert [job.payload for job in jobs] == payloads
    ended = [settlement(job, Succeeded(result)) for job, result in zip(jobs, results, strict=True)]
    assert set(await store.settle(ended)) == {Verdict.SETTLED}
    records = await store.get([entry.number for entry in added])
    assert [record and (record.payload, record.result_json) for record in records] == list(
        zip(payloads, results, strict=True)
    )
    found = await store.find(Query())
    assert [record.result_json for record in reversed(found)] == results


async def test_a_large_call_that_runs_again_has_its_arguments(store: Store) -> None:
    await store.add([new_job(payload=call("x" * 100_000), max_retries=1)])
    [job] = await claim(store)
    await store.settle([settlement(job, Raised(ErrorReport("ValueError", "no")))])
    [again] = await claim(store, now=NOW + 10**12)
    assert (again.fence, again.payload) == (2, job.payload)


@pytest.mark.parametrize("second", texts("y"))
@pytest.mark.parametrize("first", texts("x"))
async def test_replace_changes_arguments_of_any_size(store: Store, first: str, second: str) -> None:
    await store.add([new_job(key="k", payload=first)])
    await store.add([new_job(key="k", payload=second, on_duplicate="replace")])
    [job] = await claim(store)
    assert job.payload == second


async def test_an_adopted_job_brings_no_arguments(store: Store) -> None:
    await store.add([new_job(payload=call("x" * 100_000))])
    await claim(store, node="gone")
    assert [job.payload for job in await store.adopt("here", ["gone"], living=[])] == [""]


async def test_a_large_result_may_go_before_its_job(store: Store) -> None:
    await store.add([new_job(result_retention=10)])
    [job] = await claim(store)
    await store.settle([settlement(job, Succeeded(f'"{"x" * 100_000}"'))])
    assert (await store.prune({Status.COMPLETED: None}, now=NOW + 1_000)).results == 1
    [record] = await store.get([job.number])
    assert record is not None
    assert record.is_result_gone
