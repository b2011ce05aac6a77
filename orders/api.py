"""HTTP in: the first public API at /v1/orders, and the shop's at /orders/. Parse, call one use case, answer."""

import time
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from aiohttp import web
from pydantic import BaseModel, Field, PlainSerializer, ValidationInfo, WithJsonSchema, model_validator

from contracts.orders import CancelReason
from orders import service, store
from orders.catalogue import Skus
from orders.domain import Order, Request, Status
from orders.placement import Placement
from orders.waiters import Waiters
from shared import errors
from shared.postgres import GroupCommit
from shared.web import database, deadline, requests, responses
from shared.web.fields import ANSWER, MAX_ID, QUERY, Cursor, Limit, Line, Seconds, Text, request_like
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
    """What the routes use beside the pool."""

    placement: Placement
    reader: GroupCommit[int, Order]
    skus: Skus
    waiters: Waiters


BACKEND = web.AppKey("BACKEND", Backend)

routes = web.RouteTableDef()


class Wanted(BaseModel):
    """An order as the tutorial asks for it; `userId` may be left out with a token, whose user it is."""

    model_config = request_like({"userId": "u1", "sku": "burger", "quantity": 2, "note": "x"})

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
        quantity = sent.get("quantity")  # nothing is 0, in the seed's words
        return {"userId": own} | sent | {"quantity": 0 if quantity is None else quantity}


class Choice(BaseModel):
    """An order as the shop's page asks for it."""

    model_config = request_like({"product_id": 1, "quantity": 2, "note": "x"})

    product_id: Annotated[int, Field(gt=0, le=MAX_ID)]
    quantity: Quantity = 1
    note: Note | None = None


class Accepted(BaseModel):
    """The order is durable, and PENDING."""

    id: int


class Shown(BaseModel):
    """An order as it stands; CANCELLED has a reason."""

    model_config = ANSWER

    id: int
    user_id: Annotated[str, Field(alias="userId")]
    note: str
    status: Status
    sku: str
    quantity: int
    created_at: Annotated[Second, Field(alias="createdAt")]
    reason: Annotated[CancelReason | None, Field(exclude_if=lambda reason: reason is None)] = None

    @classmethod
    def of(cls, order: Order) -> "Shown":
        """Show what outsiders may know of it."""
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


class Page(BaseModel):
    """Orders, newest first; `next_cursor` is where the next page begins, or null."""

    orders: list[Shown]
    next_cursor: str | None


class Filters(BaseModel):
    """Which orders to list; a user sees their own only."""

    model_config = QUERY

    user_id: Annotated[Text | None, Field(alias="userId")] = None
    status: Status | None = None
    sku: Text | None = None
    limit: Limit = 20
    cursor: Cursor | None = None

    def columns(self) -> dict[str, str]:
        """Give the columns that must have a value, with it."""
        wanted = {"user_id": self.user_id, "status": self.status, "sku": self.sku}
        return {column: value for column, value in wanted.items() if value is not None}


class Patience(BaseModel):
    """How long to wait for an order to become final."""

    model_config = QUERY

    wait: Annotated[float, Seconds(30)] | None = None


_PLACED = {"Location": "Where the order is.", "Idempotent-Replayed": "`true` if an earlier request placed it."}


@routes.post("/v1/orders")
@operation(Access.TRUSTED, {202: Accepted}, body=Wanted, idempotent=True, problems=[403], headers=_PLACED)
async def create(request: web.Request, wanted: Wanted) -> web.Response:
    """Accept an order; it is durable, with its event, when the answer is sent."""
    by = caller(request)
    if by.user_id and wanted.user_id != by.user_id:
        raise errors.Forbidden("userId must be your own")
    return await _accept(request, "/v1/orders", wanted.user_id, wanted.sku, wanted)


@routes.post("/orders/")
@operation(Access.USER, {202: Accepted}, body=Choice, idempotent=True, problems=[404], headers=_PLACED)
async def choose(request: web.Request, choice: Choice) -> web.Response:
    """Accept an order for a product of the catalogue; it is durable, with its event, when the answer is sent."""
    sku = await deadline.within(request.app[BACKEND].skus.find(choice.product_id), deadline.seconds_left(request))
    return await _accept(request, "/orders", caller(request).user_id, sku, choice)


@routes.get("/v1/orders/{id}")
@operation(Access.TRUSTED, {200: Shown}, query=Patience)
async def get(request: web.Request, patience: Patience) -> web.Response:
    """Show an order, at once or, with `?wait=`, as soon as it is final."""
    order_id, seconds = requests.path_id(request), patience.wait or 0.0
    until = time.monotonic() + seconds + deadline.seconds_left(request)
    order = _visible(request, await _read(request, order_id, deadline.seconds_left(request)))
    if seconds and order.status is Status.PENDING:
        final = await request.app[BACKEND].waiters.wait(order_id, seconds)
        order = final or await _read(request, order_id, until - time.monotonic())
    return responses.json(Shown.of(order))


@routes.get("/v1/orders")
@operation(Access.TRUSTED, {200: Page}, query=Filters, problems=[403])
async def index(request: web.Request, filters: Filters) -> web.Response:
    """List orders, newest first, a page at a time: one's own, or all for an administrator."""
    by, columns = caller(request), filters.columns()
    if not by.may_see(columns.setdefault("user_id", by.user_id)):
        raise errors.Forbidden("userId must be your own")
    if by.is_admin and filters.user_id is None:
        del columns["user_id"]
    before, limit = filters.cursor or MAX_ID, filters.limit + 1
    orders = await database.reading(request, lambda conn: store.page(conn, columns, before, limit))
    more = len(orders) > filters.limit
    shown = [Shown.of(order) for order in orders[: filters.limit]]
    return responses.json(Page(orders=shown, next_cursor=str(shown[-1].id) if more else None))


@routes.post("/v1/orders/{id}/cancel")
@operation(Access.TRUSTED, {202: Shown}, problems=[409])
async def cancel(request: web.Request) -> web.Response:
    """Cancel an order that is not final."""
    order_id, may_see = requests.path_id(request), caller(request).may_see
    order = await database.writing(request, (), lambda conn: service.cancel(conn, order_id, may_see))
    return responses.json(Shown.of(order), 202)


routes.get("/orders/{id}")(get)
routes.get("/orders/")(index)
routes.post("/orders/{id}/cancel")(cancel)


async def _accept(request: web.Request, path: str, user_id: str, sku: str, asked: Wanted | Choice) -> web.Response:
    wanted = Request(user_id, sku, asked.quantity, asked.note or "")
    wanted.idempotency_key = requests.idempotency_key(request)
    wanted.trace = requests.traceparent(request)
    placed = await request.app[BACKEND].placement.place(wanted, deadline.seconds_left(request))
    headers = {"Location": f"{path}/{placed.order_id}"}
    if placed.replayed:
        headers["Idempotent-Replayed"] = "true"
    return responses.json({"id": placed.order_id}, 202, **headers)


async def _read(request: web.Request, order_id: int, seconds: float) -> Order:
    try:
        return await request.app[BACKEND].reader.submit(order_id, seconds)
    except errors.Unavailable:
        raise errors.Unavailable from None  # a read has no unknown outcome


def _visible(request: web.Request, order: Order) -> Order:
    """Give the order, if it is the caller's to see; another's does not exist for them. Raises `OrderNotFound`."""
    if not caller(request).may_see(order.user_id):
        raise service.OrderNotFound
    return order
