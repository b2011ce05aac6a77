"""A customer who places one order a second during a drill, and notes what becomes of each.

What must stay true: the number of orders is bounded, and each is followed until its end or until a deadline. A request
whose outcome is unknown is repeated with its Idempotency-Key, as a careful client does.
"""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

import aiohttp

from shared.process.backoff import wait

State = Literal["sent", "refused", "unknown", "PENDING", "CONFIRMED", "CANCELLED", "lost"]
USER = "drill"
SKU = "burger"
MOST_ORDERS = 60

_PLACE = aiohttp.ClientTimeout(total=4.0)
_READ_SECONDS = 5
_READ = aiohttp.ClientTimeout(total=_READ_SECONDS + 4.0)
_PAUSE_SECONDS = 0.5
_PAGES = 3
TROUBLE = (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError, AttributeError)
"""No answer, or an odd one."""


@dataclass(slots=True)
class Order:
    """One order. `sent` and `ended` are seconds of the monotonic clock. `note` is stored with it, and is its key."""

    note: str
    sent: float
    id: int | None = None
    state: State = "sent"
    ended: float | None = None
    detail: str = ""


@dataclass
class Customer:
    """Places orders at the address `url` of orders. `name` is the beginning of its keys, and no other drill has it."""

    http: aiohttp.ClientSession
    url: str
    name: str
    every_seconds: float = 1.0
    deadline_seconds: float = 90.0
    most: int = MOST_ORDERS
    orders: list[Order] = field(default_factory=list)
    slowest: float = 0.0
    """The longest time until a placement was answered, in seconds. Requests without an answer do not count."""

    async def run(self, stop: asyncio.Event) -> None:
        """Place orders until `stop` is set or there are `most`, then wait until all have ended or are too late."""
        async with asyncio.TaskGroup() as tasks:
            while len(self.orders) < self.most and not stop.is_set():
                order = Order(f"{self.name}-{len(self.orders) + 1}", time.monotonic())
                self.orders.append(order)
                tasks.create_task(self._shop(order))
                await wait(stop, self.every_seconds)

    def confirmed_after(self, moment: float) -> float | None:
        """When the first order that was placed after a moment was CONFIRMED."""
        found = (one.ended for one in self.orders if one.sent > moment and one.state == "CONFIRMED")
        return min((at for at in found if at is not None), default=None)

    async def count_doubled(self) -> int:
        """How many keys have more than one order. Raises one of `TROUBLE` if orders does not answer."""
        found: Counter[str] = Counter()
        query: dict[str, str] = {"userId": USER, "limit": "100"}
        for _ in range(_PAGES):
            async with self.http.get(f"{self.url}/v1/orders", params=query, timeout=_READ) as answer:
                answer.raise_for_status()
                page = await answer.json()
            found.update(str(one["note"]) for one in page["orders"])
            if not page["next_cursor"]:
                break
            query["cursor"] = page["next_cursor"]
        return sum(found[order.note] > 1 for order in self.orders)

    async def _shop(self, order: Order) -> None:
        until = order.sent + self.deadline_seconds
        await self._place(order, until)
        if order.state == "PENDING":
            await self._follow(order, until)

    async def _place(self, order: Order, until: float) -> None:
        body = {"userId": USER, "sku": SKU, "quantity": 1, "note": order.note}
        while order.state in {"sent", "unknown"} and time.monotonic() < until:
            began = time.monotonic()
            try:
                async with self.http.post(
                    f"{self.url}/v1/orders", json=body, headers={"Idempotency-Key": order.note}, timeout=_PLACE
                ) as answer:
                    _note(order, answer.status, await answer.json(content_type=None))
                self.slowest = max(self.slowest, time.monotonic() - began)
            except aiohttp.ClientConnectorError as error:
                _refuse(order, repr(error))
            except TROUBLE as error:
                order.state, order.detail = "unknown", repr(error)[:200]
            if order.state == "unknown":
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _follow(self, order: Order, until: float) -> None:
        while time.monotonic() < until:
            status = ""
            try:
                status = await self._read(order)
            except TROUBLE as error:
                order.detail = repr(error)[:200]
            if order.state != "PENDING":
                order.ended = time.monotonic()
                return
            await asyncio.sleep(0.05 if status == "PENDING" else _PAUSE_SECONDS)
        order.state, order.detail = "lost", f"not final in time; {order.detail}"

    async def _read(self, order: Order) -> str:
        """Wait until an order is final, for a while, and note it. Returns its status, or "" if it was not found."""
        query = {"wait": _READ_SECONDS}
        async with self.http.get(f"{self.url}/v1/orders/{order.id}", params=query, timeout=_READ) as answer:
            found = await answer.json(content_type=None)
        if answer.status != 200:
            order.detail = f"answered {answer.status}"
            return ""
        status, order.detail = str(found["status"]), str(found.get("reason") or "")
        if status in {"CONFIRMED", "CANCELLED"}:
            order.state = "CONFIRMED" if status == "CONFIRMED" else "CANCELLED"
        return status


def _note(order: Order, status: int, answer: Any) -> None:
    """Note the answer to a placement."""
    if status == 202:
        order.id, order.state, order.detail = int(answer["id"]), "PENDING", ""
        return
    kind = str(answer.get("type", "")) if isinstance(answer, dict) else ""
    if status >= 500 and not kind.endswith("/refused"):
        order.state, order.detail = "unknown", f"answered {status}"
    else:
        _refuse(order, f"answered {status}")


def _refuse(order: Order, detail: str) -> None:
    """This try did nothing. If the outcome of an earlier try is unknown, it stays unknown, and is tried again."""
    order.state = "refused" if order.state == "sent" else "unknown"
    order.detail = detail[:200]
