"""What an operator does in the console, in a real browser, with a real shop behind it."""

import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
from aiokafka import AIOKafkaProducer

from tests.acceptance.conftest import System
from tests.acceptance.people import ADMIN_PASSWORD, PASSWORD
from tests.browser.conftest import OpenTab, Tab
from tests.browser.shop import Shop
from tests.builders import order_created, record, with_header

playwright = pytest.importorskip("playwright.async_api", reason="no Playwright: install requirements/dev.txt")
expect = playwright.expect
expect.set_options(timeout=20_000)

pytestmark = pytest.mark.asyncio(loop_scope="module")

SOON = 60_000
"""Milliseconds until the shop and the console must have done something. Usually it takes a fraction of that."""
HOSTILE = (
    "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">\u202eevil\u2066\x1b[31m"
)


async def test_the_page_that_was_asked_for_comes_after_the_login(open_tab: OpenTab) -> None:
    tab = await open_tab()
    await tab.open("/parked")
    await expect(tab.page).to_have_title("Log in · QuickBite console")
    await tab.log_in()
    await expect(tab.page).to_have_url(f"{tab.root}/parked")
    await tab.page.get_by_role("button", name="Log out admin").click()
    await expect(tab.page).to_have_url(f"{tab.root}/login")
    await tab.open("/parked")
    await expect(tab.page).to_have_title("Log in · QuickBite console")


async def test_a_wrong_password_opens_nothing(open_tab: OpenTab) -> None:
    tab = await open_tab()
    tab.allow("status of 401")
    await tab.log_in(password="wrong")
    await expect(tab.page.get_by_role("alert")).to_be_visible()
    await tab.open("/")
    await expect(tab.page).to_have_title("Log in · QuickBite console")


async def test_a_customer_is_refused(open_tab: OpenTab, system: System) -> None:
    name = f"u{uuid4().hex[:20]}"
    async with system.customers(system.gateway_url) as client:
        made = await client.send("POST", "/auth/register", {}, {"username": name, "password": PASSWORD})
        assert made.status == 201, made
    tab = await open_tab()
    tab.allow("status of 403")
    await tab.log_in(name, PASSWORD)
    await expect(tab.page.get_by_role("alert")).to_contain_text("administrator")
    await tab.open("/")
    await expect(tab.page).to_have_title("Log in · QuickBite console")


async def test_an_order_leads_to_its_trace_and_its_log_lines(tab: Tab, the_shop: Shop) -> None:
    order_id = await the_shop.place(note="no onions")
    assert await the_shop.ended(order_id) == "CONFIRMED"
    page = tab.page
    await tab.open(f"/orders/{order_id}")
    await expect(page.get_by_role("heading", level=1)).to_have_text(f"Order {order_id}")
    names = await page.locator("#steps strong").all_inner_texts()
    assert names == ["request accepted", "OrderCreated", "InventoryReserved", "PaymentSucceeded", "OrderConfirmed"]

    trace = page.locator("#traces a")
    await reload_until(page, trace)  # spans are sent once a second
    await trace.click()
    await expect(page.get_by_role("heading", level=1)).to_contain_text("Trace ")
    waterfall = page.locator("#waterfall")
    for span in ("POST /v1/orders", "order", "send orders.events", "process inventory.events", "charge"):
        await reload_until(page, waterfall.get_by_role("rowheader", name=span, exact=True).first)
    await expect(waterfall.locator("rect.error")).to_have_count(0)
    await page.get_by_role("link", name=f"Timeline of {order_id}").click()
    await page.get_by_role("link", name="Log lines", exact=True).first.click()
    await expect(page.get_by_label("Order or key")).to_have_value(str(order_id))


async def test_a_search_finds_an_order_an_event_and_a_trace(tab: Tab, the_shop: Shop) -> None:
    order_id = await the_shop.place()
    assert await the_shop.ended(order_id) == "CONFIRMED"
    page = tab.page
    await tab.open(f"/orders/{order_id}")
    await reload_until(page, page.locator("#traces a"))
    trace_id = await page.locator("#traces a").inner_text()
    created = (await the_shop.admin("orders", f"timeline/{order_id}"))["events"][0]

    async def search(text: str) -> None:
        box = page.get_by_role("searchbox")
        await box.fill(text)
        await box.press("Enter")

    await search(str(order_id))
    await page.get_by_role("link", name=f"Timeline of {order_id}, known to").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text(f"Order {order_id}")
    await search(created["event_id"])
    await page.get_by_role("link", name=f"Timeline of {order_id}, which has this event").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text(f"Order {order_id}")
    await search(trace_id)
    await page.get_by_role("link", name=f"Trace {trace_id} with").click()
    await expect(page.locator("#waterfall")).to_be_visible()


async def test_a_failed_handler_is_seen_repaired_and_over(
    open_tab: OpenTab, session: Any, the_shop: Shop, system: System
) -> None:
    alerts, tab = await open_tab(storage_state=session), await open_tab(storage_state=session)
    await alerts.open("/alerts")
    alert = alerts.page.locator("#firing tr", has_text="orders has parked events")
    await expect(alert).to_have_count(0, timeout=SOON)
    page, form = tab.page, tab.page.locator("#set-orders")
    await tab.open("/flags")
    await form.get_by_label("Event type, for handlers").select_option("PaymentSucceeded")
    await form.get_by_label("Reason").fill("a drill in a browser")
    await form.get_by_role("button", name="Set in orders").click()
    await expect(page.locator("#active tr", has_text="a drill in a browser")).to_be_visible()

    order_id = await the_shop.place()
    await the_shop.parked("orders", key=order_id)
    began = time.monotonic()
    await tab.open("/parked")
    row = page.locator("tr", has=page.get_by_role("link", name=str(order_id), exact=True))
    await expect(row).to_contain_text("stops its key")
    await expect(page.get_by_role("heading", name="orders: PaymentSucceeded")).to_be_visible()
    await expect(alert).to_contain_text("firing", timeout=SOON)  # the page updates itself
    system.measure("alert of a parked key", time.monotonic() - began)
    await tab.open("/flags")
    await page.locator("#active").get_by_role("button", name="of orders").click()
    await expect(page.locator("#none")).to_contain_text("No flag is set")
    await alert.get_by_role("link", name="Runbook").click()
    await expect(alerts.page.get_by_role("heading", level=1)).to_contain_text("key parked")
    await alerts.open("/alerts")
    await expect(alert).to_have_count(1)

    await tab.open("/parked")
    await row.get_by_role("link", name="Replay or drop").click()
    await page.get_by_role("button", name="Dry run").click()
    await expect(page.get_by_role("heading", name="Table orders: 1 updated")).to_be_visible()
    await expect(page.get_by_role("heading", name="Event that it would send: OrderConfirmed")).to_be_visible()
    assert await the_shop.status(order_id) == "PENDING"

    await page.get_by_label("Reason").fill("the flag is over")
    await page.get_by_role("button", name="Replay").click()
    await expect(page.locator("#outcome")).to_contain_text("1 handled", timeout=SOON)
    assert await the_shop.ended(order_id) == "CONFIRMED"
    await expect(alert).to_have_count(0, timeout=SOON)
    await tab.open("/actions")
    await expect(page.locator("#actions tr", has_text="the flag is over")).to_contain_text("accepted as repair")


async def test_a_drop_is_confirmed_by_typing_the_key(tab: Tab, the_shop: Shop) -> None:
    async with the_shop.failing("inventory", "OrderConfirmed"):
        order_id = await the_shop.place()
        parked = await the_shop.parked("inventory", key=order_id)
    page = tab.page
    tab.allow("status of 400")
    await tab.open(f"/parked/inventory/{parked['id']}")
    drop = page.locator("#drop")
    await drop.get_by_label("Reason").fill("a drill")
    await drop.get_by_label(f"Type {order_id} to confirm").fill("something else")
    await drop.get_by_role("button", name="Drop").click()
    await expect(page.get_by_role("alert")).to_contain_text("nothing was done")
    assert (await the_shop.admin("inventory", f"parked/{parked['id']}"))["resolved_at"] is None
    await page.go_back()
    await drop.get_by_label("Reason").fill("a drill")
    await drop.get_by_label(f"Type {order_id} to confirm").fill(str(order_id))
    await drop.get_by_role("button", name="Drop").click()
    await expect(page.locator("#outcome")).to_contain_text("1 dropped", timeout=SOON)
    assert (await the_shop.admin("inventory", f"parked/{parked['id']}"))["resolution"] is not None


async def test_new_log_lines_come_by_themselves_until_they_are_paused(
    open_tab: OpenTab, session: Any, the_shop: Shop
) -> None:
    async def log(word: str) -> None:
        flag = await the_shop.do("payments", "flags", name="fail_handler", type="Nothing", reason=word)
        await the_shop.do("payments", f"flags/{flag['id']}/end")

    def line(of: Tab, word: str) -> Any:
        return of.page.locator("#lines-table tr", has_text=word)

    first, second = f"first-{uuid4().hex}", f"second-{uuid4().hex}"
    tab, other = await open_tab(storage_state=session), await open_tab(storage_state=session)
    for one in (tab, other):
        await one.open("/logs?service=payments&level=warning")
    await log(first)
    await expect(line(tab, first)).to_have_count(1, timeout=SOON)
    await tab.page.get_by_label("Pause new lines").check()
    await log(second)
    await expect(line(other, second)).to_have_count(1, timeout=SOON)
    await tab.page.wait_for_timeout(2_500)  # one turn of its updates
    await expect(line(tab, second)).to_have_count(0)
    await tab.page.get_by_label("Pause new lines").uncheck()
    await expect(line(tab, second)).to_have_count(1, timeout=SOON)


async def test_charts_are_drawn_and_have_their_figures_in_tables(tab: Tab) -> None:
    await tab.open("/charts")
    memory = tab.page.locator("#chart-memory")
    figures = memory.get_by_role("table", name="Memory of each process")
    await reload_until(tab.page, figures)
    await expect(figures).to_contain_text("orders")
    await expect(figures).to_contain_text("MB")
    await expect(memory.locator("canvas")).to_be_visible()
    assert (await memory.locator("canvas").bounding_box() or {"width": 0})["width"] > 300


async def test_the_keyboard_is_enough_and_focus_survives_updates(tab: Tab, the_shop: Shop) -> None:
    order_id = await the_shop.place()
    page = tab.page
    await tab.open("/")
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator("main")).to_be_focused()
    await page.keyboard.press("Tab")
    await expect(page.get_by_label("Pause updates")).to_be_focused()
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("region", name="Promises")).to_be_focused()
    await page.keyboard.press("Tab")
    first = page.locator("#promises a").first
    await expect(first).to_be_focused()
    promise = page.get_by_role("link", name=await first.inner_text())  # another row may come first later
    before = await page.locator("#summary").inner_text()
    await expect(page.locator("#summary")).not_to_have_text(before, timeout=SOON)
    await expect(promise).to_be_focused()
    await page.get_by_role("searchbox").focus()
    await page.keyboard.type(str(order_id))
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("link", name=f"Timeline of {order_id}, known to")).to_be_visible()


