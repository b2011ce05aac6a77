"""The storefront with the real services, Postgres and Kafka: its pages, its forms, and the live way of an order."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from html import unescape
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import ClientResponse, CookieJar
from aiohttp.test_utils import TestClient, TestServer

from contracts import topics
from shared.delivery.kafka import Brokers
from shared.web import pages as shared_pages
from storefront import app, pages
from storefront.config import Settings
from tests.builders import eventually
from tests.conftest import PARTITIONS, Database, StartBroker, copied_from
from tests.service.conftest import NO_KAFKA, Client, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")

ALL_PARTS = ["api", "relay", "consumer", "worker"]
Place = tuple[Settings, Brokers]

BURGERS = {"product_id": "1", "quantity": "2"}
STEP = re.compile(r'id="step-(\w+)"')


def words(page: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", page)).split())


def base(client: Client) -> str:
    return str(client.make_url("/")).rstrip("/")


@dataclass
class Visitor:
    """A browser of one visitor."""

    client: Client

    async def get(self, path: str, status: int = 200) -> str:
        answer = await self.client.get(path, allow_redirects=False)
        text = await answer.text()
        assert answer.status == status, text
        return text

    async def post(self, path: str, *, origin: str | None = "", **form: str) -> ClientResponse:
        headers = {} if origin is None else {"Origin": origin or base(self.client)}
        return await self.client.post(path, data=form, headers=headers, allow_redirects=False)

    async def order(self, **form: str) -> str:
        """Order with a form; return the path of the order's page."""
        answer = await self.post("/shop/orders", **form)
        assert answer.status == 303, await answer.text()
        path, _, fragment = answer.headers["Location"].partition("#")
        assert fragment == "order"
        return path

    async def ended(self, path: str) -> str:
        """The page of an order, as soon as it has its whole way."""
        await self.live(path)
        return await self.get(path)

    async def live(self, path: str) -> list[str]:
        """The messages of an order's stream, until it ends."""
        async with asyncio.timeout(30), self.client.get(f"{path}/events") as answer:
            assert (answer.status, answer.content_type) == (200, "text/event-stream")
            assert answer.headers["Content-Security-Policy"] == shared_pages.HEADERS["Content-Security-Policy"]
            text = (await answer.text()).replace("\r\n", "\n")
        *messages, last = [one for one in text.split("\n\n") if one and not one.startswith(":")]
        assert last == "event: end\ndata: "
        return messages


@asynccontextmanager
async def services(database: Database, kafka: str, *names: str) -> AsyncIterator[Place]:
    """auth, products, orders, and the services `names`: where a storefront finds them, and Kafka."""
    async with AsyncExitStack() as stack:

        async def start(name: str, **changes: Any) -> str:
            return base(await stack.enter_async_context(serving(name, database.url_for(name), **changes)))

        auth = await start("auth", visitors=True)
        common: dict[str, Any] = {"auth_jwks_url": f"{auth}/auth/jwks.json"}
        products = await start("products", **common)
        common |= {"only": ALL_PARTS, "kafka_bootstrap_servers": kafka}
        for name in names:
            provider = {"provider_database_url": database.url_for("provider")}
            await start(name, **common, **(provider if name == "payments" else {}))
        orders = await start("orders", **common)
        urls = {"orders_url": orders, "products_url": products, "auth_url": auth}
        yield Settings(**urls), Brokers(kafka)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(template: Database, kafka: str) -> AsyncIterator[Place]:
    """All services, for the whole module."""
    await topics.create(kafka, PARTITIONS, 1)
    async with copied_from(template) as database, services(database, kafka, "inventory", "payments") as made:
        yield made


@asynccontextmanager
async def opened(place: Place) -> AsyncIterator[Visitor]:
    """A visitor of a storefront with these settings."""
    server = TestServer(app.create_app(*place))
    async with TestClient(server, cookie_jar=CookieJar(unsafe=True)) as client:
        yield Visitor(client)


async def ready(visitor: Visitor) -> None:
    async def is_ready() -> bool:
        async with visitor.client.get("/readyz") as answer:
            return answer.status == 200

    await eventually(is_ready)


@pytest_asyncio.fixture(loop_scope="module")
async def visitor(place: Place) -> AsyncIterator[Visitor]:
    async with opened(place) as made:
        await ready(made)
        yield made


# Ordering and watching


