"""A stack with a console, and a browser that looks at it.

What must stay true: a page that logs an error, breaks its Content-Security-Policy or throws fails its test.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from tests.acceptance.conftest import System, auth_mint, viewed_system
from tests.acceptance.people import ADMIN_PASSWORD
from tests.browser import chromium, shop
from tests.browser.shop import Shop

if TYPE_CHECKING:
    from playwright.async_api import Browser, ConsoleMessage, Page


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if reason := chromium.missing():
        for item in items:
            if item.path.is_relative_to(Path(__file__).parent):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="module")
def system(run_folder: Path, request: pytest.FixtureRequest) -> System:
    """The stack of all browser tests."""
    system = viewed_system(run_folder, request)
    system.mint = system.mint or asyncio.run(auth_mint(system.database_url))
    return system


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(system: System) -> "AsyncIterator[Browser]":
    async with chromium.launched() as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def the_shop(system: System) -> AsyncIterator[Shop]:
    urls = {name: f"http://127.0.0.1:{port}" for name, port in system.stack.ports.services.items()}
    assert system.mint is not None
    async with shop.opened(urls, system.mint.admin) as made:
        yield made


WATCHED: list["Tab"] = []
"""The tabs of the test that runs."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown() -> None:
    """After a test nobody listens: the stack may stop while its pages still ask for news."""
    for tab in WATCHED:
        tab.is_over = True
    WATCHED.clear()


@dataclass
class Tab:
    """A page of a browser with cookies of its own. `allow` what a test provokes on purpose."""

    page: "Page"
    root: str
    complaints: list[str] = field(default_factory=list)
    allowed: list[str] = field(default_factory=list)
    is_over: bool = False

    def allow(self, *parts: str) -> None:
        self.allowed.extend(parts)

    def watch(self, page: "Page") -> None:
        page.on("console", self._on_message)
        page.on("pageerror", lambda error: self._complain(f"thrown at {page.url}: {error}"))
        WATCHED.append(self)

    async def open(self, path: str = "/") -> None:
        await self.page.goto(self.root + path)

    async def log_in(self, username: str = "admin", password: str = ADMIN_PASSWORD) -> None:
        if not self.page.url.startswith(self.root):
            await self.open("/login")
        await self.page.get_by_label("Name").fill(username)
        await self.page.get_by_label("Password").fill(password)
        await self.page.get_by_role("button", name="Log in").click()

    def refused(self) -> list[str]:
        """The complaints that nothing allows."""
        return [one for one in self.complaints if not any(part in one for part in self.allowed)]

    def _on_message(self, message: "ConsoleMessage") -> None:
        if message.type in {"error", "warning"}:
            self._complain(f"{message.type} at {message.location.get('url')}: {message.text}")

    def _complain(self, complaint: str) -> None:
        if not self.is_over:
            self.complaints.append(complaint)


OpenTab = Callable[..., Awaitable[Tab]]


@pytest_asyncio.fixture(loop_scope="module")
async def open_tab(browser: "Browser", system: System) -> AsyncIterator[OpenTab]:
    """A function that opens a tab in a new context, for the pages below `root`.

    The options are Playwright's, for example `color_scheme`.
    """
    made: list[Tab] = []
    async with AsyncExitStack() as stack:

        async def opened(root: str = "/console", **options: Any) -> Tab:
            context = await stack.enter_async_context(await browser.new_context(**options))
            context.set_default_timeout(30_000)
            tab = Tab(await context.new_page(), f"{system.gateway_url}{root}")
            tab.watch(tab.page)
            made.append(tab)
            return tab

        yield opened
    complaints = [one for tab in made for one in tab.refused()]
    assert not complaints, complaints


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def session(browser: "Browser", system: System) -> Any:
    """The cookies of an administrator who has logged in."""
    async with await browser.new_context() as context:
        tab = Tab(await context.new_page(), f"{system.gateway_url}/console")
        await tab.log_in()
        await tab.page.wait_for_url(f"{tab.root}/")
        return await context.storage_state()


@pytest_asyncio.fixture(loop_scope="module")
async def tab(open_tab: OpenTab, session: Any) -> Tab:
    """A tab of an administrator."""
    return await open_tab(storage_state=session)
