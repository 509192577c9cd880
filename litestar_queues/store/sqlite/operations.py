"""What waits for its transaction: the function to run, and the callers' futures, which get its results."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Literal

from litestar_queues.store.sqlite.transaction import Transaction

Synced = Literal["before", "after", "later"]
"""When the disk has it: before its caller hears of it, right after, or with the next that is synced. Where it is not
*before*, loss of power undoes it: nothing that was acknowledged to anybody may depend on it."""


class Operation:
    """What waits for its transaction, and who waits for it."""

    __slots__ = ("error", "future", "is_vital", "items", "listeners", "loop", "synced", "value", "verb", "weight")

    def __init__(self, verb: Callable[..., Any], items: Sequence[Any] | None, weight: int, listeners: frozenset[str]):
        self.is_vital = False
        """It may use the last of the disk: see ``ballast``."""
        self.verb = verb
        self.items = items
        """None: *verb* is a function of the transaction alone."""
        self.weight = weight
        self.listeners = listeners
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self.value: Any = None
        self.error: BaseException | None = None
        self.synced: Synced = "before"

    def kind(self) -> object:
        """Neighbours of one kind run as one."""
        return self if self.items is None else self.verb


def apply_together(transaction: Transaction, operations: list[Operation]) -> None:
    """Run one function, or one verb on the items of all *operations*."""
    first = operations[0]
    if first.items is None:
        first.value = first.verb(transaction)
        return
    values = first.verb(transaction, [item for operation in operations for item in operation.items or ()])
    start = 0
    for operation in operations:
        end = start + len(operation.items or ())
        operation.value = values[start:end]
        start = end


def resolve(group: list[Operation]) -> None:
    """Give the results to the loops that wait for them: one wake-up a loop. A closed loop is nobody's."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Operation]] = {}
    for operation in group:
        by_loop.setdefault(operation.loop, []).append(operation)
    for loop, operations in by_loop.items():
        try:
            loop.call_soon_threadsafe(_set_results, operations)
        except RuntimeError:
            continue


def _set_results(operations: list[Operation]) -> None:
    for operation in operations:
        if operation.future.done():
            continue
        if operation.error is not None:
            operation.future.set_exception(operation.error)
        else:
            operation.future.set_result(operation.value)
