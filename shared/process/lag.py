"""Measures how late the event loop is: a handler that blocks delays everything else in its process."""

import asyncio

from .. import metrics
from .backoff import wait
from .loop import Beat

_EVERY_SECONDS = 0.5


async def run(stop: asyncio.Event, beat: Beat = lambda: None) -> None:
    """Set a timer again and again, and record how late it was, until `stop` is set."""
    loop = asyncio.get_running_loop()
    while not stop.is_set():
        beat()
        due = loop.time() + _EVERY_SECONDS
        await wait(stop, _EVERY_SECONDS)
        if not stop.is_set():
            metrics.LOOP_LAG.observe(max(0.0, loop.time() - due))
