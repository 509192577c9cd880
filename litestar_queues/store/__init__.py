"""Where the jobs are kept: the contract, and the stores that fulfil it."""

from litestar_queues.store.base import Bell, Change, Claims, Store, Verdict, Want
from litestar_queues.store.opening import open_store

__all__ = ["Bell", "Change", "Claims", "Store", "Verdict", "Want", "open_store"]
