"""The consumer: the loop that passes batches from Kafka to a `Handling`, and rejoins its group after trouble."""

import asyncio
import time
from collections.abc import Callable

import structlog

from .. import metrics, postgres
from ..process.backoff import Backoff
from ..process.loop import Beat, repeat
from . import kafka
from .events import Record
from .handling import Handling
from .kafka import Batch, Subscription

log = structlog.get_logger()

_POLL_SECONDS = 0.5
_REJOIN_AFTER_SECONDS = 60.0
_RETRY_CAP_SECONDS = 15.0


class Consumer:
    """Polls, handles, commits offsets. After trouble with Kafka it joins the group again with a new client."""

    def __init__(self, subscribe: Callable[[], Subscription], handling: Handling, pace_seconds: float = 0.002) -> None:
        self._subscribe, self._handling, self._pace = subscribe, handling, pace_seconds
        self._subscription: Subscription | None = None
        self._owned_at = 0.0
        self._retry_at, self._backoff = float("inf"), Backoff(cap_seconds=_RETRY_CAP_SECONDS)

    async def run(self, stop: asyncio.Event, beat: Beat = lambda: None) -> None:
        """Consume until `stop` is set. Trouble with Kafka or Postgres is retried without limit, with back-off."""

        async def turn() -> float:
            await self.run_once(stop, beat)
            return 0.0

        await repeat("consumer turn", turn, stop, beat, trouble=(kafka.Unavailable,), on_trouble=self._lost)

    async def run_once(self, stop: asyncio.Event, beat: Beat = lambda: None) -> int:
        """Poll once and finish the batch: its records are handled, held, or lost to a rebalance.

        Events that failed are held, and tried again with back-off. Returns the number of records. Raises
        `kafka.Unavailable`.
        """
        subscription = await self._joined()
        batch = await subscription.poll(min(_POLL_SECONDS, max(0.0, self._retry_at - time.monotonic())))
        await self._handling.release(subscription.owned)
        started = time.monotonic()
        retry = started >= self._retry_at
        if batch or retry:
            await self._see_through(subscription, batch, retry, stop, beat)
            self._plan_retry(subscription.holds, retry)
            await asyncio.sleep(max(0.0, started + self._pace - time.monotonic()))
        await subscription.commit_if_due()
        metrics.CONSUMER_SUCCESS.set_to_current_time()
        return sum(map(len, batch.records.values()))

    def _plan_retry(self, holds: bool, retried: bool) -> None:
        if not holds:
            self._retry_at = float("inf")
            self._backoff.reset()
        elif retried or self._retry_at == float("inf"):
            self._retry_at = time.monotonic() + self._backoff.next()

    async def _see_through(
        self, subscription: Subscription, batch: Batch, retry: bool, stop: asyncio.Event, beat: Beat
    ) -> None:
        async def work(records: list[Record]) -> list[Record]:
            return await self._handling.handle(records, retry=retry, beat=beat)

        backoff = Backoff()
        while not stop.is_set():
            beat()
            try:
                await subscription.handle(batch, work)
            except postgres.ERRORS as error:
                # The gate is open during the wait, so another member can take over the partition.
                log.warning("batch not handled, trying again", error=repr(error))
                metrics.CONSUMER_FAILURES.inc()
                await backoff.wait(stop)
            else:
                return

    async def _joined(self) -> Subscription:
        now = time.monotonic()
        if self._subscription is not None:
            if self._subscription.owned:
                self._owned_at = now
            if now - self._owned_at < _REJOIN_AFTER_SECONDS:
                return self._subscription
            if not await self._subscription.count_unread():
                self._owned_at = now  # a spare: a new join would stop the whole group
                return self._subscription
            await self.close()  # it may have missed that its topics were created again
        made = self._subscribe()
        try:
            await made.start()
        except BaseException:
            await made.close()
            raise
        self._subscription, self._owned_at = made, now
        return made

    async def _lost(self) -> None:
        metrics.CONSUMER_FAILURES.inc()
        await self.close()

    async def close(self) -> None:
        """Commit the offsets of what was handled, and leave the group."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await subscription.close()
            await self._handling.release()
