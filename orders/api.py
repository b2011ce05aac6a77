"""HTTP in: the tutorial's API is at /v1/orders, the shop's API is at /orders/.

Each route parses, calls one use case and answers.

What must stay true: requests and answers of /v1/orders do not change. They have camelCase names and whole seconds, and
ignore unknown fields. The shop's API has the style of the other services.
"""

import time
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from aiohttp import web
from pydantic import BaseModel, Field, PlainSerializer, ValidationInfo, WithJsonSchema, model_validator

from contracts.orders import CancelReason
from orders import domain, service, store
from orders.catalogue import Skus
from orders.domain import Request, Status
from orders.placement import Placement
from orders.pressure import Pressure
from orders.waiters import Waiters
from shared import errors
from shared.postgres import GroupCommit
from shared.web import database, deadline, requests, responses
from shared.web.admission import ADMISSION
from shared.web.fields import (
    LENIENT_QUERY,
    MAX_ID,
    QUERY,
    Cursor,
    Limit,
    Line,
    Optional,
    Seconds,
    Text,
    answer_like,
    request_like,
)
from shared.web.operations import Access, caller, operation

Name = Annotated[str, Line(128)]
Quantity = Annotated[int, Field(gt=0, le=10_000)]
Note = Annotated[Text, Field(max_length=2000)]
Second = Annotated[
    datetime,
    PlainSerializer(lambda at: at.strftime("%Y-%m-%dT%H:%M:%SZ")),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]

_TUTORIAL_ORDER = {
    "id": 1,
    "userId": "u1",
    "note": "no onions",
    "status": "CONFIRMED",
    "sku": "burger",
    "quantity": 2,
    "createdAt": "2026-01-31T12:00:00Z",
}
_PRODUCT = {"sku": "burger", "product_id": 1, "name": "Burger", "price_cents": 850}
_ORDER = {
    "id": 1,
    "user_id": "1",
    "status": "CONFIRMED",
    "sku": "burger",
    "product": _PRODUCT,
    "quantity": 2,
    "amount_cents": 1700,
    "currency": "EUR",
    "note": "no onions",
    "created_at": "2026-01-31T12:00:00Z",
}


@dataclass(frozen=True)
class Backend:
    """What the routes use in addition to the pool."""

    placement: Placement
    pressure: Pressure
    reader: GroupCommit[int, domain.Order]
    skus: Skus
    waiters: Waiters


BACKEND = web.AppKey("BACKEND", Backend)

routes = web.RouteTableDef()

PLACING = ("POST /v1/orders", "POST /v1/orders/", "POST /orders", "POST /orders/")
"""The operations that place orders."""


