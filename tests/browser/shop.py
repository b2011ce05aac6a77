"""What a browser test does to the shop behind the pages: it places orders, sets failure flags and sends odd events."""

import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import aiohttp

from tests.builders import eventually

SKU = "burger"


class Shop:
    """The services at `urls`, by name. `headers` have an administrator's token."""

    def __init__(self, session: aiohttp.ClientSession, urls: Mapping[str, str], headers: Mapping[str, str]) -> None:
        self._session, self.urls, self._headers = session, urls, dict(headers)

    async def place(self, quantity: int = 1, note: str = "") -> int:
        """Place an order and return its id."""
        body = {"userId": "1", "sku": SKU, "quantity": quantity, "note": note}
        headers = self._headers | {"Idempotency-Key": uuid.uuid4().hex}
        async with self._session.post(f"{self.urls['orders']}/v1/orders", json=body, headers=headers) as answer:
            found = await answer.json()
            assert answer.status == 202, found
            return int(found["id"])

    async def status(self, order_id: int, wait: float = 0.0) -> str:
        """The status of an order. With `wait`, the answer comes when the order has ended, or after so many seconds."""
        path = f"/v1/orders/{order_id}?wait={wait:g}"
        async with self._session.get(self.urls["orders"] + path, headers=self._headers) as answer:
            return str((await answer.json())["status"])

    async def ended(self, order_id: int) -> str:
        """Wait until the order is final; return its status."""
        status = ""
        while status in {"", "PENDING"}:
            status = await self.status(order_id, wait=20)
        return status

    async def admin(self, service: str, path: str) -> dict[str, Any]:
        """GET /admin/<path>."""
        async with self._session.get(f"{self.urls[service]}/admin/{path}", headers=self._headers) as answer:
            found: dict[str, Any] = await answer.json()
            assert answer.status == 200, found
            return found

    async def do(self, service: str, path: str, **body: Any) -> dict[str, Any]:
        """POST /admin/<path>."""
        async with self._session.post(f"{self.urls[service]}/admin/{path}", json=body, headers=self._headers) as answer:
            found: dict[str, Any] = await answer.json()
            assert answer.status < 300, found
            return found

    async def treat(self, service: str, action: str, parked_id: int) -> int:
        """Replay or drop a parked event, and wait for the end. Returns the number of the repair.

        A replay that is still under way would fail by the flag of the next test.
        """
        repair = (await self.do(service, action, ids=[parked_id], reason="a test"))["repair"]

        async def is_over() -> Any:
            return (await self.admin(service, f"repairs/{repair}"))["ended_at"]

        await eventually(is_over, seconds=60, pause=0.1)
        return int(repair)

    @asynccontextmanager
    async def failing(self, service: str, type_: str, reason: str = "a test") -> AsyncIterator[None]:
        """The handler of an event type fails until the end of the block."""
        flag = await self.do(service, "flags", name="fail_handler", type=type_, reason=reason)
        try:
            yield
        finally:
            await self.do(service, f"flags/{flag['id']}/end")

    async def parked(self, service: str, **wanted: object) -> dict[str, Any]:
        """Wait until an event is parked that has this `key` or `type`; return its row."""
        query = urlencode({name: str(value) for name, value in wanted.items()})

        async def is_parked() -> Any:
            return (await self.admin(service, f"parked?{query}"))["parked"]

        rows = await eventually(is_parked, seconds=60, pause=0.1)
        return dict(rows[0])


@asynccontextmanager
async def opened(urls: Mapping[str, str], headers: Mapping[str, str]) -> AsyncIterator[Shop]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        yield Shop(session, urls, headers)
