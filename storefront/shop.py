"""The client of the shop's public API. It has no right that a visitor does not have.

What must stay true: every call ends within a few seconds. An order is placed once, also if its first answer is lost.
"""

import uuid
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import aiohttp
from pydantic import BaseModel, ValidationError

from shared.errors import Conflict, Invalid, NotFound, ServiceError, TooMany, Unauthenticated, Unavailable
from storefront.config import Settings

_TIMEOUT = aiohttp.ClientTimeout(total=4.0)
"""A service answers within 3 s."""

_ERRORS: Mapping[int, type[ServiceError]] = {
    HTTPStatus.BAD_REQUEST: Invalid,
    HTTPStatus.UNAUTHORIZED: Unauthenticated,
    HTTPStatus.NOT_FOUND: NotFound,
    HTTPStatus.CONFLICT: Conflict,
}


class Product(BaseModel):
    """A product of the catalogue."""

    id: int
    sku: str
    name: str
    price_cents: int
    currency: str


class Order(BaseModel):
    """An order, as the orders service answers it."""

    id: int
    status: str
    sku: str
    quantity: int
    reason: str | None = None

    @property
    def is_final(self) -> bool:
        return self.status != "PENDING"


class Visit(BaseModel):
    """The token of a visitor, and how many seconds it is valid."""

    token: str
    expires_in: int


class _Catalogue(BaseModel):
    products: list[Product]


class Shop:
    def __init__(self, settings: Settings, http: aiohttp.ClientSession) -> None:
        self._orders, self._products, self._auth = settings.orders_url, settings.products_url, settings.auth_url
        self._http = http
        self._known: list[Product] = []

    async def catalogue(self) -> list[Product]:
        """The first page of the catalogue. If products does not answer, the page that it sent last, or an empty one."""
        try:
            found = await self._ask("GET", f"{self._products}/products/")
            self._known = _Catalogue.model_validate(found).products
        except (ServiceError, ValidationError):
            return self._known
        return self._known

    async def visit(self) -> Visit:
        """A token for a new visitor. Raises `ServiceError`."""
        return Visit.model_validate(await self._ask("POST", f"{self._auth}/auth/visitor"))

    async def place(self, token: str, wish: Mapping[str, object]) -> int:
        """Place an order. Returns its id. Raises `ServiceError`.

        A `wish` has a quantity, and the `product_id` of a product or any `sku`. Without an answer, the request is
        repeated once with the same Idempotency-Key.
        """
        path = "/orders/" if "product_id" in wish else "/v1/orders"
        headers = _bearer(token) | {"Idempotency-Key": uuid.uuid4().hex}
        try:
            found = await self._ask("POST", self._orders + path, headers, wish)
        except Unavailable:
            found = await self._ask("POST", self._orders + path, headers, wish)
        return int(found["id"])

    async def order(self, token: str, order_id: int) -> Order:
        """An order of this visitor. Raises `NotFound` if it is another visitor's, or another `ServiceError`."""
        return Order.model_validate(await self._ask("GET", f"{self._orders}/orders/{order_id}", _bearer(token)))

    async def cancel(self, token: str, order_id: int) -> None:
        """Cancel an order. Raises `Conflict` if it is final, or another `ServiceError`."""
        await self._ask("POST", f"{self._orders}/orders/{order_id}/cancel", _bearer(token))

    async def _ask(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, body: Mapping[str, object] | None = None
    ) -> Any:
        try:
            async with self._http.request(method, url, headers=headers, json=body, timeout=_TIMEOUT) as answer:
                found = await answer.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise Unavailable("the shop does not answer now: try again in a moment") from error
        if answer.ok:
            return found
        detail = str(found.get("detail", "")) if isinstance(found, dict) else ""
        if answer.status == HTTPStatus.TOO_MANY_REQUESTS:
            raise TooMany(detail, 1)
        raise _ERRORS.get(answer.status, Unavailable)(detail or f"answered {answer.status}")


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {quote(token)}"}  # it comes from a cookie
