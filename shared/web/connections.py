"""Connections: how many may be open, and how long a client may take to send its first request."""

import asyncio
import resource
import socket
import ssl
from collections.abc import Callable
from typing import cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from .. import metrics
from . import gate
from .gate import Gate

MAX_OPEN = 12_000
"""More connections than this are refused with 503. Each takes about 10 kB here and in the kernel."""
BACKLOG = 4096
"""So many connections wait in the kernel until they are accepted; it may allow fewer (`net.core.somaxconn`)."""
IDLE_SECONDS = 75.0
"""A little longer than the gateway's clients may be idle."""
HEADER_SECONDS = 5.0
"""A new connection is closed if its first request has not come by then, header and all."""
RESERVED = 64
"""So many more are for health, metrics and the admin API only: a process that has too much to do is not dead."""
_OWN_FILES = 256
_REFUSED_AT_ONCE = 256
_LINGER_SECONDS = 1.0


class _Handler(RequestHandler):
    """aiohttp's connection. Its time until the first request is shorter than that between two requests."""

    __slots__ = ("_gate", "_is_plain")

    def __init__(self, server: web.Server, gate: Gate) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(server, loop=loop, keepalive_timeout=IDLE_SECONDS, access_log=None)  # type: ignore[arg-type]
        self._gate = gate
        self._is_plain = True  # each chunk until now was exactly one request

    def data_received(self, data: bytes) -> None:
        self._is_plain = self._is_plain and gate.is_whole(data)
        answer = self._gate.answer(data) if self._is_plain and self._is_idle() else None
        if answer is None or self.transport is None:
            super().data_received(data)
            return
        self._next_keepalive_close_time = asyncio.get_running_loop().time() + IDLE_SECONDS
        self.transport.write(answer)

    def _is_idle(self) -> bool:
        """True if no request is under way, and if the client has read all answers."""
        is_waiting = self._waiter is not None and not self._waiter.done()
        return is_waiting and self.transport is not None and self.transport.get_write_buffer_size() == 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        between, self._keepalive_timeout = self._keepalive_timeout, HEADER_SECONDS
        super().connection_made(transport)
        self._keepalive_timeout = between


class _Reserved(_Handler):
    """One of the last connections. It ends after its answer."""

    __slots__ = ()


class _Full(asyncio.Protocol):
    """A connection too many. It is answered at once, and closed when the client has read the answer."""

    open = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        metrics.REFUSED.labels("connections").inc()
        _Full.open += 1
        if _Full.open > _REFUSED_AT_ONCE:
            self._transport.abort()
            return
        self._transport.write(_REFUSAL)
        if self._transport.can_write_eof():
            self._transport.write_eof()  # without it, what the client has sent would reset the connection
        asyncio.get_running_loop().call_later(_LINGER_SECONDS, self._transport.abort)

    def connection_lost(self, _: Exception | None) -> None:
        _Full.open -= 1


_REFUSAL = gate.refusal("too many connections; nothing was done", 1, "Connection: close")

Factory = Callable[[], asyncio.BaseProtocol]


def factory(server: web.Server, app: web.Application) -> Factory:
    """What an accepted connection of `server`, which runs `app`, becomes."""
    most = min(MAX_OPEN, _allow_files(MAX_OPEN + _OWN_FILES) - _OWN_FILES)
    doors = Gate(app)

    def connection() -> asyncio.BaseProtocol:
        if (open_ := len(server.connections)) >= most + RESERVED:
            return _Full()
        return _Handler(server, doors) if open_ < most else _Reserved(server, doors)

    return connection


def is_reserved(request: web.Request) -> bool:
    """True if the request came on one of the last connections."""
    return isinstance(request.protocol, _Reserved)


async def listen(listener: socket.socket, made: Factory, tls: ssl.SSLContext | None = None) -> asyncio.Server:
    """Accept connections until the server is closed."""
    return await asyncio.get_running_loop().create_server(made, sock=listener, backlog=BACKLOG, ssl=tls)


def _allow_files(wanted: int) -> int:
    """Raise the limit of open files as far as the system allows. Returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = hard == resource.RLIM_INFINITY
    new = max(soft, wanted if unlimited else min(wanted, hard))
    if new > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (new, hard))
    return new
