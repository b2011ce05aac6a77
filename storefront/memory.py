"""The last events about orders, in memory.

What must stay true: memory is bounded in orders, in events of one order, in bytes and in time. The oldest orders go
first.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from shared.delivery.events import Record

ORDERS = 2_000
EVENTS = 32
BYTES = 8 * 2**20
SECONDS = 86_400
"""An order is forgotten so long after its first event: a deleted user may have written a note."""
_LONGEST_KEY = 19  # digits of a 64-bit id
_OVERHEAD = 500  # about the bytes of a record's headers and objects


class Memory:
    def __init__(self, orders: int = ORDERS, bytes_: int = BYTES) -> None:
        self._most_orders, self._most_bytes = orders, bytes_
        self._of: OrderedDict[int, list[Record]] = OrderedDict()
        self._bytes = 0
        self._watched: dict[int, set[asyncio.Event]] = {}

    def of(self, order_id: int) -> list[Record]:
        """The known records of an order."""
        return list(self._of.get(order_id, ()))

    def add(self, records: Iterable[Record]) -> None:
        """Keep records whose key is an order id, and wake the watchers of the order."""
        for record in records:
            order_id = _order_id(record)
            if order_id is None:
                continue
            known = self._of.setdefault(order_id, [])
            if len(known) < EVENTS:
                known.append(record)
                self._bytes += _size(record)
                self.wake(order_id)
        while len(self._of) > self._most_orders or self._bytes > self._most_bytes or self._is_old():
            _, dropped = self._of.popitem(last=False)
            self._bytes -= sum(map(_size, dropped))

    def _is_old(self) -> bool:
        """True if the oldest order began too long ago."""
        oldest = next(iter(self._of.values()), None)
        return oldest is not None and oldest[0].timestamp_ms < (time.time() - SECONDS) * 1000

    @contextmanager
    def watching(self, order_id: int) -> Iterator[asyncio.Event]:
        """An event that is set when there is news of the order. The watcher clears it."""
        news = asyncio.Event()
        watchers = self._watched.setdefault(order_id, set())
        watchers.add(news)
        try:
            yield news
        finally:
            watchers.discard(news)
            if not watchers:
                self._watched.pop(order_id, None)

    def wake(self, *order_ids: int) -> None:
        """Wake the watchers of these orders. Without ids: all watchers."""
        for order_id in order_ids or list(self._watched):
            for news in self._watched.get(order_id, ()):
                news.set()


def _order_id(record: Record) -> int | None:
    key = record.key or b""
    return int(key) if key.isdigit() and len(key) <= _LONGEST_KEY else None


def _size(record: Record) -> int:
    return len(record.value or b"") + _OVERHEAD
