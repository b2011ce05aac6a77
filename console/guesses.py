"""Limits wrong passwords, from each address and in all. auth limits them too; this also spares auth the hashing."""

import time
from collections import deque
from collections.abc import Callable

from shared.errors import TooMany

WINDOW_SECONDS = 300.0
PER_ADDRESS = 10
IN_ALL = 100
_ADDRESSES = 10_000


class Guesses:
    """Counts tries before they are made, so that simultaneous tries cannot avoid the limit."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._of: dict[str, deque[float]] = {}
        self._all: deque[float] = deque()

    def begin(self, address: str) -> None:
        """Count a try. Raises `TooMany`."""
        now = self._clock()
        mine = self._of.pop(address, deque())
        for times in (mine, self._all):
            while times and times[0] <= now - WINDOW_SECONDS:
                times.popleft()
        self._of[address] = mine
        if len(self._of) > _ADDRESSES:
            del self._of[next(iter(self._of))]
        for times, limit in ((mine, PER_ADDRESS), (self._all, IN_ALL)):
            if len(times) >= limit:
                seconds = int(times[0] + WINDOW_SECONDS - now) + 1
                raise TooMany("too many logins failed: wait and try again", seconds)
        mine.append(now)
        self._all.append(now)

    def succeeded(self, address: str) -> None:
        """Do not count the last try of an address."""
        for times in (self._of.get(address), self._all):
            if times:
                times.pop()
