"""Waiting: for an event with a bound, and between attempts longer each time, up to a cap, with jitter."""

import asyncio
from contextlib import suppress
from random import uniform

_FIRST_SECONDS, _CAP_SECONDS = 0.05, 2.0


async def wait(event: asyncio.Event, seconds: float) -> bool:
    """Wait for the event, at most so long; says whether it is set. Not `wait_for`, which can swallow a cancellation."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()


class Backoff:
    """How long to wait after each failure in a row: 50 ms, doubled up to 2 s, give or take a half (full jitter)."""

    def __init__(self) -> None:
        self.failures = 0

    def reset(self) -> None:
        """Begin anew, after a success."""
        self.failures = 0

    async def wait(self, stop: asyncio.Event) -> None:
        """Wait before the next attempt, or until `stop`."""
        seconds = min(_FIRST_SECONDS * 2**self.failures, _CAP_SECONDS)
        self.failures = min(self.failures + 1, 10)
        await wait(stop, seconds * uniform(0.5, 1.5))
