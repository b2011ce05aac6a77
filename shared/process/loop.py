"""The loop that most background tasks use: take a turn, wait, take the next turn."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from .backoff import Backoff, wait

log = structlog.get_logger()

Beat = Callable[[], None]
"""Called at every turn, also at one that failed. `Tasks` uses it to notice a task that hangs."""


async def nothing() -> None:
    """The default of `on_trouble`: nothing has to be cleaned up."""


async def repeat(
    what: str,
    turn: Callable[[], Awaitable[float]],
    stop: asyncio.Event,
    beat: Beat,
    *,
    trouble: tuple[type[Exception], ...],
    woken: asyncio.Event | None = None,
    on_trouble: Callable[[], Awaitable[None]] = nothing,
) -> None:
    """Take turns until `stop` is set.

    `turn` returns how many seconds to wait before the next turn. The wait ends early when `stop` or `woken` is set. If
    `turn` raises one of `trouble`, the loop logs "<what> failed, trying again", awaits `on_trouble`, and waits with
    back-off. Any other exception ends the loop.
    """
    backoff = Backoff()
    # One task for the whole loop. A wait for the first of two events would create tasks at each turn.
    last_wake = asyncio.create_task(_wake_at(stop, woken)) if woken else None
    try:
        while not stop.is_set():
            beat()
            try:
                pause = await turn()
            except trouble as error:
                log.warning("%s failed, trying again", what, error=repr(error)[:500])
                await on_trouble()
                await backoff.wait(stop)
            else:
                backoff.reset()
                if pause > 0 and not stop.is_set():
                    await wait(woken or stop, pause)
    finally:
        if last_wake:
            last_wake.cancel()


async def _wake_at(stop: asyncio.Event, woken: asyncio.Event) -> None:
    await stop.wait()
    woken.set()
