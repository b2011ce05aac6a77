"""Readers of lines as they arrive.

What must stay true: a slow reader costs a bounded amount of memory and delays nobody. It loses its oldest lines.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from weakref import WeakSet

from console.telemetry.records import Line

ROWS, BYTES = 1000, 2_000_000
FOLLOWERS = 50


class Follower(AsyncIterator[list[Line]]):
    """Iterate to get the lines since the last turn. The iteration ends with the store."""

    def __init__(self, lost: Callable[[int], None]) -> None:
        self._lines: deque[tuple[Line, int]] = deque()
        self._size, self._ended, self._lost = 0, False, lost
        self._some = asyncio.Event()

    def put(self, line: Line, size: int) -> None:
        self._lines.append((line, size))
        self._size += size
        while len(self._lines) > ROWS or self._size > BYTES:
            self._size -= self._lines.popleft()[1]
            self._lost(1)
        self._some.set()

    def end(self) -> None:
        self._ended = True
        self._some.set()

    async def __anext__(self) -> list[Line]:
        await self._some.wait()
        if not self._lines:
            raise StopAsyncIteration
        lines = [line for line, _ in self._lines]
        self._lines.clear()
        self._size = 0
        if not self._ended:
            self._some.clear()
        return lines


class Followers:
    def __init__(self, lost: Callable[[int], None]) -> None:
        self._all: WeakSet[Follower] = WeakSet()
        self._lost = lost

    def open(self) -> Follower:
        """A new follower. Beyond `FOLLOWERS` of them, it ends at once."""
        follower = Follower(self._lost)
        if len(self._all) < FOLLOWERS:
            self._all.add(follower)
        else:
            follower.end()
        return follower

    def __len__(self) -> int:
        return len(self._all)

    def put(self, line: Line, size: int) -> None:
        """Show a line, which takes about `size` bytes, to all."""
        for follower in list(self._all):
            follower.put(line, size)

    def end(self) -> None:
        for follower in list(self._all):
            follower.end()
