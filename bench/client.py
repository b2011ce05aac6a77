"""The least HTTP/1.1 client that keeps connections alive: a generator must not be what is measured."""

import asyncio
import re
from collections import deque
from typing import cast

_LENGTH = re.compile(rb"content-length: *([0-9]+)", re.IGNORECASE)


class Connection(asyncio.Protocol):
    """One request at a time on one connection; gives status and body."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._waiting: deque[asyncio.Future[tuple[int, bytes]]] = deque()

    @classmethod
    async def open(cls, port: int) -> "Connection":
        _, connection = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none, but behaves like one

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
            self._received = self._received[end + 4 + size :]
            if not (waiting := self._waiting.popleft()).done():  # its caller may have been cancelled
                waiting.set_result((status, body))

    async def request(self, method: str, path: str, body: bytes = b"", headers: str = "") -> tuple[int, bytes]:
        """Send and wait; `headers` are whole lines. Raises `ConnectionError` when the server goes away."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError
        future: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        self._transport.write(head.encode() + body)
        return await future

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
