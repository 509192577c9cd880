"""Which pools a master runs: what the application says, as the command line changes it. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from litestar_queues.exceptions import QueueConfigurationError
from litestar_queues.nodes import Catalogue, PoolEntry


class PoolOptions(Struct, frozen=True):
    """What the command line says about pools."""

    concurrency: int | None = None
    """Processes of the default pool."""
    queues: tuple[str, ...] | None = None
    """Serve these queues and no others."""
    sizes: Mapping[str, int] = {}
    """Processes of named pools."""


def plan_pools(catalogue: Catalogue, options: PoolOptions) -> tuple[PoolEntry, ...]:
    """Return the pools to run; ``QueueConfigurationError`` for a pool or a choice of queues that leaves none."""
    sizes = dict(options.sizes)
    if options.concurrency is not None:
        sizes.setdefault("default", options.concurrency)
    known = {pool.name for pool in catalogue.pools}
    unknown = sorted(set(sizes) - known)
    if unknown:
        msg = f"no pool is named {unknown[0]!r} (known: {', '.join(sorted(known))}); add it to QueueConfig.pools"
        raise QueueConfigurationError(msg)
    for name, size in sizes.items():
        if size < 1:
            msg = f"pool {name!r} cannot have {size} processes; give 1 or more"
            raise QueueConfigurationError(msg)
    sized = [replace(pool, processes=sizes.get(pool.name, pool.processes)) for pool in catalogue.pools]
    if options.queues is None:
        return tuple(sized)
    return _narrowed(sized, options.queues)


def excluded_queues(pool: PoolEntry, pools: tuple[PoolEntry, ...]) -> tuple[str, ...]:
    """Return the queues that *pool* leaves to others: those they name, when it names none itself."""
    if pool.queues is not None:
        return ()
    return tuple(sorted({queue for other in pools for queue in other.queues or ()}))


def _narrowed(pools: list[PoolEntry], queues: tuple[str, ...]) -> tuple[PoolEntry, ...]:
    named = {queue for pool in pools for queue in pool.queues or ()}
    kept: list[PoolEntry] = []
    for pool in pools:
        if pool.queues is None:
            served = tuple(queue for queue in queues if queue not in named)
        else:
            served = tuple(queue for queue in queues if queue in pool.queues)
        if served:
            kept.append(replace(pool, queues=served))
    left = set(queues) - {queue for pool in kept for queue in pool.queues or ()}
    if left:
        msg = f"no pool serves queue {min(left)!r}; add it to a pool's queues"
        raise QueueConfigurationError(msg)
    return tuple(kept)
