"""HTTP in: the catalogue. Anybody may read it, administrators change it. Parse, call one use case, answer."""

from collections.abc import Awaitable
from typing import Annotated, Literal

from aiohttp import web
from pydantic import BaseModel, Field

from products import service, store
from products.domain import Product
from shared.postgres import Connection
from shared.web import database, requests, responses
from shared.web.fields import QUERY, Cursor, Limit, Line, request_like
from shared.web.operations import Access, operation

Sku = Annotated[str, Field(pattern="^[a-z0-9][a-z0-9._-]{0,63}$")]
Name = Annotated[str, Line(128)]
Price = Annotated[int, Field(ge=0, le=10**9)]
Version = Annotated[int, Field(gt=0, lt=2**31)]

routes = web.RouteTableDef()


class Entry(BaseModel):
    """A new product; its sku is its own for ever."""

    model_config = request_like(
        {"sku": "ramen", "name": "Ramen", "price_cents": 1450, "currency": "EUR", "active": True}
    )

    sku: Sku
    name: Name
    price_cents: Price
    currency: Literal["EUR"] = "EUR"
    active: bool = True


class Change(BaseModel):
    """What is new of a product, and the version that is meant to be changed; what is left out stays as it is."""

    model_config = request_like({"name": "Burger", "price_cents": 850, "active": True, "version": 1})

    name: Name = Field(default_factory=str)  # a factory, so that the document shows no default
    price_cents: Price = Field(default_factory=int)
    active: bool = Field(default_factory=bool)
    version: Version = Field(default_factory=int)


class Shown(BaseModel):
    """A product; one that is not active cannot be bought."""

    id: int
    sku: str
    name: str
    price_cents: int
    currency: str
    active: bool
    version: int

    @classmethod
    def of(cls, product: Product) -> "Shown":
        """Show all of it."""
        return cls.model_validate(product, from_attributes=True)


class Page(BaseModel):
    """Active products by their ids; `next_cursor` is where the next page begins, or null."""

    products: list[Shown]
    next_cursor: str | None


class Part(BaseModel):
    """Which part of the catalogue to list."""

    model_config = QUERY

    limit: Limit = 20
    cursor: Cursor | None = None


@routes.get("/products/")
@operation(Access.PUBLIC, {200: Page}, query=Part)
async def index(request: web.Request, part: Part) -> web.Response:
    """List what can be bought, a page at a time."""
    after, limit = part.cursor or 0, part.limit + 1
    products = await database.reading(request, lambda conn: store.page(conn, after, limit))
    more = len(products) > part.limit
    shown = [Shown.of(product) for product in products[: part.limit]]
    return responses.json(Page(products=shown, next_cursor=str(shown[-1].id) if more else None))


@routes.get("/products/{id}")
@operation(Access.PUBLIC, {200: Shown})
async def get(request: web.Request) -> web.Response:
    """Show a product, also one that cannot be bought any more."""
    product_id = requests.path_id(request)
    return responses.json(Shown.of(await database.reading(request, lambda conn: service.get(conn, product_id))))


@routes.post("/products/")
@operation(Access.ADMIN, {201: Shown}, body=Entry, problems=[409], headers={"Location": "Where the product is."})
async def create(request: web.Request, entry: Entry) -> web.Response:
    """Add a product to the catalogue."""

    def work(conn: Connection) -> Awaitable[Product]:
        return service.create(conn, entry.sku, entry.name, entry.price_cents, active=entry.active)

    product = await database.writing(request, [entry.sku], work)
    return responses.json(Shown.of(product), 201, Location=f"/products/{product.id}")


@routes.patch("/products/{id}")
@operation(Access.ADMIN, {200: Shown}, body=Change, problems=[409])
async def change(request: web.Request, wanted: Change) -> web.Response:
    """Change a product; with `version`, only if that is the one it has."""
    product_id = requests.path_id(request)
    values = wanted.model_dump(exclude_unset=True)
    version = values.pop("version", None)
    # A sku never changes, so it can be read before its lock is taken.
    sku = (await database.reading(request, lambda conn: service.get(conn, product_id))).sku
    product = await database.writing(request, [sku], lambda conn: service.change(conn, product_id, values, version))
    return responses.json(Shown.of(product))
