"""The pages: the catalogue, an order and its way, live, and the buttons. They work without JavaScript too.

What must stay true: a visitor sees only their own orders: each page first reads the order with the visitor's token.
"""

import time
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler
from aiohttp_sse import EventSourceResponse, sse_response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import BaseModel, Field, ValidationError

from shared.errors import Conflict, Invalid, NotFound, ServiceError, TooMany, Unauthenticated, Unavailable
from shared.process.backoff import wait
from shared.web import pages, problems, static
from shared.web.health import TASKS
from storefront import way
from storefront.memory import Memory
from storefront.outage import Outage
from storefront.shop import Order, Shop, Visit

log = structlog.get_logger()

FOLDER = Path(__file__).parent
ROOT = "/shop"
COOKIE = "visit"
STREAMS = 200
"""So many visitors can watch an order at the same time. The pages of others try again."""
_STREAM_SECONDS = 120.0  # an order ends after 60 s
_LATE_SECONDS = 15.0
"""How long the last events of an order that has ended are awaited."""
_LOOK_SECONDS = 3.0

OUTCOMES = (
    ("burger", 2, "2 burgers", "CONFIRMED", "There are enough, and the card is good."),
    ("lobster", 1, "1 lobster", "CANCELLED out_of_stock", "It is sold out: inventory rejects the order."),
    ("sushi", 100, "100 sushi", "CANCELLED payment_declined", "Too much money: inventory releases the stock again."),
    ("unicorn", 1, "1 unicorn", "CANCELLED unknown_sku", "Orders accepts any sku, inventory does not know this one."),
)


@dataclass
class Backend:
    """What the pages use. Without an `outage`, payments cannot be stopped."""

    shop: Shop
    memory: Memory
    outage: Outage | None = None
    streams: int = 0


class Wish(BaseModel):
    """The fields of a form that orders something: a product of the catalogue, or any sku."""

    product_id: Annotated[int | None, Field(gt=0)] = None
    sku: Annotated[str | None, Field(min_length=1, max_length=64)] = None
    quantity: Annotated[int, Field(gt=0, le=100)]


BACKEND = web.AppKey("BACKEND", Backend)

routes = web.RouteTableDef()


def _environment() -> Environment:
    loader = FileSystemLoader(FOLDER / "templates")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.globals |= {"outcomes": OUTCOMES, "money": way.money}
    return made


