"""Connections: how many may be open, and how long a client may take to send its first request."""

import asyncio
import resource
import socket
import ssl
import struct
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from .. import metrics
from . import gate
from .admission import ADMISSION
from .gate import Gate

MAX_OPEN = 12_000
"""More connections than this are refused with 503. Each takes about 10 kB here and in the kernel."""
BACKLOG = 4096
"""So many connections wait in the kernel until they are accepted; it may allow fewer (`net.core.somaxconn`)."""
ACCEPTED_AT_ONCE = 64
"""So many connections are accepted between two turns of the event loop."""
IDLE_SECONDS = 75.0
"""A little longer than the gateway's clients may be idle."""
HEADER_SECONDS = 5.0
"""A new connection is closed if its first request has not come by then, header and all."""
RESERVED = 64
"""So many more are for health, metrics and the admin API only: a process that has too much to do is not dead."""
_LOOK_SECONDS = 0.005
_OWN_FILES = 256
_REFUSED_AT_ONCE = 256
_LINGER_SECONDS = 1.0


class Connections:
    """The connections of `server`, which runs `app`. An instance makes the protocol of each accepted connection."""

    def __init__(self, server: web.Server, app: web.Application) -> None:
        self.server, self.gate, self.admission = server, Gate(app), app[ADMISSION]
        self.fresh: set[_Fresh] = set()
        self.open = 0
        self._listeners: list[socket.socket] = []
        self._looked_at, self._is_queue_long = 0.0, False
        self.admission.watch("listen queue", self.queue_seconds)
        self._most = min(MAX_OPEN, _allow_files(MAX_OPEN + _OWN_FILES) - _OWN_FILES)

    def __call__(self) -> asyncio.BaseProtocol:
        if self.open >= self._most + RESERVED:
            return _Full()
        return _Fresh(self, _Handler if self.open < self._most else _Reserved)

    def accept_at(self, listener: socket.socket) -> None:
        """From now on, connections wait at this socket too."""
        self._listeners.append(listener)

    def queue_seconds(self) -> float:
        """How long the newest connection in the kernel will wait: too long if an eighth of the room there is taken.

        The delay itself cannot be measured. If the room is full, new connections wait for seconds, and try again. The
        rest of the room is for what comes while a turn of the event loop takes long.
        """
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = now
            self._is_queue_long = any(_is_filling(one) for one in self._listeners)
        return float("inf") if self._is_queue_long else 0.0

    def close_fresh(self) -> None:
        """Close the connections of which aiohttp knows nothing. It closes the others."""
        for one in list(self.fresh):
            one.close()


