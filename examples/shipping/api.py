"""HTTP in: parcels. Anybody may read them, because they have no personal data."""

from datetime import datetime

from aiohttp import web
from pydantic import BaseModel

from shared import errors
from shared.web import database, requests, responses
from shared.web.operations import Access, operation

from . import store

routes = web.RouteTableDef()


class ParcelNotFound(errors.NotFound):
    """The order is not confirmed, or its event has not arrived here yet."""

    text = "the order has no parcel yet"


class Parcel(BaseModel):
    """The parcel of an order."""

    order_id: int
    sku: str
    quantity: int
    sent_at: datetime


@routes.get("/parcels/{order_id}")
@operation(Access.PUBLIC, {200: Parcel})
async def get(request: web.Request) -> web.Response:
    """Read the parcel of an order."""
    order_id = requests.path_id(request, "order_id")
    parcel = await database.reading(request, lambda conn: store.get(conn, order_id))
    if parcel is None:
        raise ParcelNotFound
    return responses.json(Parcel.model_validate(parcel))
