"""From a URL to an open store. The module of a store is imported when its URL asks for it."""

from __future__ import annotations

from typing import Literal

from litestar_queues.exceptions import QueueConfigurationError
from litestar_queues.redaction import shown_url
from litestar_queues.store.base import Store

Durability = Literal["power", "process"]


async def open_store(url: str, *, create: bool = True, durability: Durability = "power") -> Store:
    """Open the store at *url*.

    ``sqlite:///relative.db``, ``sqlite:////absolute.db``, or ``sqlite://`` for a private temporary file.

    With *create* false nothing is created or migrated, and only reading works: what ``lq inspect``
    does. Raises ``QueueConfigurationError`` for a URL that names no store we have, and the
    ``StoreError`` that says why a store cannot be opened.
    """
    scheme = url.partition(":")[0]
    if scheme == "sqlite":
        from litestar_queues.store.sqlite import SQLiteStore

        return await SQLiteStore.open(url, create=create, durability=durability)
    msg = f"queue_backend {shown_url(url)!r} names no store; use sqlite:///path/to/file.db"
    raise QueueConfigurationError(msg)
