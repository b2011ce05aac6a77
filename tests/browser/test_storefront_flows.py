"""What a visitor does in the shop, in a real browser, with the whole stack behind it."""

import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.browser.conftest import OpenTab, Tab

playwright = pytest.importorskip("playwright.async_api", reason="no Playwright: install requirements/dev.txt")
barriers = pytest.importorskip("tests.browser.barriers", reason="no axe: install requirements/dev.txt").barriers
expect = playwright.expect
expect.set_options(timeout=20_000)

pytestmark = pytest.mark.asyncio(loop_scope="module")

SOON = 60_000
"""Milliseconds until an order has ended, or payments runs again. Usually it takes a fraction of that."""


@pytest_asyncio.fixture(loop_scope="module")
async def tab(open_tab: OpenTab) -> Tab:
    """A tab of a new visitor, at the first page."""
    made = await open_tab(root="")
    await made.open("/")
    return made


async def order(tab: Tab, what: str) -> None:
    await tab.page.get_by_role("button", name=f"Order {what}", exact=True).click()
    await expect(tab.page).to_have_url(re.compile(r"/shop/orders/\d+#order$"))


async def steps(tab: Tab, last: str) -> list[str]:
    """The events of the order, as soon as it has the last one."""
    await expect(tab.page.locator(f"#step-{last}")).to_be_visible(timeout=SOON)
    return [str(id_) for id_ in await tab.page.locator("#steps li").evaluate_all("found => found.map(one => one.id)")]


async def stop_payments(tab: Tab) -> None:
    button = tab.page.get_by_role("button", name="Stop payments for 20 s")
    while not await button.is_visible():  # an earlier test has stopped it
        await tab.page.wait_for_timeout(500)
        await tab.page.reload()
    await button.click()
    await expect(tab.page.locator("#stopped")).to_be_visible()


async def test_one_click_leads_to_a_confirmed_order_and_its_events(tab: Tab) -> None:
    await order(tab, "Burger")
    found = await steps(tab, "OrderConfirmed")
    assert found == [
        f"step-{name}" for name in ("OrderCreated", "InventoryReserved", "PaymentSucceeded", "OrderConfirmed")
    ]
    await expect(tab.page.locator("#status")).to_have_text("CONFIRMED")
    await expect(tab.page.locator("#step-PaymentSucceeded")).to_contain_text("payments/service.py")
    await expect(tab.page.locator("#order")).to_be_in_viewport()


@pytest.mark.parametrize(
    ("what", "end", "last"),
    [
        ("2 burgers", "CONFIRMED", "OrderConfirmed"),
        ("1 lobster", "CANCELLED out_of_stock", "OrderCancelled"),
        ("100 sushi", "CANCELLED payment_declined", "InventoryReleased"),
        ("1 unicorn", "CANCELLED unknown_sku", "OrderCancelled"),
    ],
)
async def test_each_outcome_is_one_click(tab: Tab, what: str, end: str, last: str) -> None:
    await order(tab, what)
    assert (await steps(tab, last))[-1] == f"step-{last}"
    await expect(tab.page.locator("#status")).to_have_text(end)


async def test_while_payments_is_stopped_an_order_can_be_cancelled_and_another_recovers_by_itself(tab: Tab) -> None:
    await stop_payments(tab)
    await order(tab, "Pizza")
    await expect(tab.page.locator("#awaited-payments")).to_contain_text("stopped")
    await tab.page.get_by_role("button", name="Cancel the order").click()
    await steps(tab, "InventoryReleased")
    await expect(tab.page.locator("#status")).to_have_text("CANCELLED cancelled_by_customer")

    await order(tab, "Fries")
    await expect(tab.page.locator("#awaited-payments")).to_be_visible()
    await expect(tab.page.locator("#status")).to_have_text("PENDING")
    await tab.page.evaluate("window.stays = true")
    await steps(tab, "OrderConfirmed")
    assert await tab.page.evaluate("window.stays")  # the page was not loaded again
    await expect(tab.page.locator("#cancel")).to_have_count(0)


async def test_without_javascript_a_visitor_orders_and_reads(open_tab: OpenTab) -> None:
    tab = await open_tab(root="", java_script_enabled=False)
    await tab.open("/")
    await order(tab, "Burger")
    await expect(tab.page.locator("#status")).to_have_text("CONFIRMED", timeout=SOON)
    await expect(tab.page.locator("#step-OrderConfirmed")).to_be_visible()


async def test_a_keyboard_is_enough(tab: Tab) -> None:
    await tab.page.keyboard.press("Tab")
    await expect(tab.page.get_by_role("button", name="Order Burger", exact=True)).to_be_focused()
    await tab.page.keyboard.press("Enter")
    await steps(tab, "OrderConfirmed")


@pytest_asyncio.fixture(loop_scope="module", params=["light", "dark"])
async def shaded(open_tab: OpenTab, request: pytest.FixtureRequest) -> AsyncIterator[Tab]:
    yield await open_tab(root="", color_scheme=request.param)


async def test_no_page_has_a_serious_barrier_or_is_too_wide(shaded: Tab) -> None:
    tab = shaded
    tab.allow("status of 404")
    await tab.open("/")
    complaints = await barriers(tab, "the first page")
    await order(tab, "100 sushi")
    await steps(tab, "InventoryReleased")
    complaints += await barriers(tab, "an order that has ended")
    await tab.open("/")
    await stop_payments(tab)
    complaints += await barriers(tab, "payments is stopped")
    await order(tab, "Burger")
    await expect(tab.page.locator("#awaited-payments")).to_be_visible()
    complaints += await barriers(tab, "an order that waits")
    await tab.open("/shop/none")
    complaints += await barriers(tab, "an error")
    assert not complaints, "\n".join(complaints)
