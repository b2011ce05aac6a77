"""A minimal HTTP/1.1 client with keep-alive. It must cost little, because the server is measured, not the client."""

import asyncio
import re
import ssl
from collections import deque
from typing import cast

_LENGTH = re.compile(rb"content-length: *([0-9]+)", re.IGNORECASE)
_CLOSE = re.compile(rb"connection: *close", re.IGNORECASE)


class Connection(asyncio.Protocol):
    """One connection. It sends one request at a time and returns status and body."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._waiting: deque[asyncio.Future[tuple[int, bytes]]] = deque()
        self._early: tuple[int, bytes] | None = None
        """An answer that came before its request: the server refuses the connection."""

    @classmethod
    async def open(cls, port: int, tls: ssl.SSLContext | None = None) -> "Connection":
        """Connect to this machine, with TLS if there is a context, which must know the server's certificate."""
        name = "localhost" if tls else None
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(cls, "127.0.0.1", port, ssl=tls, server_hostname=name)
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(
            "asyncio.Transport", transport
        )  # uvloop's transport is not a subclass, but behaves like one

    def connection_lost(self, exc: Exception | None) -> None:
        while self._waiting:
            self._waiting.popleft().set_exception(exc or ConnectionResetError())

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._received, 0, end)
            size = int(length[1]) if length else 0
            if len(self._received) < end + 4 + size:
                return
            status, body = int(self._received[9:12]), self._received[end + 4 : end + 4 + size]
            is_last = _CLOSE.search(self._received, 0, end)
            self._received = self._received[end + 4 + size :]
            if not self._waiting:
                self._early = status, body
            elif not (waiting := self._waiting.popleft()).done():  # the caller may have been cancelled
                waiting.set_result((status, body))
            if is_last:
                self.close()

    async def request(self, method: str, path: str, body: bytes = b"", headers: str = "") -> tuple[int, bytes]:
        """Send and wait for the answer. `headers` are whole lines. Raises `ConnectionError`."""
        if self._early:
            return self._early
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError
        future: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        self._transport.write(head.encode() + body)
        return await future

    @property
    def is_open(self) -> bool:
        """True if the server has not said that it closes the connection, and has not closed it."""
        return self._transport is not None and not self._transport.is_closing()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
