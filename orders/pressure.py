"""The saga's say in admission: orders that would not end before their deadline are refused.

What must stay true: only while orders are being finished. In an outage of Kafka or of another service nothing ends, and
orders are accepted, as promised, up to a number of open ones and up to a size of the database.
"""

import asyncio
import time
from collections.abc import Callable

import structlog

from orders import store
from shared import errors, metrics, postgres
from shared.delivery.relay import GIVE_WAY_SECONDS
from shared.postgres import Pool
from shared.process.loop import Beat, repeat

log = structlog.get_logger()

_EVERY_SECONDS = 1.0
_PART_OF_DEADLINE = 0.8
_SMOOTHING = 0.3
_PART_OF_TIME = 0.05
"""Postgres counts all open orders for a look. So after a long look the next one comes later."""
_SELDOM_SECONDS = 5.0
_LATEST_SECONDS = 2 * _SELDOM_SECONDS
_LOOKS = 3
"""So many looks in a row must say that a new order would wait too long: the first orders of a burst end later."""
_UNSURE_SECONDS = 2 * GIVE_WAY_SECONDS
"""While orders give way to requests, their rate says little. For so long the rate from before counts."""
_SIZE_SECONDS = 10.0
"""Postgres reads the sizes of all its files for an answer, so this is asked less often."""
_BACKLOG = 100
"""With fewer open orders, the rate says how fast orders come, and not how fast they could end."""


class Pressure:
    """Looks once a second, while orders come, how many are open and how fast they end.

    With `max_bytes`, it also looks how large the database is. 0: that has no limit. `is_busy` returns true while the
    relay gives way to requests. `tell` is called with the reason to refuse orders, or "", when it changes.
    """

    def __init__(
        self,
        pool: Pool,
        deadline_seconds: float,
        max_open: int,
        max_bytes: int = 0,
        is_busy: Callable[[], bool] = lambda: False,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._pool, self._patience, self._max_open = pool, deadline_seconds * _PART_OF_DEADLINE, max_open
        self._is_busy, self._busy_since = is_busy, float("inf")
        self._tell = tell
        self._max_bytes, self._bytes = max_bytes, 0
        self._measured_size_at = -_SIZE_SECONDS
        self._is_asked = False
        self._rate = 0.0
        self._last: tuple[float, int] | None = None
        self._newest = 0
        self._reason = ""
        self._late_looks = 0

    def check(self) -> None:
        """Raises `Refused` if a new order would wait too long."""
        self._is_asked = True
        if self._reason:
            metrics.REFUSED.labels("saga").inc()
            raise errors.Refused(self._reason)

    async def run(self, stop: asyncio.Event, beat: Beat = lambda: None) -> None:
        """Look until `stop` is set. If Postgres does not answer, the last decision stays."""

        async def turn() -> float:
            started = time.monotonic()
            if self._is_asked or self._reason:  # while orders are refused, nobody may ask
                self._is_asked = False
                await self.look()
            took = time.monotonic() - started
            return min(max(_EVERY_SECONDS, took / _PART_OF_TIME), _SELDOM_SECONDS)

        await repeat("measuring of open orders", turn, stop, beat, trouble=postgres.ERRORS)

    async def look(self) -> None:
        """Decide once. Raises one of `postgres.ERRORS`."""
        async with self._pool.acquire(timeout=postgres.CONNECT_SECONDS) as conn:
            open_, old, newest = await store.open_orders(conn, self._max_open, self._newest)
            if self._max_bytes and time.monotonic() - self._measured_size_at >= _SIZE_SECONDS:
                self._bytes = await store.database_bytes(conn)
                self._measured_size_at = time.monotonic()
        # An order that was written late, with a low id, counts as one that did not end.
        ended = self._last[1] - old if self._last else 0
        self._newest = newest
        self.decide(time.monotonic(), open_, ended)

    def decide(self, now: float, open_: int, ended: int) -> None:
        """Of the orders that were open at the last look, `ended` have ended."""
        self._busy_since = min(self._busy_since, now) if self._is_busy() else float("inf")
        if not 0 <= now - self._busy_since < _UNSURE_SECONDS:
            self._rate = self._measured(now, ended)
        self._last = now, open_
        is_late = self._rate > 0 and open_ / self._rate > self._patience
        self._late_looks = self._late_looks + 1 if is_late else 0
        before = self._reason
        if open_ >= self._max_open:
            self._reason = f"{open_} orders are open"
        elif self._max_bytes and self._bytes >= self._max_bytes:
            self._reason = f"the database has {self._bytes / 1e9:.1f} GB"
        elif self._late_looks >= _LOOKS:
            self._reason = f"a new order would wait {open_ / self._rate:.0f} s"
        else:
            self._reason = ""
        if before != self._reason:
            self._tell(self._reason)
        if bool(before) != bool(self._reason):
            log.warning("orders are refused" if self._reason else "orders are accepted again", why=self._reason)

    def _measured(self, now: float, ended: int) -> float:
        """The rate at which orders end. 0: it is not known, or nothing ends. That is an outage, and no overload."""
        if self._last is None or ended <= 0:
            return 0.0
        looked_at, were_open = self._last
        if not 0 < now - looked_at <= _LATEST_SECONDS or were_open < _BACKLOG:
            return 0.0
        rate = ended / (now - looked_at)
        return self._rate + _SMOOTHING * (rate - self._rate) if self._rate else rate
