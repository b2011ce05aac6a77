"""A client that administers Kafka. It waits until the brokers have a controller, because aiokafka's own would fail."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka.admin import AIOKafkaAdminClient

from .brokers import Brokers, options
from .clients import START_SECONDS, Unavailable, bounded

_PAUSE_SECONDS = 0.2
_CLOSE_SECONDS = 3.0


@asynccontextmanager
async def administering(brokers: Brokers | str, request_seconds: float = 10.0) -> AsyncIterator[AIOKafkaAdminClient]:
    """Yield a started client. Raises `Unavailable`."""
    admin = AIOKafkaAdminClient(**options(brokers), request_timeout_ms=round(request_seconds * 1000))
    try:
        await bounded(admin.start(), START_SECONDS)
        await _controller(admin)
        yield admin
    finally:
        await asyncio.wait([asyncio.create_task(admin.close())], timeout=_CLOSE_SECONDS)


async def _controller(admin: AIOKafkaAdminClient) -> None:
    """For a moment after a start, or after the loss of a controller, a cluster has none."""
    until = time.monotonic() + START_SECONDS
    while admin._client.cluster.controller is None:
        if time.monotonic() > until:
            raise Unavailable("the brokers have no controller")
        await asyncio.sleep(_PAUSE_SECONDS)
        await bounded(admin._client.force_metadata_update(), START_SECONDS)
