"""HTTP in: read the payment of an order, for its user and for administrators."""

from datetime import datetime

from aiohttp import web
from pydantic import BaseModel

from contracts.payments import FailReason
from payments import store
from payments.domain import Status
from shared import errors
from shared.web import database, requests, responses
from shared.web.fields import Optional, answer_like
from shared.web.operations import Access, caller, operation

routes = web.RouteTableDef()


class Payment(BaseModel):
    """A payment. If it is FAILED it has a reason; if the provider charged it, it has the provider's reference."""

    model_config = answer_like(
        {
            "order_id": 1,
            "status": "SUCCEEDED",
            "amount_cents": 1700,
            "currency": "EUR",
            "provider_ref": "ch_7f3a9c",
            "created_at": "2026-01-31T12:00:00Z",
            "updated_at": "2026-01-31T12:00:01Z",
        }
    )

    order_id: int
    """The id of the order that is paid."""
    status: Status
    """The state of the payment."""
    amount_cents: int
    """The price of the whole order in cents."""
    currency: str
    """The currency of the amount."""
    reason: Optional[FailReason] = None
    """Why the payment is FAILED."""
    provider_ref: Optional[str] = None
    """The provider's reference of the charge."""
    created_at: datetime
    """When the payment was requested."""
    updated_at: datetime
    """When the status changed last."""


@routes.get("/payments/{order_id}")
@operation(Access.USER, {200: Payment})
async def get(request: web.Request) -> web.Response:
    """Read the payment of an order."""
    order_id = requests.path_id(request, "order_id")
    found = await database.reading(request, lambda conn: store.find(conn, order_id))
    if found is None or not caller(request).may_see(found[0].user_id):
        raise errors.NotFound("not found")  # other users' payments answer 404
    payment, created_at, updated_at = found
    return responses.json(
        Payment(
            order_id=payment.order_id,
            status=payment.status,
            amount_cents=payment.amount_cents,
            currency=payment.currency,
            reason=payment.reason,
            provider_ref=payment.provider_ref,
            created_at=created_at,
            updated_at=updated_at,
        )
    )