async def test_a_hostile_event_of_a_megabyte_is_shown_harmlessly(
    tab: Tab, the_shop: Shop, system: System, tmp_path: Path
) -> None:
    key = f"{uuid4().hex}{HOSTILE}"
    good = with_header(record(order_created()), "ce_type", b"FromTheFuture<b>")
    value = orjson.dumps({"order_id": 1, "note": HOSTILE + "x" * 950_000})
    async with AIOKafkaProducer(**system.kafka.options(), max_request_size=1_000_000) as kafka:
        await kafka.send_and_wait(good.topic, value, key.encode(), partition=0, headers=list(good.headers))
    rows = [await the_shop.parked(service, type="FromTheFuture<b>") for service in ("inventory", "payments")]
    page = tab.page
    for path in (f"/parked/inventory/{rows[0]['id']}", "/parked", "/parked/inventory", "/logs?text=parked"):
        await tab.open(path)
        await expect(page).not_to_have_title("owned")
        assert len(await page.content()) < 1_000_000
        assert await page.locator("main img, main script").count() == 0
    await tab.open(f"/parked/inventory/{rows[0]['id']}")
    await expect(page.locator("main")).to_contain_text("<script>document.title")
    await expect(page.locator("main")).to_contain_text("[U+202E]evil[U+2066]")
    await expect(page.locator("#value")).to_contain_text("characters in all")
    async with page.expect_download() as download:
        await page.get_by_role("link", name="Download the whole value").click()
    await (await download.value).save_as(tmp_path / "value")
    assert (tmp_path / "value").stat().st_size > 950_000
    for service, row in zip(("inventory", "payments"), rows, strict=True):
        await the_shop.treat(service, "drop", row["id"])


