"""Every kind of page is looked at by axe-core, in light and dark, on a phone and on a screen, and none is too wide."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from tests.browser.conftest import OpenTab, Tab
from tests.browser.shop import Shop

pytest.importorskip("playwright.async_api", reason="no Playwright: install requirements/dev.txt")
barriers = pytest.importorskip("tests.browser.barriers", reason="no axe: install requirements/dev.txt").barriers

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True)
class Found:
    """What the pages show: an order that ended, one whose event is parked, and a repair."""

    order_id: int
    blocked_id: int
    parked_id: int
    repair_id: int
    trace_id: str

    @property
    def paths(self) -> list[str]:
        return [
            "/",
            f"/orders/{self.order_id}",
            f"/orders/{self.blocked_id}",
            "/parked",
            f"/parked/orders?key={self.blocked_id}",
            f"/parked/orders/{self.parked_id}",
            f"/repairs/orders/{self.repair_id}",
            "/lanes",
            "/alerts",
            "/runbooks/alert-key-parked",
            f"/search?q={self.order_id}",
            "/traces",
            f"/traces/{self.trace_id}",
            f"/logs?key={self.blocked_id}",
            "/charts",
            "/books",
            "/flags",
            "/drills",
            "/guarantees",
            "/actions",
        ]


@asynccontextmanager
async def furnished(shop: Shop, tab: Tab) -> AsyncIterator[Found]:
    """A shop with something on every page."""
    repaired, blocked = [await _blocked(shop) for _ in range(2)]
    repair_id = await shop.treat("orders", "replay", repaired[1])
    await tab.open(f"/orders/{blocked[0]}")
    traces = tab.page.locator("#traces a")
    while not await traces.count():
        await tab.page.wait_for_timeout(300)
        await tab.page.reload()
    try:
        yield Found(repaired[0], *blocked, repair_id, await traces.first.inner_text())
    finally:
        await shop.treat("orders", "replay", blocked[1])


async def _blocked(shop: Shop) -> tuple[int, int]:
    """An order that waits behind a parked event, and the event's number."""
    async with shop.failing("orders", "PaymentSucceeded"):
        order_id = await shop.place(note="no onions")
        return order_id, (await shop.parked("orders", key=order_id))["id"]


@pytest_asyncio.fixture(loop_scope="module")
async def found(tab: Tab, the_shop: Shop) -> AsyncIterator[Found]:
    async with furnished(the_shop, tab) as made:
        yield made


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_no_page_has_a_serious_barrier_or_is_too_wide(
    open_tab: OpenTab, session: Any, found: Found, scheme: str
) -> None:
    anonymous = await open_tab(color_scheme=scheme)
    await anonymous.open("/login")
    complaints = await barriers(anonymous, "/login")
    tab = await open_tab(color_scheme=scheme, storage_state=session)
    for path in found.paths:
        await tab.open(path)
        complaints += await barriers(tab, path)
    await tab.open(f"/parked/orders/{found.parked_id}")
    await tab.page.get_by_role("button", name="Dry run").click()
    await tab.page.get_by_role("heading", name="Event that it would send").wait_for()
    complaints += await barriers(tab, "a dry run")
    assert not complaints, "\n".join(complaints)
