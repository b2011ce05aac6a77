"""HTTP in: how much there is of a sku, and that there is more of it. Parse, call one use case, answer."""

import re
from typing import Annotated

from aiohttp import web as aio
from pydantic import BaseModel, Field

from inventory import service
from inventory.domain import Restock, Stock
from shared import errors
from shared.web import requests as web
from shared.web.fields import request_like
from shared.web.operations import Access, caller, operation

_SKU = re.compile(r"[^\x00]{1,128}")
_REPLAYED = {"Idempotent-Replayed": "`true` if an earlier request added the units."}

AdminsOnly = Annotated[int | None, Field(exclude_if=lambda units: units is None)]

routes = aio.RouteTableDef()


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
async def get(request: aio.Request) -> aio.Response:
    """Show how much there is of a sku."""
    sku = _sku(request)
    stock = await web.reading(request, lambda conn: service.get(conn, sku))
    return web.json(_shown(request, stock))


@routes.post("/inventory/{sku}/restock")
@operation(Access.ADMIN, {200: Shown}, body=Delivery, idempotent=True, headers=_REPLAYED)
async def restock(request: aio.Request, delivery: Delivery) -> aio.Response:
    """Add units of a sku; a request that is repeated with its key shows the stock as it stands by then."""
    wanted = Restock(caller(request).user_id, web.idempotency_key(request), _sku(request), delivery.quantity)
    stock, replayed = await web.writing(request, service.TURN, lambda conn: service.restock(conn, wanted))
    headers = {"Idempotent-Replayed": "true"} if replayed else {}
    return web.json(_shown(request, stock), 200, **headers)


def _sku(request: aio.Request) -> str:
    """Take the sku from the path: any text that there could be stock of. Raises `Invalid`."""
    sku = request.match_info["sku"]
    if not _SKU.fullmatch(sku):
        raise errors.Invalid("invalid sku")
    return sku


def _shown(request: aio.Request, stock: Stock) -> Shown:
    if caller(request).is_admin:
        return Shown(sku=stock.sku, available=stock.available, held=stock.held, sold=stock.sold)
    return Shown(sku=stock.sku, available=stock.available)
