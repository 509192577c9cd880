"""Applications for real masters, written into a test's folder."""

from __future__ import annotations

from pathlib import Path

_APP = """
from litestar import Litestar
from litestar_queues import PoolConfig, QueueConfig, QueuePlugin, WorkerConfig
{before}
app = Litestar(plugins=[QueuePlugin(QueueConfig(
    queue_backend={url!r},
    task_modules=("support.zoo", "support.hard", "support.talkers"),
    worker=WorkerConfig({worker}),
    pools=({pools}),
))])
"""


def write_app(
    folder: Path, url: str, *, worker: str = "max_concurrency=1", pools: str = "", before: str = ""
) -> list[str]:
    """Write ``pooled.py``, and return the arguments of ``lq worker`` that serve it."""
    (folder / "pooled.py").write_text(_APP.format(url=url, worker=worker, pools=pools, before=before))
    return ["--app", "pooled:app"]
