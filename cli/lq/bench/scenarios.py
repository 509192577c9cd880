"""What is measured: the scenarios, how much of each is done, and what a user is told about them."""

from __future__ import annotations

from msgspec import Struct


class Scenario(Struct, frozen=True):
    """One measure, the same for everybody."""

    name: str
    title: str
    jobs: int
    """How many are done where the command line does not say."""
    is_rate: bool = True
    """Jobs per second are what it is about; else latencies, or figures of its own."""
    scales: bool = True
    """A slow queue does fewer, so that a run takes about as long as another."""
    is_usual: bool = True
    """Run when no scenario is named; the others take minutes, or are for comparing with peers."""
    asked_ms: float = 0.0
    """CPU that each job asks for by itself."""


_ALL = (
    Scenario("enqueue", "enqueue one by one, 100 concurrent callers in one process", 20_000),
    Scenario("bulk", "enqueue in bulk", 100_000),
    Scenario("drain", "drain no-op jobs", 50_000),
    Scenario("sleep", "drain jobs that sleep 5 ms, 100 at a time", 20_000),
    Scenario("cpu", "drain jobs that compute for 5 ms", 2_000, asked_ms=5.0),
    Scenario("pickup", "enqueue to the first line of the task, idle", 200, is_rate=False, scales=False),
    Scenario("loaded_pickup", "enqueue to the first line of an urgent job, during a drain", 50_000, is_rate=False),
    Scenario("beside", "enqueue in a second process, during a drain", 50_000, is_rate=False),
    Scenario("enqueuers", "enqueue in eight processes at once", 20_000),
    Scenario("large", "100 KB of arguments there, 100 KB of result back", 2_000, is_usual=False),
    Scenario("memory", "memory and start-up", 1, is_rate=False, scales=False, is_usual=False),
    Scenario("idle", "CPU while there is nothing to do", 1, is_rate=False, scales=False),
    Scenario(
        "depth",
        "drain with 10 k, 100 k and 1 M jobs waiting behind",
        10_000,
        is_rate=False,
        scales=False,
        is_usual=False,
    ),
    Scenario(
        "replacement",
        "SIGKILL of a worker to its job's next run, app of 2 s",
        20,
        is_rate=False,
        scales=False,
        is_usual=False,
    ),
    Scenario("events", "progress calls through the pipe into the store", 50_000, is_usual=False),
    Scenario("pipe", "messages to two processes and back, no store", 50_000, is_usual=False),
    Scenario("store", "claim and settle in groups, no processes", 50_000, is_usual=False),
)
SCENARIOS = {each.name: each for each in _ALL}
USUAL = tuple(name for name, each in SCENARIOS.items() if each.is_usual)
LEAST = 200
"""Jobs of a scaled run at least; one of no more has no warm-up."""
