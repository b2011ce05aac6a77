"""What a visitor does with the pages about the API: read, log in, try; and read about the events."""

import json
from typing import Any

import pytest

from tests.acceptance.conftest import System
from tests.acceptance.people import ADMIN_PASSWORD
from tests.browser.conftest import OpenTab

playwright = pytest.importorskip("playwright.async_api", reason="no Playwright: install requirements/dev.txt")
expect = playwright.expect
expect.set_options(timeout=20_000)

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_visitor_reads_logs_in_once_and_tries_two_services(open_tab: OpenTab, system: System) -> None:
    tab = await open_tab()
    tab.allow("Deprecated: escaping deep link whitespace")  # Swagger UI says this about its own links
    page = tab.page
    await page.goto(f"{system.gateway_url}/docs")

    await choose(page, "auth")
    login = await tried(page, "post_auth_login")
    body = login.locator("textarea")
    assert json.loads(await body.input_value()) == {"username": "admin", "password": "password"}
    await body.fill(json.dumps({"username": "admin", "password": ADMIN_PASSWORD}))  # of a stack for tests
    tokens = await answer(login, 200)
    await page.get_by_role("button", name="Authorize", exact=True).click()
    await page.get_by_label("auth-bearer-value").fill(tokens["token"])
    await page.get_by_role("button", name="Apply credentials").click()
    await page.get_by_role("button", name="Close", exact=True).click()

    await choose(page, "orders")
    placed = await answer(await tried(page, "post_orders"), 202)
    assert placed["id"] > 0
    order = await answer(await tried(page, "get_v1_orders_id"), 200)
    assert order["id"] == 1

    await page.reload()
    await choose(page, "inventory")
    stock = await answer(await tried(page, "get_inventory_sku"), 200)
    assert stock["sku"] == "burger"


async def test_the_page_of_the_events_leads_from_a_topic_to_an_event(open_tab: OpenTab, system: System) -> None:
    tab = await open_tab()
    tab.allow("/favicon.ico")
    page = tab.page
    await page.goto(f"{system.gateway_url}/events/")
    await expect(page.get_by_role("heading", level=1)).to_have_text("QuickBite events")
    await page.get_by_role("navigation").get_by_role("link", name="OrderCancelled", exact=True).click()
    await expect(page.get_by_role("heading", name="OrderCancelled", exact=True)).to_be_in_viewport()
    await page.get_by_role("link", name="AsyncAPI document").click()
    await expect(page.locator("body")).to_contain_text('"asyncapi": "3.0.0"')


async def choose(page: Any, service: str) -> None:
    """Choose a service in the list, and wait until its document is shown."""
    await page.get_by_role("combobox").first.select_option(label=service)
    await expect(page.get_by_role("heading", name=f"QuickBite {service}")).to_be_visible()


async def tried(page: Any, operation: str) -> Any:
    """Open an operation, and press "Try it out"."""
    block = page.locator(f"[id$={operation}]")
    await block.locator("button.opblock-summary-control").click()
    await block.get_by_role("button", name="Try it out").click()
    return block


async def answer(block: Any, status: int) -> Any:
    """Send the request as it stands; return the JSON of the answer."""
    await block.get_by_role("button", name="Execute").click()
    live = block.locator(".live-responses-table")
    await expect(live.locator("tr.response td.response-col_status")).to_contain_text(str(status))
    return json.loads(await live.locator(".highlight-code code").first.inner_text())
