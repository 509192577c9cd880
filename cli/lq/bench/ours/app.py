"""An application with slots, for jobs that wait: ``lq worker --app lq.bench.ours.app:app``."""

from __future__ import annotations

import os

from litestar import Litestar

from litestar_queues import QueueConfig, QueuePlugin, WorkerConfig

SLOTS = "LQ_BENCH_SLOTS"
"""Environment variable: jobs at a time in each worker process."""

app = Litestar(
    plugins=[
        QueuePlugin(
            QueueConfig(
                task_modules=("lq.bench.ours.tasks",), worker=WorkerConfig(slots=int(os.environ.get(SLOTS, "1")))
            )
        )
    ]
)