async def test_a_form_of_an_ended_session_does_nothing(open_tab: OpenTab, the_shop: Shop) -> None:
    async with the_shop.failing("inventory", "OrderConfirmed"):
        order_id = await the_shop.place()
        parked = await the_shop.parked("inventory", key=order_id)
    tab = await open_tab()
    tab.allow("status of 401", "status of 403")
    await tab.open(f"/parked/inventory/{parked['id']}")
    await tab.log_in()
    await expect(tab.page).to_have_title(f"Parked event {parked['id']} of inventory · QuickBite console")
    context = tab.page.context
    stale, older, page = tab.page, await context.new_page(), await context.new_page()
    await older.goto(stale.url)
    await page.goto(f"{tab.root}/")
    await page.get_by_role("button", name="Log out").click()
    await expect(page).to_have_url(f"{tab.root}/login")

    async def replay(of: Any) -> None:
        await of.locator("#replay").get_by_label("Reason").fill("stale")
        await of.locator("#replay").get_by_role("button").click()
        await expect(of.get_by_role("alert")).to_contain_text("nothing was done", ignore_case=True)

    await replay(stale)
    await page.get_by_label("Name").fill("admin")
    await page.get_by_label("Password").fill(ADMIN_PASSWORD)
    await page.get_by_role("button", name="Log in").click()
    await expect(page).to_have_url(f"{tab.root}/")
    await replay(older)
    assert (await the_shop.admin("inventory", f"parked/{parked['id']}"))["resolved_at"] is None
    await the_shop.treat("inventory", "replay", parked["id"])


