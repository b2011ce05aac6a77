"""Bounded waits: for an event, and between attempts."""

import asyncio
from contextlib import suppress
from random import uniform


async def wait(event: asyncio.Event, seconds: float) -> bool:
    """Wait for the event, at most `seconds`. Returns whether it is set.

    `asyncio.wait_for` is not used: on Python 3.11 it can swallow a cancellation.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()


class Backoff:
    """Waits longer after each failure in a row: doubled up to a cap, and changed at random by up to half."""

    def __init__(self, first_seconds: float = 0.05, cap_seconds: float = 2.0) -> None:
        self.failures, self._first, self._cap = 0, first_seconds, cap_seconds

    def reset(self) -> None:
        """Start again with the shortest wait. Call it after a success."""
        self.failures = 0

    def next(self) -> float:
        """Count a failure. Returns how many seconds to wait before the next attempt."""
        seconds: float = min(self._first * 2**self.failures, self._cap)
        self.failures = min(self.failures + 1, 20)
        return seconds * uniform(0.5, 1.5)

    async def wait(self, stop: asyncio.Event) -> None:
        """Wait before the next attempt. Returns early when `stop` is set."""
        await wait(stop, self.next())
