"""HTTP in: the tutorial's API. Parse, call one use case, answer."""

import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web as aio

from orders import service, store
from orders.domain import Order, Request, Status
from orders.service import Placed
from shared import db, errors, web

PLACE: aio.AppKey[Callable[[Request, float], Awaitable[Placed]]] = aio.AppKey("PLACE")
UNDER_WAY: aio.AppKey["Counter[tuple[str, str | None]]"] = aio.AppKey("UNDER_WAY")
READ: aio.AppKey[Callable[[int, float], Awaitable[Order]]] = aio.AppKey("READ")
WAIT: aio.AppKey[Callable[[int, float], Awaitable[Order | None]]] = aio.AppKey("WAIT")
COMMITTED: aio.AppKey[Callable[[], None]] = aio.AppKey("COMMITTED")

_KEY = re.compile(r"[\x20-\x7e]{1,255}", re.ASCII)
_SECONDS = re.compile(r"[0-9]{1,2}(\.[0-9]{1,3})?", re.ASCII)
_LIMITS = {"userId": 128, "sku": 128, "note": 2000}
_MAX_QUANTITY = 10_000
_MAX_WAIT_SECONDS = 30
_FILTERS = {"userId": "user_id", "status": "status", "sku": "sku"}

routes = aio.RouteTableDef()


@routes.post("/v1/orders")
async def create(request: aio.Request) -> aio.Response:
    """Accept an order; it is durable, with its event, when the answer is sent."""
    wanted = _parse(await web.body(request))
    wanted.idempotency_key = _key(request)
    wanted.trace = web.trace_of(request)
    placed = await _place(request, wanted)
    headers = {"Location": f"/v1/orders/{placed.order_id}"}
    if placed.replayed:
        headers["Idempotent-Replayed"] = "true"
    return web.json({"id": placed.order_id}, 202, **headers)


@routes.get("/v1/orders/{id}")
async def get(request: aio.Request) -> aio.Response:
    """Show an order, at once or, with `?wait=`, as soon as it is final."""
    order_id = web.path_id(request)
    seconds = _wait(request)
    until = time.monotonic() + seconds + web.seconds_left(request)
    order = await _read(request, order_id, web.seconds_left(request))
    if seconds and order.status is Status.PENDING:
        final = await request.app[WAIT](order_id, seconds)
        order = final or await _read(request, order_id, until - time.monotonic())
    return web.json(_shown(order))


@routes.get("/v1/orders")
@web.bounded
async def index(request: aio.Request) -> aio.Response:
    """List orders, newest first, a page at a time."""
    filters = {column: _filter(request, name) for name, column in _FILTERS.items() if name in request.query}
    if filters.get("status", Status.PENDING) not in set(Status):
        raise errors.Invalid("status must be PENDING, CONFIRMED or CANCELLED")
    limit = web.query_integer(request, "limit", default=20, most=100)
    before = web.query_integer(request, "cursor", default=2**63 - 1, most=2**63 - 1)
    async with request.app[web.POOL].acquire(timeout=db.CONNECT_SECONDS) as conn:
        orders = await store.page(conn, filters, before, limit + 1)
    more = len(orders) > limit
    shown = [_shown(order) for order in orders[:limit]]
    return web.json({"orders": shown, "next_cursor": str(shown[-1]["id"]) if more else None})


@routes.post("/v1/orders/{id}/cancel")
@web.bounded
async def cancel(request: aio.Request) -> aio.Response:
    """Cancel an order that is not final."""
    order_id = web.path_id(request)
    async with db.transaction(request.app[web.POOL]) as conn:
        order = await service.cancel(conn, order_id)
    request.app[COMMITTED]()
    return web.json(_shown(order), 202)


async def _place(request: aio.Request, wanted: Request) -> Placed:
    """Place the order, and if that takes too long, say whether an earlier request with the same key is the reason."""
    key = (wanted.user_id, wanted.idempotency_key)
    under_way = request.app[UNDER_WAY]
    doubled = wanted.idempotency_key is not None and under_way[key] > 0
    under_way[key] += 1
    try:
        return await request.app[PLACE](wanted, web.seconds_left(request))
    except errors.OutcomeUnknown:
        if doubled:
            raise errors.Conflict("the first request with this Idempotency-Key is still under way") from None
        raise
    finally:
        under_way[key] -= 1
        if not under_way[key]:
            del under_way[key]


async def _read(request: aio.Request, order_id: int, seconds: float) -> Order:
    try:
        return await request.app[READ](order_id, seconds)
    except errors.Unavailable:
        raise errors.Unavailable("db error") from None  # reading has no outcome that could be unknown


def _parse(data: dict[str, Any]) -> Request:
    user_id, sku = web.text(data.get("userId")).strip(), web.text(data.get("sku")).strip()
    quantity, note = web.integer(data.get("quantity")), web.text(data.get("note"))
    if not user_id:
        raise errors.Invalid("userId is required")
    if not sku:
        raise errors.Invalid("sku is required")
    if quantity <= 0:
        raise errors.Invalid("quantity must be > 0")
    if quantity > _MAX_QUANTITY:
        raise errors.Invalid(f"quantity must be at most {_MAX_QUANTITY}")
    for name, value in (("userId", user_id), ("sku", sku), ("note", note)):
        if len(value) > _LIMITS[name]:
            raise errors.Invalid(f"{name} must have at most {_LIMITS[name]} characters")
    return Request(user_id, sku, quantity, note)


def _key(request: aio.Request) -> str | None:
    keys = request.headers.getall("Idempotency-Key", [])
    if not keys:
        return None
    if len(keys) > 1 or not _KEY.fullmatch(keys[0]):
        raise errors.Invalid("Idempotency-Key must be 1 to 255 printable ASCII characters, once")
    return keys[0]


def _wait(request: aio.Request) -> float:
    raw = request.query.get("wait", "0")
    if not _SECONDS.fullmatch(raw) or float(raw) > _MAX_WAIT_SECONDS:
        raise errors.Invalid(f"wait must be a number of seconds from 0 to {_MAX_WAIT_SECONDS}")
    return float(raw)


def _filter(request: aio.Request, name: str) -> str:
    value = request.query[name]
    if "\x00" in value:
        raise errors.Invalid(f"{name} must not contain NUL")
    return value


def _shown(order: Order) -> dict[str, Any]:
    shown = {
        "id": order.id,
        "userId": order.user_id,
        "note": order.note,
        "status": order.status,
        "sku": order.sku,
        "quantity": order.quantity,
        "createdAt": order.created_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    return shown | {"reason": order.reason} if order.status is Status.CANCELLED else shown
