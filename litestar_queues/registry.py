"""The tasks of this process, by name."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from litestar_queues.exceptions import TaskDefinitionError, UnknownTaskError

if TYPE_CHECKING:
    from litestar_queues.tasks import Task


class Registry:
    """Names and tasks; one function a name."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task[..., Any]] = {}

    def register(self, task: Task[..., Any]) -> None:
        """Add *task*; a different function under a name that is taken is an error.

        The same function, imported once more (as ``__main__``, or by a reload), takes its own place.
        """
        there = self._tasks.get(task.name)
        if there is not None and _origin(there) != _origin(task):
            msg = (
                f"two functions are named {task.name!r}: {_shown(there)} and {_shown(task)}; "
                'give one of them another name: @task("…")'
            )
            raise TaskDefinitionError(msg)
        self._tasks[task.name] = task

    def find(self, name: str) -> Task[..., Any] | None:
        """Return the task of this name, or None."""
        return self._tasks.get(name)

    def get(self, name: str) -> Task[..., Any]:
        """Return the task of this name; ``UnknownTaskError`` names those that are near."""
        try:
            return self._tasks[name]
        except KeyError:
            raise UnknownTaskError(name, self._tasks) from None

    def names(self) -> list[str]:
        """Return the names, sorted."""
        return sorted(self._tasks)

    def all(self) -> list[Task[..., Any]]:
        """Return the tasks, by name."""
        return [self._tasks[name] for name in self.names()]

    @contextmanager
    def isolated(self) -> Iterator[None]:
        """For the block, have no tasks but those registered in it: for tests."""
        before, self._tasks = self._tasks, {}
        try:
            yield
        finally:
            self._tasks = before


tasks = Registry()
"""The registry of this process."""


def _origin(task: Task[..., Any]) -> tuple[str, str]:
    # The function itself, not a decorator's wrapper of it: those share one file. Its real path, because a
    # script run through a link and the same file imported are one.
    function = inspect.unwrap(task.func)
    code = getattr(function, "__code__", None)
    return (os.path.realpath(code.co_filename) if code else function.__module__, function.__qualname__)


def _shown(task: Task[..., Any]) -> str:
    return f"{task.func.__module__}.{task.func.__qualname__}"
