"""What masters say of themselves: nodes and the catalogue."""

from __future__ import annotations

import msgspec

from litestar_queues.nodes import Catalogue, Node
from litestar_queues.store.sqlite.transaction import Transaction

_BEAT = "INSERT OR REPLACE INTO lq_node (id, beat_at, row) VALUES (?, ?, ?)"
_ASKED = "SELECT number FROM lq_job WHERE status = 'running' AND node = ? AND cancel_requested_at IS NOT NULL"
_PUBLISH = (
    "INSERT INTO lq_catalogue (kind, name, node, at, entry) VALUES (?, ?, ?, ?, ?) ON CONFLICT (kind, name) DO UPDATE "
    "SET node = excluded.node, at = excluded.at, entry = excluded.entry WHERE excluded.at >= lq_catalogue.at"
)


def beat(transaction: Transaction, node: Node) -> list[int]:
    """Write the row of *node*, and return its running jobs that are to be cancelled."""
    transaction.change(_BEAT, (node.id, node.beat_at, _json(node)))
    return [number for (number,) in transaction.rows(_ASKED, (node.id,))]


def retire(transaction: Transaction, node: str) -> None:
    """Forget *node*."""
    transaction.change("DELETE FROM lq_node WHERE id = ?", (node,))


def publish(transaction: Transaction, node: str, catalogue: Catalogue, now: int) -> None:
    """Keep the newest entry of each task and pool, and what *node* says of the rest."""
    for task in catalogue.tasks:
        transaction.change(_PUBLISH, ("task", task.name, node, now, _json(task)))
    for pool in catalogue.pools:
        transaction.change(_PUBLISH, ("pool", pool.name, node, now, _json(pool)))
    rest = msgspec.structs.replace(catalogue, tasks=(), pools=())
    transaction.change(_PUBLISH, ("app", "", node, now, _json(rest)))


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