async def test_one_form_leads_to_a_confirmed_order_and_its_whole_way(visitor: Visitor) -> None:
    front = await visitor.get("/")
    assert "Burger" in front
    assert 'name="product_id" value="1"' in front
    path = await visitor.order(**BURGERS)
    messages = await visitor.live(path)
    steps = STEP.findall(messages[-1])
    assert steps == ["OrderCreated", "InventoryReserved", "PaymentSucceeded", "OrderConfirmed"]
    shown = words(messages[-1].replace("data: ", ""))
    assert "CONFIRMED" in shown
    assert "payments charged the customer: 17.00 EUR" in shown
    assert re.search(
        r"PaymentSucceeded on payments.events\[\d\] at \d+, written by settle in payments/service.py", shown
    )
    page = await visitor.get(path)
    assert STEP.findall(page) == steps
    assert "cancel" not in page[page.index('id="way"') : page.index("</section>")]


@pytest.mark.parametrize(
    ("form", "end", "last"),
    [
        ({"product_id": "5", "quantity": "1"}, "CANCELLED out_of_stock", "OrderCancelled"),
        ({"product_id": "4", "quantity": "100"}, "CANCELLED payment_declined", "InventoryReleased"),
        ({"sku": "unicorn", "quantity": "1"}, "CANCELLED unknown_sku", "OrderCancelled"),
    ],
)
async def test_the_other_outcomes_have_their_reason_and_their_last_event(
    visitor: Visitor, form: dict[str, str], end: str, last: str
) -> None:
    path = await visitor.order(**form)
    messages = await visitor.live(path)
    assert end in words(messages[-1].replace("data: ", ""))
    assert STEP.findall(messages[-1])[-1] == last


async def test_each_outcome_has_its_form(visitor: Visitor) -> None:
    page = await visitor.get("/")
    for sku, quantity, label, end, _ in pages.OUTCOMES:
        assert f"<button>Order {label}</button>" in page
        assert end in page
        assert (sku == "unicorn") == (f'name="sku" value="{sku}"' in page)
        assert f'name="quantity" value="{quantity}"' in page


async def test_an_order_is_seen_by_its_own_visitor_only(visitor: Visitor, place: Place) -> None:
    path = await visitor.order(**BURGERS)
    await visitor.get(path)
    async with opened(place) as other:
        assert "only the visitor" in await other.get(path, 401)
        await other.order(**BURGERS)
        for hidden in (path, f"{path}/events"):
            assert "not found" in await other.get(hidden, 404)
        assert (await other.post(f"{path}/cancel")).status == 404


async def test_a_visitor_keeps_one_token_which_no_script_can_read(visitor: Visitor) -> None:
    answer = await visitor.post("/shop/orders", **BURGERS)
    cookie = answer.cookies[pages.COOKIE]
    assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Strict", "/shop")
    again = await visitor.post("/shop/orders", **BURGERS)
    assert not again.cookies
    await visitor.get(again.headers["Location"].partition("#")[0])


async def test_a_token_that_is_not_valid_any_more_is_replaced(visitor: Visitor) -> None:
    visitor.client.session.cookie_jar.update_cookies({pages.COOKIE: "expired"}, visitor.client.make_url("/shop/"))
    assert "token" in await visitor.get("/shop/orders/1", 401)
    await visitor.get(await visitor.order(**BURGERS))


