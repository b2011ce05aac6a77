"""HTTP in: the catalogue. Anybody may read it, administrators change it. Parse, call one use case, answer."""

from collections.abc import Awaitable
from typing import Annotated, Literal

from aiohttp import web
from pydantic import BaseModel, Field

from products import domain, service, store
from shared.postgres import Connection
from shared.web import database, requests, responses
from shared.web.fields import QUERY, Cursor, Limit, Line, answer_like, request_like
from shared.web.operations import Access, operation

Sku = Annotated[str, Field(pattern="^[a-z0-9][a-z0-9._-]{0,63}$")]
Name = Annotated[str, Line(128)]
Price = Annotated[int, Field(ge=0, le=10**9)]
Version = Annotated[int, Field(gt=0, lt=2**31)]

_PRODUCT = {
    "id": 1,
    "sku": "burger",
    "name": "Burger",
    "price_cents": 850,
    "currency": "EUR",
    "active": True,
    "version": 1,
}

_ASK_AGAIN = "`public, no-cache`: the answer may be kept, if its `ETag` is asked for each time."
_CACHED = {"ETag": "Changes with the answer. Send it as `If-None-Match`.", "Cache-Control": _ASK_AGAIN}

routes = web.RouteTableDef()


class AddProduct(BaseModel):
    """A new product. Its sku can never change."""

    model_config = request_like(
        {"sku": "ramen", "name": "Ramen", "price_cents": 1450, "currency": "EUR", "active": True}
    )

    sku: Sku
    """The short name of the product in orders and stock."""
    name: Name
    """The name that customers see."""
    price_cents: Price
    """The price of one unit in cents."""
    currency: Literal["EUR"] = "EUR"
    """The currency of the price."""
    active: bool = True
    """True if the product can be bought."""


class ChangeProduct(BaseModel):
    """New values for a product, and optionally the version that they replace. A field that is left out stays."""

    model_config = request_like({"name": "Burger", "price_cents": 850, "active": True})

    name: Name = Field(default_factory=str)  # a factory, so that the document shows no default
    """The name that customers see."""
    price_cents: Price = Field(default_factory=int)
    """The price of one unit in cents. It counts for later orders only."""
    active: bool = Field(default_factory=bool)
    """True if the product can be bought."""
    version: Version = Field(default_factory=int)
    """The version that the values replace. If the product has another one, the answer is 409."""


class Product(BaseModel):
    """A product. If it is not active, it cannot be bought."""

    model_config = answer_like(_PRODUCT)

    id: int
    """The id of the product."""
    sku: str
    """The short name of the product in orders and stock."""
    name: str
    """The name that customers see."""
    price_cents: int
    """The price of one unit in cents."""
    currency: str
    """The currency of the price."""
    active: bool
    """True if the product can be bought."""
    version: int
    """How often the product was written."""

    @classmethod
    def of(cls, product: domain.Product) -> "Product":
        return cls.model_validate(product, from_attributes=True)


class ProductPage(BaseModel):
    """Active products in the order of ids."""

    model_config = answer_like({"products": [_PRODUCT], "next_cursor": None})

    products: list[Product]
    """The products of this page."""
    next_cursor: str | None
    """The `cursor` of the next page, or null on the last page."""


class ProductFilters(BaseModel):
    """Which page of the catalogue to list."""

    model_config = QUERY

    limit: Limit = 20
    """How many products a page has at most."""
    cursor: Cursor | None = None
    """The `next_cursor` of the page before."""


@routes.get("/products/")
@operation(Access.PUBLIC, {200: ProductPage, 304: None}, query=ProductFilters, headers=_CACHED)
async def index(request: web.Request, part: ProductFilters) -> web.Response:
    """List the products that can be bought, a page at a time."""
    after, limit = part.cursor or 0, part.limit + 1
    products = await database.reading(request, lambda conn: store.page(conn, after, limit))
    more = len(products) > part.limit
    shown = [Product.of(product) for product in products[: part.limit]]
    return responses.shared(request, ProductPage(products=shown, next_cursor=str(shown[-1].id) if more else None))


@routes.get("/products/{id}")
@operation(Access.PUBLIC, {200: Product, 304: None}, headers=_CACHED)
async def get(request: web.Request) -> web.Response:
    """Read a product, also if it cannot be bought any more."""
    product_id = requests.path_id(request)
    found = await database.reading(request, lambda conn: service.get(conn, product_id))
    return responses.shared(request, Product.of(found))


@routes.post("/products/")
@operation(
    Access.ADMIN, {201: Product}, body=AddProduct, problems=[409], headers={"Location": "The path of the product."}
)
async def create(request: web.Request, entry: AddProduct) -> web.Response:
    """Add a product to the catalogue."""

    def work(conn: Connection) -> Awaitable[domain.Product]:
        return service.create(conn, entry.sku, entry.name, entry.price_cents, active=entry.active)

    product = await database.writing(request, [entry.sku], work)
    return responses.json(Product.of(product), 201, Location=f"/products/{product.id}")


@routes.patch("/products/{id}")
@operation(Access.ADMIN, {200: Product}, body=ChangeProduct, problems=[409])
async def change(request: web.Request, wanted: ChangeProduct) -> web.Response:
    """Change a product; with `version`, only if that is the one it has."""
    product_id = requests.path_id(request)
    values = wanted.model_dump(exclude_unset=True)
    version = values.pop("version", None)
    # A sku never changes, so it can be read before its lock is taken.
    sku = (await database.reading(request, lambda conn: service.get(conn, product_id))).sku
    product = await database.writing(request, [sku], lambda conn: service.change(conn, product_id, values, version))
    return responses.json(Product.of(product))
