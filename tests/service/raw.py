"""A service that listens as in production, and connections to it that send bytes."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from aiohttp import web

from shared.web import connections
from shared.web.connections import Connections

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Streams]]


@asynccontextmanager
async def served(app: web.Application) -> AsyncIterator[Connect]:
    """Run `app`. Yields a function that opens a connection; all are closed at the end."""
    runner = web.AppRunner(app)
    await runner.setup()
    assert runner.server is not None
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    listening = await connections.listen(listener, Connections(runner.server, app))
    async with AsyncExitStack() as stack:

        async def opened() -> Streams:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            stack.callback(writer.close)
            return reader, writer

        yield opened
    listening.close()
    await runner.cleanup()
