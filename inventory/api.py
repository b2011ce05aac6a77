"""HTTP in: read the stock of a sku, and restock it. Parse, call one use case, answer."""

import re
from typing import Annotated

from aiohttp import web
from pydantic import BaseModel, Field

from inventory import domain, service
from shared import errors
from shared.web import database, requests, responses
from shared.web.fields import Optional, answer_like, request_like
from shared.web.operations import Access, caller, operation

_SKU = re.compile(r"[^\x00]{1,128}")
_EXAMPLES = {"sku": "burger"}
_REPLAYED = {"Idempotent-Replayed": "`true` if an earlier request with the same key added the units."}

routes = web.RouteTableDef()


class Restock(BaseModel):
    """Units to add."""

    model_config = request_like({"quantity": 100})

    quantity: Annotated[int, Field(gt=0, le=1_000_000)]
    """How many units to add."""


class Stock(BaseModel):
    """The stock of a sku. Only administrators see held and sold units."""

    model_config = answer_like({"sku": "burger", "available": 99998, "held": 0, "sold": 2})

    sku: str
    """The sku of the product."""
    available: int
    """Units that can be ordered."""
    held: Optional[int] = None
    """Units that are held for orders that are not final."""
    sold: Optional[int] = None
    """Units of confirmed orders."""


@routes.get("/inventory/{sku}")
@operation(Access.USER, {200: Stock}, examples=_EXAMPLES)
async def get(request: web.Request) -> web.Response:
    """Read the stock of a sku."""
    sku = _sku(request)
    stock = await database.reading(request, lambda conn: service.get(conn, sku))
    return responses.json(_shown(request, stock))


@routes.post("/inventory/{sku}/restock")
@operation(Access.ADMIN, {200: Stock}, body=Restock, idempotent=True, headers=_REPLAYED, examples=_EXAMPLES)
async def restock(request: web.Request, body: Restock) -> web.Response:
    """Add units of a sku. A repeated request with the same key adds nothing and returns the current stock."""
    wanted = domain.Restock(caller(request).user_id, requests.idempotency_key(request), _sku(request), body.quantity)
    stock, replayed = await database.writing(request, service.STOCK_LOCK, lambda conn: service.restock(conn, wanted))
    headers = {"Idempotent-Replayed": "true"} if replayed else {}
    return responses.json(_shown(request, stock), 200, **headers)


def _sku(request: web.Request) -> str:
    """The sku in the path: any text that Postgres can store. Raises `Invalid`."""
    sku = request.match_info["sku"]
    if not _SKU.fullmatch(sku):
        raise errors.Invalid("invalid sku")
    return sku


def _shown(request: web.Request, stock: domain.Stock) -> Stock:
    if caller(request).is_admin:
        return Stock(sku=stock.sku, available=stock.available, held=stock.held, sold=stock.sold)
    return Stock(sku=stock.sku, available=stock.available)
