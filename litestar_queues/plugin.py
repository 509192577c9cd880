"""``QueuePlugin``: the queues in a Litestar app."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from litestar.di import Provide
from litestar.exceptions import ImproperlyConfiguredException
from litestar.plugins import InitPlugin

from litestar_queues.config import QueueConfig
from litestar_queues.enqueuer import current_enqueuer
from litestar_queues.service import QueueService

if TYPE_CHECKING:
    from litestar import Litestar
    from litestar.config.app import AppConfig
    from litestar.types import ASGIApp, Receive, Scope, Send

DEPENDENCY = "queue_service"


class QueuePlugin(InitPlugin):
    """Gives an app its ``QueueService``.

    * Handlers take it as ``queue_service: NamedDependency[QueueService]``; it is also
      ``app.state.queue_service``.
    * ``Task.enqueue`` and ``QueuedBackgroundTask`` find it during a request, its background tasks
      included.
    * It is open for the app's lifespan, in each web process; nothing is opened at import.
    * ``lq worker --app module:app`` reads this configuration.

    It starts no worker: run ``lq worker`` beside the app.
    """

    def __init__(self, config: QueueConfig | None = None) -> None:
        self.config = config or QueueConfig()
        self.service = QueueService(self.config)
        self._apps = 0
        """How many apps with this plugin run, since the first of them has opened the service."""

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        """Add dependency, state, lifespan and middleware; refuses a second queue plugin."""
        if DEPENDENCY in app_config.dependencies:
            msg = f"the dependency {DEPENDENCY!r} is taken; register QueuePlugin once, and name no dependency like it"
            raise ImproperlyConfiguredException(msg)
        app_config.dependencies[DEPENDENCY] = Provide(self._provide, sync_to_thread=False)
        app_config.signature_namespace["QueueService"] = QueueService
        app_config.state[DEPENDENCY] = self.service
        # First in, last out: what the app itself does at start and stop may enqueue.
        app_config.lifespan = [self._lifespan, *app_config.lifespan]
        app_config.middleware = [self._middleware, *app_config.middleware]
        return app_config

    def _provide(self) -> QueueService:
        return self.service

    @asynccontextmanager
    async def _lifespan(self, _: Litestar) -> AsyncIterator[None]:
        if self.service.is_open and not self._apps:  # by a test: it is theirs to close
            yield
            return
        self._apps += 1
        try:
            await self.service.open()
            yield
        finally:
            self._apps -= 1
            if not self._apps:
                await self.service.close()

    def _middleware(self, app: ASGIApp) -> ASGIApp:
        """Set the context's service: a variable set in the lifespan is not seen by handlers."""

        async def with_service(scope: Scope, receive: Receive, send: Send) -> None:
            token = current_enqueuer.set(self.service)
            try:
                await app(scope, receive, send)
            finally:
                current_enqueuer.reset(token)

        return with_service