class _Handler(RequestHandler):
    """aiohttp's connection. Its time until the first request is shorter than that between two requests."""

    __slots__ = ("_all", "_header_seconds", "_is_handed", "_is_plain", "_is_under_way")

    def __init__(self, all_: Connections, header_seconds: float, *, is_plain: bool) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(all_.server, loop=loop, keepalive_timeout=IDLE_SECONDS, access_log=None)  # type: ignore[arg-type]
        self._all, self._header_seconds = all_, header_seconds
        self._is_plain = is_plain  # each chunk until now was exactly one request
        self._is_handed = False
        self._is_under_way = False

    def data_received(self, data: bytes) -> None:
        if not data:  # aiohttp itself, when the body of a request was read
            super().data_received(data)
            return
        self._is_plain = self._is_plain and gate.is_whole(data)
        answer = self._all.gate.answer(data) if self._is_plain and self._is_idle() else None
        if answer and self.transport is not None:
            self._next_keepalive_close_time = asyncio.get_running_loop().time() + IDLE_SECONDS
            self.transport.write(answer)
        else:
            self.take(data, is_admitted=answer == gate.ADMITTED)

    def take(self, data: bytes, *, is_admitted: bool) -> None:
        """Give a chunk to aiohttp. `is_admitted` means: the chunk is a whole request, and the gate has admitted it."""
        self._is_under_way = True
        if is_admitted and not self._is_handed:
            self._is_handed = True
            self._all.admission.hand()
        super().data_received(data)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the answer. From then on the connection is idle, although aiohttp waits for a request only later."""
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self._is_under_way = False

    def begin(self) -> bool:
        """Its handler has begun. Returns true if the gate has admitted the request."""
        was_handed, self._is_handed = self._is_handed, False
        if was_handed:
            self._all.admission.begin()
        return was_handed

    def _is_idle(self) -> bool:
        """True if no request is under way, and if the client has read all answers."""
        return not self._is_under_way and self.transport is not None and self.transport.get_write_buffer_size() == 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        between, self._keepalive_timeout = self._keepalive_timeout, self._header_seconds
        super().connection_made(transport)
        self._keepalive_timeout = between

    def connection_lost(self, exc: BaseException | None) -> None:
        self.begin()
        self._all.open -= 1
        super().connection_lost(exc)


class _Reserved(_Handler):
    """One of the last connections. It ends after its answer."""

    __slots__ = ()


class _Fresh(asyncio.Protocol):
    """A connection that has sent nothing yet, or only requests that were refused from their bytes.

    It costs much less than aiohttp's. Under too much load most connections are new, and each is refused once.
    """

    __slots__ = ("_all", "_kind", "_timer", "_transport")

    def __init__(self, all_: Connections, kind: type[_Handler]) -> None:
        self._all, self._kind = all_, kind

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._all.open += 1
        self._all.fresh.add(self)
        self._timer = asyncio.get_running_loop().call_later(HEADER_SECONDS, self.close)

    def data_received(self, data: bytes) -> None:
        is_plain, is_read = gate.is_whole(data), self._transport.get_write_buffer_size() == 0
        answer = self._all.gate.answer(data) if is_plain and is_read else None
        left = self._timer.when() - asyncio.get_running_loop().time()
        self._timer.cancel()
        if not answer:
            handler = self._kind(self._all, min(HEADER_SECONDS, max(0.001, left)), is_plain=is_plain)
            self._hand_over(handler, data, is_admitted=answer == gate.ADMITTED)
            return
        self._timer = asyncio.get_running_loop().call_later(IDLE_SECONDS, self.close)
        self._transport.write(answer)

    def _hand_over(self, handler: _Handler, data: bytes, *, is_admitted: bool) -> None:
        """Let aiohttp go on with the connection."""
        self._all.fresh.discard(self)
        self._transport.set_protocol(handler)
        handler.connection_made(self._transport)
        handler.take(data, is_admitted=is_admitted)

    def close(self) -> None:
        self._transport.close()

    def connection_lost(self, _: Exception | None) -> None:
        self._timer.cancel()
        self._all.fresh.discard(self)
        self._all.open -= 1


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


def begin(request: web.Request) -> bool:
    """The handler of the request begins. Returns true if the gate has admitted the request."""
    return isinstance(request.protocol, _Handler) and request.protocol.begin()


def is_reserved(request: web.Request) -> bool:
    """True if the request came on one of the last connections."""
    return isinstance(request.protocol, _Reserved)


@dataclass(frozen=True)
class Listening:
    """What accepts connections, until it is closed."""

    servers: Sequence[asyncio.Server]

    def close(self) -> None:
        for one in self.servers:
            one.close()


async def listen(listener: socket.socket, made: Connections, tls: ssl.SSLContext | None = None) -> Listening:
    """Accept connections at `listener`, which belongs to the result.

    uvloop accepts one connection of a socket in each turn of its loop, whatever waits. Then a busy process takes a few
    hundred a second, and the kernel's queue overflows. So it sees the same socket `ACCEPTED_AT_ONCE` times.
    """
    made.accept_at(listener)
    sockets = [listener, *(listener.dup() for _ in range(ACCEPTED_AT_ONCE - 1))]
    loop = asyncio.get_running_loop()
    return Listening([await loop.create_server(made, sock=one, backlog=BACKLOG, ssl=tls) for one in sockets])


def _is_filling(listener: socket.socket) -> bool:
    """True if an eighth of the connections that may wait at a listening socket do. Only Linux says it."""
    with suppress(OSError, AttributeError):
        waiting, most = struct.unpack_from("II", listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32), 24)
        return bool(waiting > most // 8)
    return False


def _allow_files(wanted: int) -> int:
    """Raise the limit of open files as far as the system allows. Returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = hard == resource.RLIM_INFINITY
    new = max(soft, wanted if unlimited else min(wanted, hard))
    if new > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (new, hard))
    return new
