"""Debian's Chromium, driven by Playwright. Where one of them is missing, browser tests are skipped."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.async_api import Browser

HOW = "no browser: run `apt install chromium`, or set CHROMIUM to the path of one"
_NAMES = ("chromium", "chromium-browser", "google-chrome")


def executable() -> str | None:
    """The path of the browser, or None. `CHROMIUM` in the environment comes first."""
    chosen = os.environ.get("CHROMIUM")
    return shutil.which(chosen) if chosen else next((found for name in _NAMES if (found := shutil.which(name))), None)


def missing() -> str:
    """Why no browser can be driven and what to do, or an empty text."""
    if find_spec("playwright") is None:
        return "no Playwright: install requirements/dev.txt"
    return "" if executable() else HOW


@asynccontextmanager
async def launched() -> "AsyncIterator[Browser]":
    """Yield a browser without a window."""
    from playwright.async_api import async_playwright  # noqa: PLC0415  # it may be missing

    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's sandbox does not work for root
    async with async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=executable(), args=sandbox)
        try:
            yield browser
        finally:
            await browser.close()
