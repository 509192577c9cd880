"""Import the application, and say what it offers: the only place that imports by a name given.

The name comes from the command line or the project's settings, never from stored data.
"""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import Any

from litestar_queues.config import PoolConfig, QueueConfig, WorkerConfig
from litestar_queues.exceptions import QueueConfigurationError
from litestar_queues.nodes import Catalogue, PoolEntry
from litestar_queues.registry import tasks
from litestar_queues.request import entry_of
from litestar_queues.sizes import to_bytes

_NAMES = ("app", "application")
_FACTORIES = ("create_app", "make_app")


def load(app: str | None, imports: tuple[str, ...], folder: str) -> tuple[QueueConfig, Catalogue]:
    """Import *app* (``module:attribute`` or ``module``) and *imports*, and describe what they register.

    *folder* goes first on ``sys.path``. Raises whatever the imported code raises, and
    ``QueueConfigurationError`` when there is no application under that name.
    """
    sys.path.insert(0, folder)
    config = find_config(_find_app(app)) if app else None
    config = config or QueueConfig()
    for name in (*imports, *config.task_modules):
        importlib.import_module(name)
    return config, _describe(config, app)


def find_config(application: Any) -> QueueConfig | None:
    """Return the configuration of the queue plugin in *application*; None when it has no such plugin.

    Told by the type of ``plugin.config``, so that this layer need not know the plugin's.
    """
    for plugin in getattr(application, "plugins", ()):
        config = getattr(plugin, "config", None)
        if isinstance(config, QueueConfig):
            return config
    return None


def _describe(config: QueueConfig, app: str | None) -> Catalogue:
    worker = config.worker
    pools = [_pool(pool.name, pool.processes, pool.queues, pool) for pool in config.pools]
    if "default" not in {pool.name for pool in pools} and all(pool.queues is not None for pool in pools):
        processes = worker.max_concurrency or os.cpu_count() or 1
        pools.insert(0, _pool("default", processes, worker.queues, worker))
    return Catalogue(
        tasks=tuple(entry_of(task) for task in tasks.all()),
        pools=tuple(pools),
        backends=tuple(name for name, kind in config.execution_backends.items() if kind == "local"),
        url=config.url,
        app=app or "",
        max_result_bytes=config.max_result_bytes,
        drain_timeout=worker.drain_timeout,
        durability=config.durability,
        retention=config.retention.by_status(),
    )


def _pool(name: str, processes: int, queues: tuple[str, ...] | None, limits: PoolConfig | WorkerConfig) -> PoolEntry:
    max_rss = None if limits.max_rss is None else to_bytes(limits.max_rss)
    return PoolEntry(name, processes, queues, limits.slots, limits.max_jobs, max_rss, limits.nice)


def _find_app(name: str) -> Any:
    module_name, _, attribute = name.partition(":")
    module = importlib.import_module(module_name)
    found = _attribute(module, attribute) if attribute else _discover(module)
    is_factory = callable(found) and not hasattr(found, "plugins")
    return found() if is_factory else found


def _attribute(module: ModuleType, path: str) -> Any:
    found: Any = module
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            msg = f"module {module.__name__!r} has no {path!r}; name the application as module:attribute"
            raise QueueConfigurationError(msg) from None
    return found


def _discover(module: ModuleType) -> Any:
    members = vars(module)
    for name in _NAMES:
        if name in members:
            return members[name]
    for value in members.values():
        if hasattr(type(value), "plugins") or type(value).__name__ == "Litestar":
            return value
    for name in _FACTORIES:
        if callable(members.get(name)):
            return members[name]
    msg = f"module {module.__name__!r} has no application; name it as {module.__name__}:attribute"
    raise QueueConfigurationError(msg)
