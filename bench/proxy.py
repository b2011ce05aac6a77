"""`python -m bench.proxy 7000 5432`: a TCP proxy on loopback that delivers every byte later.

Each line of its standard input is a new delay in seconds. The first delay is 0. What must stay true: all bytes arrive,
in order, each after the delay. The loop's timers may add up to a millisecond, so `bench/delay.py` measures how much
later they really are.
"""

import asyncio
import sys
from dataclasses import dataclass
from typing import cast

import typer

from local import ports


@dataclass
class Delay:
    """The delay of all connections of a proxy, in each direction."""

    seconds: float = 0.0


class _Side(asyncio.Protocol):
    """One of the two connections. `other` sends each chunk that this one receives, after the delay."""

    def __init__(self, delay: Delay) -> None:
        self._delay, self._last = delay, 0.0
        self._loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.other: _Side | None = None
        self._early: list[bytes] = []
        """What came before the other connection was open."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self._early.append(data)
        elif self._is_late():
            self._loop.call_at(self._due(), self._send, data)
        else:
            self._send(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_late():
            self._loop.call_at(self._due(), self.close_other)
        else:
            self.close_other()

    def join(self, other: "_Side") -> None:
        self.other, other.other = other, self
        for data in self._early:
            self.data_received(data)

    def close_other(self) -> None:
        if self.other and self.other.transport:
            self.other.transport.close()

    def _is_late(self) -> bool:
        """True if there is a delay, or bytes of a longer one are still on their way."""
        return self._delay.seconds > 0 or self._last > self._loop.time()

    def _due(self) -> float:
        """The time of delivery. Two of them are never the same, because timers of one time have no order."""
        self._last = max(self._loop.time() + self._delay.seconds, self._last + 1e-6)
        return self._last

    def _send(self, data: bytes) -> None:
        if self.other and self.other.transport:
            self.other.transport.write(data)


class _Accepted(_Side):
    """The connection of a client; it opens the one to the server."""

    def __init__(self, delay: Delay, target: int) -> None:
        super().__init__(delay)
        self._target = target

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._opening = self._loop.create_task(self._open())

    async def _open(self) -> None:
        try:
            _, server = await self._loop.create_connection(lambda: _Side(self._delay), ports.LOOPBACK, self._target)
        except OSError:
            if self.transport:
                self.transport.close()
            return
        self.join(server)


async def serve(port: int, target: int, delay: Delay) -> asyncio.Server:
    """Listen on `port`, and connect each client to `target`. Each byte waits for the delay, in both directions."""
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: _Accepted(delay, target), ports.LOOPBACK, port)


async def _run(port: int, target: int) -> None:
    delay = Delay()
    server = await serve(port, target, delay)

    def change() -> None:
        delay.seconds = float(sys.stdin.readline())

    asyncio.get_running_loop().add_reader(sys.stdin, change)
    await server.serve_forever()


def main(port: int, target: int) -> None:
    """Run the proxy until it is killed."""
    asyncio.run(_run(port, target))


if __name__ == "__main__":
    typer.run(main)
