"""HTTP in: the tutorial's API at /v1/orders, and the shop's API at /orders/. Parse, call one use case, answer.

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
from shared.web.fields import (
    ANSWER,
    LENIENT_QUERY,
    MAX_ID,
    QUERY,
    Cursor,
    Limit,
    Line,
    Optional,
    Seconds,
    Text,
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


class PlaceOrder(BaseModel):
    """A request to place an order. With a token, `userId` can be left out: it is the user of the token."""

    model_config = request_like({"userId": "u1", "sku": "burger", "quantity": 2, "note": "x"}, lenient=True)

    user_id: Annotated[
        Name, Field(alias="userId", validate_default=True, json_schema_extra=lambda schema: schema.pop("default"))
    ] = ""
    sku: Name
    quantity: Quantity
    note: Note | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, sent: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        own = info.context["caller"].user_id if info.context else ""
        quantity = sent.get("quantity")  # without a quantity the answer is "quantity must be > 0"
        return {"userId": own} | sent | {"quantity": 0 if quantity is None else quantity}


class PlaceProductOrder(BaseModel):
    """A request to place an order for a product of the catalogue."""

    model_config = request_like({"product_id": 1, "quantity": 2, "note": "x"})

    product_id: Annotated[int, Field(gt=0, le=MAX_ID)]
    quantity: Quantity = 1
    note: Note | None = None


class AcceptedOrder(BaseModel):
    """The id of an order that is stored durably and PENDING."""

    id: int


class TutorialOrder(BaseModel):
    """An order. If its status is CANCELLED, it has a reason."""

    model_config = ANSWER

    id: int
    user_id: Annotated[str, Field(alias="userId")]
    note: str
    status: Status
    sku: str
    quantity: int
    created_at: Annotated[Second, Field(alias="createdAt")]
    reason: Optional[CancelReason] = None

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

    sku: str
    product_id: Optional[int] = None
    name: Optional[str] = None
    price_cents: Optional[int] = None


class Order(BaseModel):
    """An order. If its status is CANCELLED, it has a reason. Without a price, it has no amount."""

    id: int
    user_id: str
    status: Status
    reason: Optional[CancelReason] = None
    sku: str
    product: OrderedProduct
    quantity: int
    amount_cents: int | None
    currency: str
    note: str
    created_at: datetime

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
    """Orders, newest first. `next_cursor` is the cursor of the next page, or null on the last page."""

    orders: list[TutorialOrder]
    next_cursor: str | None


class OrderPage(BaseModel):
    """Orders, newest first. `next_cursor` is the cursor of the next page, or null on the last page."""

    orders: list[Order]
    next_cursor: str | None


class OrderFilters(BaseModel):
    """Which orders to list. A user sees only their own orders."""

    model_config = QUERY

    user_id: Text | None = None
    status: Status | None = None
    sku: Text | None = None
    limit: Limit = 20
    cursor: Cursor | None = None

    def columns(self) -> dict[str, str]:
        wanted = {"user_id": self.user_id, "status": self.status, "sku": self.sku}
        return {column: value for column, value in wanted.items() if value is not None}


class TutorialOrderFilters(OrderFilters):
    """Which orders to list. A user sees only their own orders."""

    model_config = LENIENT_QUERY

    user_id: Annotated[Text | None, Field(alias="userId")] = None


class Wait(BaseModel):
    """How long to wait until the order is final."""

    model_config = QUERY

    wait: Annotated[float, Seconds(30)] | None = None


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
