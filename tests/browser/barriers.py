"""What keeps people from using a page: axe-core finds it, and whether a page is too wide."""

from axe_playwright_python.async_playwright import Axe

from tests.browser.conftest import Tab

WIDTHS = (360, 1440)
SERIOUS = {"serious", "critical"}


async def barriers(tab: Tab, name: str) -> list[str]:
    """What is wrong with the page, at each width."""
    wrong = []
    for width in WIDTHS:
        await tab.page.set_viewport_size({"width": width, "height": 900})
        over = await tab.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        if over > 0:
            wrong.append(f"{name} at {width}: {over} pixels too wide")
        wrong += [
            f"{name} at {width}: {one['id']} ({one['impact']}): {one['nodes'][0]['html'][:200]}"
            for one in (await Axe().run(tab.page)).response["violations"]
            if one["impact"] in SERIOUS
        ]
    return wrong
