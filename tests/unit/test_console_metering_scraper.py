"""The scraper: it reads real services, and one that does not answer costs only its own samples."""

import asyncio
import gzip
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from console.metering import scraper
from console.metering.scraper import Scraper
from console.metering.series import Series
from shared import metrics
from shared.web import application
from tests.builders import eventually

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Served = Callable[[Handler], Awaitable[str]]


@pytest.fixture
def served(aiohttp_server: Any) -> Served:
    """Start a server that answers /metrics with a handler. Returns its address."""

    async def start(handler: Handler) -> str:
        app = web.Application()
        app.router.add_get("/metrics", handler)
        return str((await aiohttp_server(app)).make_url("/"))

    return start


async def good(_: web.Request) -> web.Response:
    return web.Response(text='good{a="b"} 1\n')


async def scrape(series: Series, **targets: str) -> Scraper:
    made = Scraper(targets, series)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=scraper.LIMIT_SECONDS)) as session:
        await made.run_once(session)
    return made


def latest(series: Series, expression: str) -> dict[str, float]:
    times = [clock.times[-1] for clock in series._clocks.values()]
    return {one.labels["service"]: one.value for one in series.query(expression, max(times))}


async def test_the_metrics_of_a_real_service_are_stored_with_its_name(aiohttp_server: Any) -> None:
    metrics.PARKED.set(3)
    server = await aiohttp_server(application.create())
    series = Series()
    await scrape(series, payments=str(server.make_url("/")))
    metrics.PARKED.set(0)
    assert latest(series, "up") == {"payments": 1, "console": 1}
    assert latest(series, "parked_events")["payments"] == 3
    assert not series.refused


async def test_the_scraper_reads_its_own_process_too() -> None:
    series = Series()
    await scrape(series)
    assert latest(series, "process_resident_memory_bytes")["console"] > 1e6


async def hangs(_: web.Request) -> web.Response:
    await asyncio.sleep(60)
    return web.Response()


async def fails(_: web.Request) -> web.Response:
    return web.Response(status=500, text="good 1")


async def redirects(_: web.Request) -> web.Response:
    raise web.HTTPFound("/elsewhere")


async def sends_no_text(_: web.Request) -> web.Response:
    return web.Response(body=b"good \xff\n")


async def sends_too_much(_: web.Request) -> web.Response:
    return web.Response(body=gzip.compress(b"x" * 50_000_000), headers={"Content-Encoding": "gzip"})


@pytest.mark.parametrize("handler", [hangs, fails, redirects, sends_no_text, sends_too_much])
async def test_a_service_that_does_not_answer_is_down_and_the_others_are_not(served: Served, handler: Handler) -> None:
    series = Series()
    found = await scrape(series, bad=await served(handler), fine=await served(good), gone="http://127.0.0.1:1")
    assert latest(series, "up") == {"bad": 0, "gone": 0, "fine": 1, "console": 1}
    assert latest(series, "good") == {"fine": 1}
    assert found.down.keys() == {"bad", "gone"}


async def test_the_series_of_a_service_end_when_it_does_not_answer(served: Served) -> None:
    status = 200

    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=status, text="good 1\n")

    series, address = Series(), await served(handler)
    await scrape(series, one=address)
    assert latest(series, "good") == {"one": 1}
    status = 503
    await scrape(series, one=address)
    assert latest(series, "good") == {}
    assert latest(series, "up")["one"] == 0


async def test_it_scrapes_until_it_is_stopped(served: Served) -> None:
    series, stop, beats = Series(), asyncio.Event(), list[int]()
    running = asyncio.create_task(Scraper({"one": await served(good)}, series).run(stop, lambda: beats.append(1)))

    async def scraped() -> bool:
        return bool(series.count)

    await eventually(scraped)
    stop.set()
    await running
    assert beats
