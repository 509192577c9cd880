"""``litestar queues …``: the same commands as ``lq``, by the ``litestar.commands`` entry point."""

from lq.__main__ import make_group

queues = make_group("queues")