async def test_an_order_that_is_not_in_memory_is_shown_without_its_way(
    visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await visitor.order(**BURGERS)
    await visitor.ended(path)
    visitor.client.app[pages.BACKEND].memory._of.clear()
    monkeypatch.setattr(pages, "_LATE_SECONDS", 0.0)
    page = words(await visitor.get(path))
    assert "CONFIRMED" in page
    assert f"make timeline ORDER={path.rpartition('/')[2]}" in page
    assert "not in memory" in (await visitor.live(path))[-1]


async def test_without_payments_an_order_waits_and_can_be_cancelled(
    template: Database, start_broker: StartBroker
) -> None:
    kafka = start_broker("kafka-without-payments").address
    await topics.create(kafka, PARTITIONS, 1)
    async with (
        copied_from(template) as database,
        services(database, kafka, "inventory") as place,
        opened(place) as visitor,
    ):
        await ready(visitor)
        path = await visitor.order(**BURGERS)

        async def waiting() -> str | None:
            page = await visitor.get(path)
            return page if "awaited-payments" in page else None

        page = await eventually(waiting)
        assert "payments has to charge the customer" in words(page)
        assert '<meta http-equiv="refresh"' in page
        following = asyncio.create_task(visitor.live(path))
        answer = await visitor.post(f"{path}/cancel")
        assert (answer.status, answer.headers["Location"]) == (303, f"{path}#order")
        last = (await following)[-1]
        assert "CANCELLED cancelled_by_customer" in words(last.replace("data: ", ""))
        assert STEP.findall(last)[-2:] == ["OrderCancelled", "InventoryReleased"]


async def test_a_cancellation_that_comes_too_late_shows_how_the_order_ended(visitor: Visitor) -> None:
    path = await visitor.order(**BURGERS)
    page = await visitor.ended(path)
    assert "/cancel" not in page
    assert "http-equiv" not in page
    answer = await visitor.post(f"{path}/cancel")
    assert (answer.status, answer.headers["Location"]) == (303, f"{path}#order")


# Forms, errors, bounds


@pytest.mark.parametrize("origin", [None, "null", "http://evil.example"])
async def test_a_form_of_another_site_orders_nothing(visitor: Visitor, origin: str | None) -> None:
    for path in ("/shop/orders", "/shop/orders/1/cancel", "/shop/outage"):
        answer = await visitor.post(path, origin=origin, **BURGERS)
        assert answer.status == 403
        assert "nothing was done" in await answer.text()


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"product_id": "1"},
        {"product_id": "0", "quantity": "1"},
        {"product_id": "x", "quantity": "1"},
        {"product_id": "1", "quantity": "101"},
        {"sku": "", "quantity": "1"},
        {"sku": "x" * 65, "quantity": "1"},
    ],
)
async def test_a_form_with_odd_fields_orders_nothing(visitor: Visitor, form: dict[str, str]) -> None:
    answer = await visitor.post("/shop/orders", **form)
    assert answer.status == 400
    assert "nothing was ordered" in await answer.text()


async def test_hostile_text_is_shown_as_text(visitor: Visitor) -> None:
    path = await visitor.order(sku="<script>alert(1)</script>", quantity="1")
    assert "<script>alert" not in await visitor.ended(path)


async def test_every_page_has_the_headers_of_pages(visitor: Visitor) -> None:
    for path in ("/", "/shop/orders/1", "/shop/none", "/shop/static/storefront.css"):
        answer = await visitor.client.get(path)
        assert {name: answer.headers[name] for name in shared_pages.HEADERS} == shared_pages.HEADERS
    assert (await visitor.client.get("/shop/static/SUMS")).status == 404


async def test_payments_cannot_be_stopped_without_supervisord(visitor: Visitor) -> None:
    assert "/shop/outage" not in await visitor.get("/")
    assert (await visitor.post("/shop/outage")).status == 404


async def test_only_so_many_visitors_watch_at_the_same_time(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    path = await visitor.order(**BURGERS)
    await visitor.ended(path)
    monkeypatch.setattr(pages, "STREAMS", 0)
    await is_asked_to_come_again(visitor, path)
    monkeypatch.undo()
    await visitor.live(path)
    assert visitor.client.app[pages.BACKEND].streams == 0


async def is_asked_to_come_again(visitor: Visitor, path: str) -> None:
    async with visitor.client.get(f"{path}/events") as answer:
        assert (answer.status, answer.content_type, await answer.text()) == (200, "text/event-stream", "")


async def test_a_page_connects_again_when_orders_did_not_answer(visitor: Visitor) -> None:
    path = await visitor.order(**BURGERS)
    shop = visitor.client.app[pages.BACKEND].shop
    known, shop._orders = shop._orders, "http://127.0.0.1:9"
    await is_asked_to_come_again(visitor, path)
    shop._orders = known
    await visitor.live(path)


async def test_without_the_services_the_page_is_readable_and_an_order_is_refused_in_one_sentence() -> None:
    nowhere = dict.fromkeys(("orders_url", "products_url", "auth_url"), "http://127.0.0.1:9")
    async with opened((Settings(**nowhere), Brokers(NO_KAFKA))) as visitor:
        assert "catalogue cannot be read" in await visitor.get("/")
        answer = await visitor.post("/shop/orders", **BURGERS)
        assert answer.status == 503
        assert "try again" in await answer.text()
        assert (await visitor.client.get("/readyz")).status == 503


async def test_the_last_catalogue_is_shown_while_products_does_not_answer(visitor: Visitor) -> None:
    before = await visitor.get("/")
    visitor.client.app[pages.BACKEND].shop._products = "http://127.0.0.1:9"
    assert await visitor.get("/") == before
