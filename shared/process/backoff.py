"""Bounded waits: for an event, and between attempts."""

import asyncio
from contextlib import suppress
from random import uniform

_FIRST_SECONDS, _CAP_SECONDS = 0.05, 2.0


async def wait(event: asyncio.Event, seconds: float) -> bool:
    """Wait for the event, at most `seconds`. Returns whether it is set.

    `asyncio.wait_for` is not used: on Python 3.11 it can swallow a cancellation.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()


class Backoff:
    """Waits longer after each failure in a row: 50 ms, doubled up to 2 s, each time changed at random by up to half."""

    def __init__(self) -> None:
        self.failures = 0

    def reset(self) -> None:
        """Start again with the shortest wait. Call it after a success."""
        self.failures = 0

    async def wait(self, stop: asyncio.Event) -> None:
        """Wait before the next attempt. Returns early when `stop` is set."""
        seconds = min(_FIRST_SECONDS * 2**self.failures, _CAP_SECONDS)
        self.failures = min(self.failures + 1, 10)
        await wait(stop, seconds * uniform(0.5, 1.5))
