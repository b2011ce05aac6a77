"""The time in which a request is answered, whatever Postgres does.

What must stay true: an answer never waits for the cancellation of a query, because a frozen server ignores it.
"""

import asyncio
import time
from collections.abc import Awaitable
from typing import TypeVar

from aiohttp import web

from ..errors import Unavailable

T = TypeVar("T")

ANSWER_SECONDS = 2.8
"""Less than the promised 3 s: the rest is for the network."""

_ANSWER_BY = web.RequestKey("answer_by", float)


def start(request: web.Request) -> None:
    """Start the clock of a request."""
    request[_ANSWER_BY] = time.monotonic() + ANSWER_SECONDS


def seconds_left(request: web.Request) -> float:
    """How long the answer may still take. Reading the body and the work share one deadline."""
    return max(0.0, request[_ANSWER_BY] - time.monotonic())


async def within(request: web.Request, work: Awaitable[T]) -> T:
    """Await `work` within the request's deadline. Raises `Unavailable`."""
    return await bounded(work, seconds_left(request))


async def bounded(work: Awaitable[T], seconds: float) -> T:
    """Await `work`, at most `seconds`. Then raises `Unavailable` at once, and `work` is cancelled without a wait."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task], timeout=seconds)
    finally:
        if not task.done():
            task.cancel()
            task.add_done_callback(lambda t: t.cancelled() or t.exception())  # mark as retrieved, whenever it ends
    if task.done():
        return task.result()
    raise Unavailable
