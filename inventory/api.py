"""HTTP in: read the stock of a sku, and restock it. Parse, call one use case, answer."""

import re
from typing import Annotated

from aiohttp import web
from pydantic import BaseModel, Field

from inventory import service
from inventory.domain import Restock, Stock
from shared import errors
from shared.web import database, requests, responses
from shared.web.fields import request_like
from shared.web.operations import Access, caller, operation

_SKU = re.compile(r"[^\x00]{1,128}")
_REPLAYED = {"Idempotent-Replayed": "`true` if an earlier request added the units."}

AdminsOnly = Annotated[int | None, Field(exclude_if=lambda units: units is None)]

routes = web.RouteTableDef()


class Delivery(BaseModel):
    """Units that came in."""

    model_config = request_like({"quantity": 100})

    quantity: Annotated[int, Field(gt=0, le=1_000_000)]


class Shown(BaseModel):
    """The stock of a sku; only administrators see how much of it is held or sold."""

    sku: str
    available: int
    held: AdminsOnly = None
    sold: AdminsOnly = None


@routes.get("/inventory/{sku}")
@operation(Access.USER, {200: Shown})
async def get(request: web.Request) -> web.Response:
    """Show how much there is of a sku."""
    sku = _sku(request)
    stock = await database.reading(request, lambda conn: service.get(conn, sku))
    return responses.json(_shown(request, stock))


@routes.post("/inventory/{sku}/restock")
@operation(Access.ADMIN, {200: Shown}, body=Delivery, idempotent=True, headers=_REPLAYED)
async def restock(request: web.Request, delivery: Delivery) -> web.Response:
    """Add units of a sku; a request that is repeated with its key shows the stock as it stands by then."""
    wanted = Restock(caller(request).user_id, requests.idempotency_key(request), _sku(request), delivery.quantity)
    stock, replayed = await database.writing(request, service.STOCK_LOCK, lambda conn: service.restock(conn, wanted))
    headers = {"Idempotent-Replayed": "true"} if replayed else {}
    return responses.json(_shown(request, stock), 200, **headers)


def _sku(request: web.Request) -> str:
    """The sku in the path: any text that Postgres can store. Raises `Invalid`."""
    sku = request.match_info["sku"]
    if not _SKU.fullmatch(sku):
        raise errors.Invalid("invalid sku")
    return sku


def _shown(request: web.Request, stock: Stock) -> Shown:
    if caller(request).is_admin:
        return Shown(sku=stock.sku, available=stock.available, held=stock.held, sold=stock.sold)
    return Shown(sku=stock.sku, available=stock.available)
