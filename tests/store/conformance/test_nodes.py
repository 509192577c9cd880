"""What the store promises to masters: nodes, adoption, the catalogue."""

import pytest

from litestar_queues.lifecycle import Lost
from litestar_queues.nodes import Catalogue, PoolEntry, PoolState, TaskEntry, WorkerState
from litestar_queues.store import Store
from store.making import NOW, claim, new_jobs, node, settlement

pytestmark = pytest.mark.anyio


async def test_a_node_is_read_as_it_last_beat(store: Store) -> None:
    pools = (PoolState(name="default", processes=2, queues=("a",), problem="no import"),)
    workers = (WorkerState(name="default/1", pid=7, pool="default", state="running", job=3, task="mail", since=NOW),)
    await store.beat(node("b"))
    await store.beat(node("a"))
    latest = node("a", beat_at=NOW + 5, draining=True, pools=pools, workers=workers)
    await store.beat(latest)
    assert await store.nodes() == [latest, node("b")]


async def test_a_retired_node_is_forgotten(store: Store) -> None:
    await store.beat(node("a"))
    await store.retire("a")
    await store.retire("never was")
    assert await store.nodes() == []


async def test_the_heartbeat_of_a_running_job_is_its_nodes(store: Store) -> None:
    await store.add(new_jobs(1))
    await claim(store, node="a")
    await store.beat(node("a", beat_at=NOW + 7))
    [job] = await store.get([1])
    assert job is not None
    assert job.heartbeat_at is not None
    assert (job.heartbeat_at - job.created_at).microseconds == 7


async def test_the_jobs_of_dead_and_unknown_nodes_are_adopted_and_those_of_others_left(store: Store) -> None:
    await store.add(new_jobs(5))
    names = ["dead", "unknown", "living", "has a row", "me"]
    jobs = {name: (await claim(store, 1, node=name))[0] for name in names}
    await store.beat(node("dead"))
    await store.beat(node("has a row"))
    await store.cancel([jobs["dead"].number], now=NOW)
    adopted = await store.adopt("me", ["dead"], living=["living"])
    assert [job.number for job in adopted] == [jobs["dead"].number, jobs["unknown"].number]
    assert [(job.fence, job.cancel_requested) for job in adopted] == [(2, True), (2, False)]
    assert [each.id for each in await store.nodes()] == ["has a row"]
    assert await store.adopt("me", ["dead"], living=["living"]) == []
    stored = await store.get([job.number for job in adopted])
    assert [job and job.node for job in stored] == ["me", "me"]


@pytest.mark.fault("D5", "a report of a dead master's claim", "refused")
async def test_the_old_owner_of_an_adopted_job_is_refused(store: Store) -> None:
    await store.add(new_jobs(1))
    [old] = await claim(store, node="dead")
    [new] = await store.adopt("me", ["dead"], living=[])
    assert await store.settle([settlement(old)]) == ["stale"]
    assert await store.settle([settlement(new, Lost(), started=False)]) == ["settled"]
    assert (await store.statistics())["default"].pending == 1


async def test_the_catalogue_shows_the_newest_entry_of_each_task(store: Store) -> None:
    assert await store.catalogue() == Catalogue()
    mail, report = TaskEntry("mail", queue="old"), TaskEntry("report")
    await store.publish("a", Catalogue((mail, report), (PoolEntry("default", 2),), app="one:app"), now=NOW)
    newer = TaskEntry("mail", queue="new")
    await store.publish("b", Catalogue((newer,), (PoolEntry("slow", 1, ("s",)),), app="two:app"), now=NOW + 1)
    await store.publish("late", Catalogue((TaskEntry("mail", queue="older"),), app="zero:app"), now=NOW - 1)
    catalogue = await store.catalogue()
    assert catalogue.tasks == (newer, report)
    assert {pool.name for pool in catalogue.pools} == {"default", "slow"}
    assert catalogue.app == "two:app"
