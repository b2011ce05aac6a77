"""`make screenshots` takes the pictures of README.md and docs/seeing.md, from a stack of its own.

What must stay true: what the pictures show has happened in that stack; nothing in them is drawn or made up.
"""

import asyncio
import base64
import logging
import os
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from local.console import Viewers
from local.stack import HOME, Ports, Stack
from tests.browser import chromium, shop
from tests.browser.shop import Shop

if TYPE_CHECKING:
    from playwright.async_api import Page

FOLDER = Path(__file__).parents[2] / "docs" / "seeing"
WIDTH, SHOP_WIDTH = 1200, 800
MOST_BYTES = 150_000
MOST_PIXELS = 1200
PASSWORD = "password"


@contextmanager
def running() -> Iterator[Stack]:
    """A new stack, which is deleted at the end."""
    os.environ["ORDER_DEADLINE_SECONDS"] = "3600"
    stack = Stack("screenshots", HOME / "screenshots", Ports.free(), admin_password=PASSWORD, viewers=Viewers())
    stack.reset()
    try:
        stack.up()
        yield stack
    finally:
        stack.reset()


@asynccontextmanager
async def opened(urls: Mapping[str, str]) -> AsyncIterator[Shop]:
    login = {"username": "admin", "password": PASSWORD}
    async with aiohttp.ClientSession() as http, http.post(f"{urls['auth']}/auth/login", json=login) as answer:
        token = (await answer.json())["token"]
    async with shop.opened(urls, {"Authorization": f"Bearer {token}"}) as made:
        yield made


class Camera:
    """Takes pictures of the pages at `root`."""

    def __init__(self, page: "Page", root: str) -> None:
        self.page, self._root = page, root

    async def log_in(self) -> None:
        await self.open("/login")
        await self.page.get_by_label("Name").fill("admin")
        await self.page.get_by_label("Password").fill(PASSWORD)
        await self.page.get_by_role("button", name="Log in").click()
        await self.page.locator("#promises").wait_for()

    async def open(self, path: str) -> None:
        await self.page.goto(self._root + path)

    async def until(self, wanted: Any) -> None:
        """Load the page again until it shows what is wanted."""
        while not await wanted.is_visible():
            await self.page.wait_for_timeout(500)
            await self.page.reload()

    async def take(self, name: str, last: Any) -> None:
        """Store a picture of the page, from its top to the end of the element `last`.

        It is WebP, a third of the size of PNG. Playwright does not offer it, but the browser does.
        """
        box = await last.bounding_box()
        height = min(MOST_PIXELS, round(box["y"] + box["height"]) + 16)
        width = self.page.viewport_size["width"] if self.page.viewport_size else WIDTH
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        wanted = {"format": "webp", "quality": 85, "clip": clip, "captureBeyondViewport": True}
        browser = await self.page.context.new_cdp_session(self.page)
        picture = base64.b64decode((await browser.send("Page.captureScreenshot", wanted))["data"])
        file = FOLDER / f"{name}.webp"
        file.write_bytes(picture)
        print(f"{file.name}: {len(picture) / 1000:.0f} kB")  # noqa: T201
        if len(picture) > MOST_BYTES:
            sys.exit(f"{file.name} is larger than {MOST_BYTES / 1000:.0f} kB")


async def take_shop(camera: Camera) -> None:
    """An order that is CONFIRMED, with its way. It is the second one: the first order of a stack is slower."""
    for _ in range(2):
        await camera.open("/")
        await camera.page.get_by_role("button", name="Order 2 burgers").click()
        await camera.page.locator("#step-OrderConfirmed").wait_for()
    await camera.page.evaluate("scrollTo(0, 0)")
    await camera.take("shop", camera.page.locator("#order"))


async def take_all(camera: Camera, the_shop: Shop) -> None:
    page = camera.page
    ended = 0
    for quantity in (1, 2, 3, 1, 2, 3, 1, 2):  # the first orders of a stack are slower
        ended = await the_shop.place(quantity)
        await the_shop.ended(ended)
    async with the_shop.failing("orders", "PaymentSucceeded", reason="a drill"):
        blocked = await the_shop.place(quantity=2, note="no onions")
        parked = await the_shop.parked("orders", key=blocked)
    await camera.log_in()

    await camera.open(f"/orders/{ended}")
    await camera.until(page.locator("#traces a"))
    trace_id = await page.locator("#traces a").inner_text()
    await camera.open(f"/traces/{trace_id}")
    await camera.until(page.get_by_role("rowheader", name="process orders.events").nth(1))  # it ends in inventory
    await camera.take("trace", page.locator("#waterfall"))
    await camera.open(f"/orders/{ended}")
    await camera.take("timeline", page.locator("#steps"))

    await camera.open("/alerts")
    await camera.until(page.locator("#firing tr", has_text="KeyParked").get_by_text("firing"))
    await camera.take("alerts", page.locator("#rules tr").nth(4))
    await camera.open("/")
    await camera.take("health", page.locator("#firing"))
    await camera.open("/parked")
    await camera.take("parked", page.locator("main section").last)
    await camera.open(f"/logs?key={blocked}")
    await page.locator("#lines-table summary").first.click()
    await camera.take("logs", page.locator("#lines-table"))

    await camera.open(f"/parked/orders/{parked['id']}")
    await page.get_by_role("button", name="Dry run").click()
    await camera.take("dry-run", page.locator("main pre").last)


async def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with running() as stack:
        urls = {name: f"http://127.0.0.1:{port}" for name, port in stack.ports.services.items()}
        async with opened(urls) as the_shop, chromium.launched() as browser:
            gateway = f"http://127.0.0.1:{stack.ports.gateway}"
            page = await browser.new_page(viewport={"width": WIDTH, "height": 800}, color_scheme="light")
            await take_all(Camera(page, f"{gateway}/console"), the_shop)
            page = await browser.new_page(viewport={"width": SHOP_WIDTH, "height": 800}, color_scheme="light")
            await take_shop(Camera(page, gateway))


if __name__ == "__main__":
    if reason := chromium.missing():
        sys.exit(reason)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    asyncio.run(main())