TEMPLATES = _environment()


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse forms of other sites, answer errors as pages, and set the headers."""
    try:
        if request.method not in {"GET", "HEAD"}:
            pages.check_origin(request)
        response = await handler(request)
    except ServiceError as error:
        response = _error(problems.of_error(error).status, error.detail)
        if isinstance(error, TooMany):
            response.headers["Retry-After"] = str(error.seconds)
    except web.HTTPException as error:
        response = error if error.status < 400 else _error(error.status, error.reason)
    except Exception:
        log.exception("a page failed", path=request.path)
        response = _error(500, "internal error; the log has the traceback")
    if not response.prepared:
        response.headers.update(pages.HEADERS)
        response.headers.setdefault("Cache-Control", "no-store")
    return response


@routes.get("/")
async def front(request: web.Request) -> web.Response:
    return await _page(request, None)


@routes.get(ROOT + "/orders/{id:[0-9]{1,18}}")
async def show(request: web.Request) -> web.Response:
    """The same page with an order and its way."""
    return await _page(request, await _own(request))


@routes.post(ROOT + "/orders")
async def place(request: web.Request) -> web.Response:
    """Place an order, for a new visitor if there is no valid token yet."""
    shop, wish, token = request.app[BACKEND].shop, await _wish(request), request.cookies.get(COOKIE)
    visit = None
    try:
        order_id = await shop.place(token, wish) if token else None
    except Unauthenticated:
        order_id = None
    if order_id is None:
        visit = await shop.visit()
        order_id = await shop.place(visit.token, wish)
    return _to_order(request, order_id, visit)


@routes.post(ROOT + "/orders/{id:[0-9]{1,18}}/cancel")
async def cancel(request: web.Request) -> web.Response:
    """Cancel an order. If it has ended meanwhile, its page shows how."""
    order_id = int(request.match_info["id"])
    with suppress(Conflict):
        await request.app[BACKEND].shop.cancel(_token(request), order_id)
    return _to_order(request, order_id)


@routes.get(ROOT + "/orders/{id:[0-9]{1,18}}/events")
async def stream(request: web.Request) -> web.StreamResponse:
    """The way of an order, sent as HTML whenever it has changed, until the order has come to its end."""
    backend = request.app[BACKEND]
    try:
        order = await _own(request)
    except Unavailable:
        return _later()
    if backend.streams >= STREAMS:
        return _later()
    backend.streams += 1
    try:
        async with sse_response(request, headers=pages.HEADERS) as response:
            with suppress(ConnectionError, TimeoutError):  # the visitor has left
                await _follow(request, order, response)
    finally:
        backend.streams -= 1
    return response


@routes.post(ROOT + "/outage")
async def stop_payments(request: web.Request) -> web.Response:
    """Stop payments for a while."""
    outage = _outage(request)
    if outage is None:
        raise NotFound("payments can be stopped only in the embedded stack, from the same machine")
    await outage.begin()
    return web.Response(status=303, headers={"Location": "/#outage"})


async def _follow(request: web.Request, order: Order, response: EventSourceResponse) -> None:
    """Send the way until the order is final and its way is over, or its last events do not come."""
    memory, tasks = request.app[BACKEND].memory, request.app[TASKS]
    until, sent = time.monotonic() + _STREAM_SECONDS, ""
    with memory.watching(order.id) as news:
        while response.is_connected() and not tasks.draining and time.monotonic() < until:
            news.clear()
            with suppress(ServiceError):  # then the last answer is shown
                order = await _own(request)
            if (drawn := _way(request, order)) != sent:
                await response.send(drawn)
                sent = drawn
            if order.is_final and way.of(memory.of(order.id)).is_over:
                break
            if order.is_final:
                until = min(until, time.monotonic() + _LATE_SECONDS)
            await wait(news, _LOOK_SECONDS)
    if not tasks.draining:
        await response.send("", event="end")


def _later() -> web.Response:
    """An empty stream. The page connects again after a moment, which it does not do after an error."""
    return web.Response(content_type="text/event-stream")


async def _page(request: web.Request, order: Order | None) -> web.Response:
    products = await request.app[BACKEND].shop.catalogue()
    return _render(
        "page.html",
        products=products,
        ids={product.sku: product.id for product in products},
        order=order,
        drawn=_way(request, order) if order else "",
        outage=_outage(request),
        now=int(time.time()),
    )


def _way(request: web.Request, order: Order) -> str:
    backend = request.app[BACKEND]
    is_stopped = backend.outage is not None and backend.outage.is_on
    found = way.of(backend.memory.of(order.id))
    return TEMPLATES.get_template("way.html").render(order=order, way=found, is_stopped=is_stopped)


def _render(template: str, status: int = 200, **values: Any) -> web.Response:
    text = TEMPLATES.get_template(template).render(values)
    return web.Response(text=text, status=status, content_type="text/html")


def _error(status: int, detail: str) -> web.Response:
    return _render("error.html", status, detail=detail)


def _to_order(request: web.Request, order_id: int, visit: Visit | None = None) -> web.Response:
    """Show the order, and store the token of a new visitor. A reload does not order again."""
    answer = web.Response(status=303, headers={"Location": f"{ROOT}/orders/{order_id}#order"})
    if visit is not None:
        answer.set_cookie(
            COOKIE,
            visit.token,
            path=ROOT,
            max_age=visit.expires_in,
            httponly=True,
            samesite="Strict",
            secure=pages.is_https(request),
        )
    return answer


async def _wish(request: web.Request) -> dict[str, Any]:
    """What the form asks for. Raises `Invalid`."""
    sent = await pages.form(request)
    try:
        return Wish.model_validate(dict(sent)).model_dump(exclude_none=True)
    except ValidationError:
        raise Invalid("use a button of the page; nothing was ordered") from None


async def _own(request: web.Request) -> Order:
    """The order of the path, if it is the visitor's own. Raises `ServiceError`."""
    return await request.app[BACKEND].shop.order(_token(request), int(request.match_info["id"]))


def _token(request: web.Request) -> str:
    """The visitor's token. Without it, the orders service could trust the storefront. Raises `Unauthenticated`."""
    if token := request.cookies.get(COOKIE):
        return token
    raise Unauthenticated("only the visitor who placed this order can see it")


def _outage(request: web.Request) -> Outage | None:
    """What stops payments, if the visitor is on this machine."""
    with suppress(ValueError):
        if ip_address(pages.address(request)).is_loopback:
            return request.app[BACKEND].outage
    return None


files = static.routes(f"{ROOT}/static/", FOLDER / "static")
