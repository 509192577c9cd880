"""What a run of ours says of itself."""

from __future__ import annotations

import litestar_queues
from lq.bench.adapter import Part, Told, Work

DURABILITY = "every job and every result on disk at its commit: survives loss of power and kill -9 of any process"
_SETTINGS = "SQLite, WAL, synchronous=FULL; timeout= on every job; results stored, read back and compared"


def tell(
    work: Work, part: Part, how: str, latencies_ms: list[float] | None = None, *, commits: int | None = None
) -> Told:
    """Return the last line of a run."""
    return Told(
        scenario=work.scenario,
        jobs=work.jobs,
        seconds=part.seconds,
        latencies_ms=latencies_ms,
        settings=f"{_SETTINGS}; {how}",
        durability=DURABILITY,
        version=litestar_queues.__version__,
        extra={} if commits is None else {"commits": commits},
    )