async def test_another_site_can_neither_post_nor_frame_the_console(tab: Tab, the_shop: Shop) -> None:
    evil = "http://evil.example/"
    form = f'<form method="post" action="{tab.root}/logout"><button>win</button></form>'
    frame = f'<iframe src="{tab.root}/" width="500" height="500"></iframe>'

    async def serve(route: Any) -> None:
        await route.fulfill(body=f"<!doctype html><title>evil</title>{form}{frame}", content_type="text/html")

    page = tab.page
    tab.allow("evil.example", "frame-ancestors", "X-Frame-Options", "status of 40", "chrome-error")
    await page.route(f"{evil}**", serve)
    await page.goto(evil)
    assert len(page.frames) == 2
    assert "QuickBite" not in await page.frames[1].content()
    await page.get_by_role("button", name="win").click()
    await expect(page.get_by_role("alert")).to_contain_text("nothing was done", ignore_case=True)
    await tab.open("/")
    await expect(page.locator("#promises")).to_be_visible()  # the session goes on


async def test_pages_can_be_read_without_scripts(open_tab: OpenTab, session: Any, the_shop: Shop) -> None:
    order_id = await the_shop.place()
    assert await the_shop.ended(order_id) == "CONFIRMED"
    tab = await open_tab(storage_state=session, java_script_enabled=False)
    await tab.open(f"/orders/{order_id}")
    await expect(tab.page.locator("#steps")).to_contain_text("OrderConfirmed")
    await tab.page.locator("#steps summary").first.click()
    await expect(tab.page.locator("#steps details").first).to_contain_text("orders.events")
    await tab.open("/charts")
    await expect(tab.page.locator("#chart-memory table")).to_contain_text("orders")
    await expect(tab.page.get_by_label("Pause updates")).to_be_hidden()


@pytest.mark.timeout(300)  # a drill may take three minutes
async def test_a_drill_kills_payments_and_nothing_is_lost(tab: Tab) -> None:
    page = tab.page
    await tab.open("/drills")
    await page.get_by_label("Reason, then choose a program below").fill("a drill in a browser")
    await page.get_by_role("button", name="kill -9 payments").click()
    await expect(page.locator("#outcome")).to_contain_text("No order was lost or doubled", timeout=200_000)
    await expect(page.locator("#times")).to_contain_text("Ready again after")
    await expect(page.locator("#promise")).to_contain_text("Test:")


async def reload_until(page: Any, wanted: Any, seconds: float = 60.0) -> None:
    """Load the page again until it has what is wanted: spans, log lines and figures come after a moment."""
    until = time.monotonic() + seconds
    while not await wanted.is_visible() and time.monotonic() < until:
        await page.wait_for_timeout(300)
        await page.reload()
    await expect(wanted).to_be_visible()