class PlaceOrder(BaseModel):
    """A request to place an order. With a token, `userId` can be left out: it is the user of the token."""

    model_config = request_like({"sku": "burger", "quantity": 2, "note": "no onions"}, lenient=True)

    user_id: Annotated[
        Name, Field(alias="userId", validate_default=True, json_schema_extra=lambda schema: schema.pop("default"))
    ] = ""
    """The user who orders. Without a token it is required."""
    sku: Name
    """The sku of the product. An unknown sku is accepted, and the order ends as CANCELLED."""
    quantity: Quantity
    """How many units to order."""
    note: Note | None = None
    """A text for the kitchen."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, sent: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        own = info.context["caller"].user_id if info.context else ""
        quantity = sent.get("quantity")  # without a quantity the answer is "quantity must be > 0"
        return {"userId": own} | sent | {"quantity": 0 if quantity is None else quantity}


class PlaceProductOrder(BaseModel):
    """A request to place an order for a product of the catalogue."""

    model_config = request_like({"product_id": 1, "quantity": 2, "note": "no onions"})

    product_id: Annotated[int, Field(gt=0, le=MAX_ID)]
    """The id of a product of the catalogue."""
    quantity: Quantity = 1
    """How many units to order."""
    note: Note | None = None
    """A text for the kitchen."""


class AcceptedOrder(BaseModel):
    """The order is stored durably, and it is PENDING."""

    model_config = answer_like({"id": 1})

    id: int
    """The id of the order."""


class TutorialOrder(BaseModel):
    """An order. If its status is CANCELLED, it has a reason."""

    model_config = answer_like(_TUTORIAL_ORDER)

    id: int
    """The id of the order."""
    user_id: Annotated[str, Field(alias="userId")]
    """The user who ordered."""
    note: str
    """The text for the kitchen. It may be empty."""
    status: Status
    """PENDING, or how the order ended."""
    sku: str
    """The sku of the product."""
    quantity: int
    """How many units were ordered."""
    created_at: Annotated[Second, Field(alias="createdAt")]
    """When the order was placed."""
    reason: Optional[CancelReason] = None
    """Why the order is CANCELLED."""

    @classmethod
    def of(cls, order: domain.Order) -> "TutorialOrder":
        return cls(
            id=order.id,
            user_id=order.user_id,
            note=order.note,
            status=order.status,
            sku=order.sku,
            quantity=order.quantity,
            created_at=order.created_at,
            reason=order.reason if order.status is Status.CANCELLED else None,
        )


class OrderedProduct(BaseModel):
    """The product as it was when it was ordered. One that the catalogue does not have is only a sku."""

    model_config = answer_like(_PRODUCT)

    sku: str
    """The sku of the product."""
    product_id: Optional[int] = None
    """The id of the product."""
    name: Optional[str] = None
    """The name that customers see."""
    price_cents: Optional[int] = None
    """The price of one unit in cents."""


class Order(BaseModel):
    """An order. If its status is CANCELLED, it has a reason. Without a price, it has no amount."""

    model_config = answer_like(_ORDER)

    id: int
    """The id of the order."""
    user_id: str
    """The user who ordered."""
    status: Status
    """PENDING, or how the order ended."""
    reason: Optional[CancelReason] = None
    """Why the order is CANCELLED."""
    sku: str
    """The sku of the product."""
    product: OrderedProduct
    """The product as it was when it was ordered."""
    quantity: int
    """How many units were ordered."""
    amount_cents: int | None
    """The price of the whole order in cents, or null if the product has no price."""
    currency: str
    """The currency of the amount."""
    note: str
    """The text for the kitchen. It may be empty."""
    created_at: datetime
    """When the order was placed."""

    @classmethod
    def of(cls, order: domain.Order) -> "Order":
        return cls(
            id=order.id,
            user_id=order.user_id,
            status=order.status,
            reason=order.reason if order.status is Status.CANCELLED else None,
            sku=order.sku,
            product=OrderedProduct.model_validate(order.product),
            quantity=order.quantity,
            amount_cents=order.amount_cents,
            currency=order.currency,
            note=order.note,
            created_at=order.created_at,
        )


class TutorialOrderPage(BaseModel):
    """Orders, newest first."""

    model_config = answer_like({"orders": [_TUTORIAL_ORDER], "next_cursor": None})

    orders: list[TutorialOrder]
    """The orders of this page."""
    next_cursor: str | None
    """The `cursor` of the next page, or null on the last page."""


class OrderPage(BaseModel):
    """Orders, newest first."""

    model_config = answer_like({"orders": [_ORDER], "next_cursor": None})

    orders: list[Order]
    """The orders of this page."""
    next_cursor: str | None
    """The `cursor` of the next page, or null on the last page."""


class OrderFilters(BaseModel):
    """Which orders to list. A user sees only their own orders."""

    model_config = QUERY

    user_id: Text | None = None
    """Only the orders of this user."""
    status: Status | None = None
    """Only orders with this status."""
    sku: Text | None = None
    """Only orders of this sku."""
    limit: Limit = 20
    """How many orders a page has at most."""
    cursor: Cursor | None = None
    """The `next_cursor` of the page before."""

    def columns(self) -> dict[str, str]:
        wanted = {"user_id": self.user_id, "status": self.status, "sku": self.sku}
        return {column: value for column, value in wanted.items() if value is not None}


class TutorialOrderFilters(OrderFilters):
    """Which orders to list. A user sees only their own orders."""

    model_config = LENIENT_QUERY

    user_id: Annotated[Text | None, Field(alias="userId")] = None
    """Only the orders of this user."""


class Wait(BaseModel):
    """How long to wait until the order is final."""

    model_config = QUERY

    wait: Annotated[float, Seconds(30)] | None = None
    """Seconds, at most 30. Without it, the answer comes at once."""


class TutorialWait(Wait):
    """How long to wait until the order is final."""

    model_config = LENIENT_QUERY


_PLACED = {
    "Location": "The path of the order.",
    "Idempotent-Replayed": "`true` if an earlier request with the same key placed the order.",
}


@routes.post("/v1/orders")
@operation(Access.TRUSTED, {202: AcceptedOrder}, body=PlaceOrder, idempotent=True, problems=[403], headers=_PLACED)
async def place(request: web.Request, order: PlaceOrder) -> web.Response:
    """Place an order. It is stored durably, with its event, before the answer is sent."""
    by = caller(request)
    if by.user_id and order.user_id != by.user_id:
        raise errors.Forbidden("userId must be your own")
    return await _place(request, "/v1/orders", order.user_id, order.sku, order)


@routes.post("/orders/")
@operation(Access.USER, {202: AcceptedOrder}, body=PlaceProductOrder, idempotent=True, problems=[404], headers=_PLACED)
async def place_by_product(request: web.Request, order: PlaceProductOrder) -> web.Response:
    """Place an order for a product. It is stored durably, with its event, before the answer is sent."""
    sku = await deadline.within(request, request.app[BACKEND].skus.find(order.product_id))
    return await _place(request, "/orders", caller(request).user_id, sku, order)


@routes.get("/v1/orders/{id}")
@operation(Access.TRUSTED, {200: TutorialOrder}, query=TutorialWait)
async def get_as_in_tutorial(request: web.Request, query: TutorialWait) -> web.Response:
    """Read an order, at once or, with `?wait=`, as soon as it is final."""
    return responses.json(TutorialOrder.of(await _awaited(request, query.wait or 0.0)))


@routes.get("/orders/{id}")
@operation(Access.USER, {200: Order}, query=Wait)
async def get(request: web.Request, query: Wait) -> web.Response:
    """Read an order, at once or, with `?wait=`, as soon as it is final."""
    return responses.json(Order.of(await _awaited(request, query.wait or 0.0)))


@routes.get("/v1/orders")
@operation(Access.TRUSTED, {200: TutorialOrderPage}, query=TutorialOrderFilters, problems=[403])
async def index_as_in_tutorial(request: web.Request, filters: TutorialOrderFilters) -> web.Response:
    """List orders, newest first, a page at a time. A user sees their own orders, an administrator all orders."""
    orders, cursor = await _page(request, filters)
    return responses.json(TutorialOrderPage(orders=[TutorialOrder.of(one) for one in orders], next_cursor=cursor))


@routes.get("/orders/")
@operation(Access.USER, {200: OrderPage}, query=OrderFilters, problems=[403])
async def index(request: web.Request, filters: OrderFilters) -> web.Response:
    """List orders, newest first, a page at a time. A user sees their own orders, an administrator all orders."""
    orders, cursor = await _page(request, filters)
    return responses.json(OrderPage(orders=[Order.of(one) for one in orders], next_cursor=cursor))


@routes.post("/v1/orders/{id}/cancel")
@operation(Access.TRUSTED, {202: TutorialOrder}, problems=[409], essential=True)
async def cancel_as_in_tutorial(request: web.Request) -> web.Response:
    """Cancel an order that is not final."""
    return responses.json(TutorialOrder.of(await _cancelled(request)), 202)


@routes.post("/orders/{id}/cancel")
@operation(Access.USER, {202: Order}, problems=[409], essential=True)
async def cancel(request: web.Request) -> web.Response:
    """Cancel an order that is not final."""
    return responses.json(Order.of(await _cancelled(request)), 202)


async def _place(
    request: web.Request, path: str, user_id: str, sku: str, order: PlaceOrder | PlaceProductOrder
) -> web.Response:
    request.app[BACKEND].pressure.check()
    new = Request(user_id, sku, order.quantity, order.note or "")
    new.idempotency_key = requests.idempotency_key(request)
    new.trace = requests.traceparent(request)
    placed = await request.app[BACKEND].placement.place(new, deadline.seconds_left(request))
    headers = {"Location": f"{path}/{placed.order_id}"}
    if placed.replayed:
        headers["Idempotent-Replayed"] = "true"
    return responses.json({"id": placed.order_id}, 202, **headers)


async def _awaited(request: web.Request, seconds: float) -> domain.Order:
    """Read the order of the path, and wait at most `seconds` until it is final."""
    order_id = requests.path_id(request)
    until = time.monotonic() + seconds + deadline.seconds_left(request)
    order = _visible(request, await _read(request, order_id, deadline.seconds_left(request)))
    if seconds and order.status is Status.PENDING:
        with request.app[ADMISSION].resting():
            final = await request.app[BACKEND].waiters.wait(order_id, seconds)
        order = final or await _read(request, order_id, until - time.monotonic())
    return order


async def _page(request: web.Request, filters: OrderFilters) -> tuple[list[domain.Order], str | None]:
    """Read a page of orders. Returns them with the cursor of the next page."""
    by, columns = caller(request), filters.columns()
    if not by.may_see(columns.setdefault("user_id", by.user_id)):
        raise errors.Forbidden(f"{type(filters).model_fields['user_id'].alias or 'user_id'} must be your own")
    if by.is_admin and filters.user_id is None:
        del columns["user_id"]
    before, limit = filters.cursor or MAX_ID, filters.limit
    orders = await database.reading(request, lambda conn: store.page(conn, columns, before, limit + 1))
    shown = orders[:limit]
    return shown, str(shown[-1].id) if len(orders) > limit else None


async def _cancelled(request: web.Request) -> domain.Order:
    order_id, may_see = requests.path_id(request), caller(request).may_see
    return await database.writing(request, (), lambda conn: service.cancel(conn, order_id, may_see))


async def _read(request: web.Request, order_id: int, seconds: float) -> domain.Order:
    try:
        return await request.app[BACKEND].reader.submit(order_id, seconds)
    except errors.Unavailable:
        raise errors.Unavailable from None  # a read has no unknown outcome


def _visible(request: web.Request, order: domain.Order) -> domain.Order:
    """Return the order if the caller may see it. Raises `OrderNotFound` for other users' orders."""
    if not caller(request).may_see(order.user_id):
        raise service.OrderNotFound
    return order
