"""Stops payments for a while, so that a visitor can see an order wait, and go on afterwards.

What must stay true: payments does not stay stopped. Each process sends SIGCONT when it starts, before it allows
anything, and when it ends. supervisord starts a process that dies again. There is at most one outage at a time.
"""

import asyncio
import time

import structlog

from shared.errors import Conflict
from shared.process.backoff import wait
from shared.process.loop import Beat
from shared.process.supervisord import Supervisord

log = structlog.get_logger()

PROGRAM = "services:payments"
SECONDS = 20.0
_LOOK_SECONDS = 1.0


class Outage:
    def __init__(self, supervisord: Supervisord, seconds: float = SECONDS) -> None:
        self._supervisord, self.seconds = supervisord, seconds
        self._ends_at: float | None = 0.0  # an earlier process may have left payments stopped

    @property
    def is_on(self) -> bool:
        """True if payments may be stopped now."""
        return self._ends_at is not None

    async def begin(self) -> None:
        """Stop payments. Raises `Conflict` if it may be stopped already, or `Unavailable`."""
        if self.is_on:
            raise Conflict("payments is stopped already: wait until it runs again")
        self._ends_at = time.monotonic() + self.seconds  # before the signal: it may be sent without an answer
        log.warning("a visitor stops payments", seconds=self.seconds)
        try:
            await self._supervisord.signal(PROGRAM, "STOP")
        except Conflict:  # it does not run
            self._ends_at = None
            raise

    async def run(self, stop: asyncio.Event, beat: Beat = lambda: None) -> None:
        """Wake payments when its time is over, and when `stop` is set."""
        while not stop.is_set():
            beat()
            if self._ends_at is not None and time.monotonic() >= self._ends_at:
                await self._wake()
            await wait(stop, _LOOK_SECONDS)
        if self.is_on:
            await self._wake()

    async def _wake(self) -> None:
        if await self._supervisord.wake(PROGRAM):
            self._ends_at = None
