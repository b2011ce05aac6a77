"""Access rights: every caller with every operation, at the gateway and at each service's own port.

The operations are read from the services' OpenAPI documents: an operation that is not in the table fails the test.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import product
from time import time
from typing import Any
from uuid import uuid4

from local.nginx import SERVICES
from tests.acceptance.client import Client
from tests.acceptance.conftest import System
from tests.acceptance.people import PASSWORD, Person, administrator, new_user
from tests.builders import eventually
from tests.tokens import Mint

CALLERS = ("nobody", "forged", "expired", "other", "owner", "admin")
VERBS = {"get", "post", "put", "patch", "delete", "head", "options"}

# 401: no valid token. 403: this role is not allowed. 404: another user's object. 409: the caller's own order, which is
# final and cannot be cancelled, or the password of `admin`, which is a setting. "401/200" means 401 at the gateway and
# 200 at the service's own port: there, the orders service of the local stack needs no token (REQUIRE_TOKEN=false) and
# trusts every client that can reach it; the user is the one in the body, if there is one. Administrators also order
# only for themselves.
EXPECTED = """
                                         nobody   forged  expired  other  owner  admin
auth      POST    /auth/register         201      201     201      201    201    201
auth      POST    /auth/login            200      200     200      200    200    200
auth      POST    /auth/visitor          200      200     200      200    200    200
auth      POST    /auth/refresh          200      200     200      200    200    200
auth      POST    /auth/logout           204      204     204      204    204    204
auth      POST    /auth/password         401      401     401      204    204    409
auth      GET     /auth/sessions         401      401     401      200    200    200
auth      DELETE  /auth/sessions/{session} 401    401     401      404    204    404
auth      PUT     /auth/admins/{user_id} 401      401     401      403    403    204
auth      DELETE  /auth/admins/{user_id} 401      401     401      403    403    204
auth      GET     /auth/validate         401      401     401      204    204    204
auth      GET     /auth/jwks.json        200      200     200      200    200    200
users     GET     /users/me              401      401     401      200    200    200
users     PATCH   /users/me              401      401     401      200    200    200
users     DELETE  /users/me              401      401     401      204    204    409
users     GET     /users/                401      401     401      403    403    200
users     GET     /users/{id}            401      401     401      404    200    200
users     PATCH   /users/{id}            401      401     401      404    200    200
users     DELETE  /users/{id}            401      401     401      404    204    204
products  GET     /products/             200      200     200      200    200    200
products  GET     /products/{id}         200      200     200      200    200    200
products  POST    /products/             401      401     401      403    403    201
products  PATCH   /products/{id}         401      401     401      403    403    200
inventory GET     /inventory/{sku}       401      401     401      200    200    200
inventory POST    /inventory/{sku}/restock 401    401     401      403    403    200
payments  GET     /payments/{order_id}   401      401     401      404    200    200
orders    POST    /orders/               401      401     401      202    202    202
orders    GET     /orders/               401      401     401      200    200    200
orders    GET     /orders/?user_id=owner 401      401     401      403    200    200
orders    GET     /orders/{id}           401      401     401      404    200    200
orders    POST    /orders/{id}/cancel    401      401     401      404    409    409
orders    POST    /v1/orders             401/202  401     401      403    202    403
orders    GET     /v1/orders             401/200  401     401      200    200    200
orders    GET     /v1/orders?userId=owner 401/200 401     401      403    200    200
orders    GET     /v1/orders/{id}        401/200  401     401      404    200    200
orders    POST    /v1/orders/{id}/cancel 401/409  401     401      404    409    409
"""

Cell = tuple[str, str, str, str, str]
"""Entry ("gateway" or "port"), service, verb, path and caller."""


def cells() -> dict[Cell, int]:
    """The expected status of every cell of the table."""
    header, *rows = EXPECTED.strip().splitlines()
    assert tuple(header.split()) == CALLERS
    found = {}
    for service, verb, path, *statuses in map(str.split, rows):
        for caller, status in zip(CALLERS, statuses, strict=True):
            at_gateway, _, at_port = status.partition("/")
            found["gateway", service, verb, path, caller] = int(at_gateway)
            found["port", service, verb, path, caller] = int(at_port or at_gateway)
    return found


@dataclass
class Shop:
    """What the requests use: an owner and another user, one final order of each, and a product for sale."""

    gateway: Client
    owner: Person
    other: Person
    admin: Person
    sku: str
    product_id: int
    order_id: int
    tokens: dict[str, str]

    def headers(self, caller: str) -> dict[str, str]:
        """The caller's token, and forged headers of the gateway that claim to be the owner and an administrator."""
        claims = {"X-User-Id": self.owner.id, "X-User-Roles": "admin"}
        return claims | ({"Authorization": f"Bearer {self.tokens[caller]}"} if caller in self.tokens else {})

    def buyer(self, path: str, caller: str) -> str:
        """The user of a new order: the caller for `/orders/`, the owner in the body for `/v1/orders`."""
        return {"other": self.other, "admin": self.admin}.get(caller if path == "/orders/" else "", self.owner).id


def name() -> str:
    return f"x{uuid4().hex[:20]}"


BODIES: dict[str, Callable[[Shop], dict[str, Any]]] = {
    "POST /auth/register": lambda _: {"username": name(), "password": PASSWORD},
    "POST /auth/login": lambda shop: {"username": shop.owner.username, "password": PASSWORD},
    "POST /auth/refresh": lambda shop: {"refresh_token": shop.other.refresh_token},
    "POST /auth/logout": lambda _: {"refresh_token": "nobody's"},
    "POST /auth/password": lambda _: {"old_password": PASSWORD, "new_password": PASSWORD},
    "PATCH /users/{id}": lambda _: {"display_name": name()},
    "PATCH /users/me": lambda _: {"display_name": name()},
    "POST /products/": lambda _: {"sku": name(), "name": "Soup", "price_cents": 450},
    "PATCH /products/{id}": lambda _: {"name": name()},
    "POST /inventory/{sku}/restock": lambda _: {"quantity": 5},
    "POST /orders/": lambda shop: {"product_id": shop.product_id, "quantity": 1},
    "POST /v1/orders": lambda shop: {"userId": shop.owner.id, "sku": shop.sku, "quantity": 1},
}


async def ask(client: Client, shop: Shop, cell: Cell) -> int | None:
    """Send the request of a cell; return the status of the answer."""
    entry, _, verb, path, caller = cell
    headers, subject = shop.headers(caller), shop.owner
    if verb in {"PUT", "DELETE"}:  # a new user each time, because a deleted user cannot be deleted again
        subject = await new_user(shop.gateway)
        headers |= subject.headers if caller == "owner" or (caller, path) == ("other", "/users/me") else {}
    if path == "/auth/refresh":
        await shop.other.log_in()  # in a new session
    ids = {"users": subject.id, "products": shop.product_id}
    of_subject = {"user_id": subject.id, "session": subject.refresh_token.partition(".")[0]}
    at = path.format(id=ids.get(path.split("/")[1], shop.order_id), order_id=shop.order_id, sku=shop.sku, **of_subject)
    make = BODIES.get(f"{verb} {path}")
    body = make(shop) if make else None
    may_see_all = caller == "admin" or (caller, entry) == ("nobody", "port")
    about: dict[str, Any] = {
        "caller": None if may_see_all else {"other": shop.other.id, "owner": subject.id}.get(caller, "")
    }
    if body and path in {"/orders/", "/v1/orders"}:
        meant = {"userId": shop.buyer(path, caller), "sku": shop.sku, "quantity": 1}
        about |= {"kind": "place", "key": uuid4().hex, "body": meant}
    if body and path.endswith("/restock"):
        about |= {"kind": "restock", "key": uuid4().hex, "body": {"sku": shop.sku} | body}
    return (await client.send(verb, at.replace("=owner", f"={shop.owner.id}"), headers, body, **about)).status


@asynccontextmanager
async def opened_shop(system: System) -> AsyncIterator[Shop]:
    """A shop with real users, reached through the gateway."""
    async with system.customers(system.gateway_url) as client:
        admin, owner, other = await administrator(client), await new_user(client), await new_user(client)
        made = await admin.send("POST", "/products/", {"sku": name(), "name": "Stew", "price_cents": 700})
        sku, product_id = made.answer["sku"], made.answer["id"]

        async def can_be_bought() -> bool:
            restocked = await client.restock(sku, 100, f"first of {sku}")
            return restocked.status == 200 and (await owner.order(product_id, sku, key=f"o{sku}")).status == 202

        await eventually(can_be_bought, pause=0.1)
        placed = await owner.order(product_id, sku)
        await owner.outcome(placed.answer["id"])
        await other.outcome((await other.order(product_id, sku)).answer["id"])
        assert system.mint is not None
        tokens = {
            "forged": Mint(system.mint.kid).token(owner.id, "admin"),
            "expired": system.mint.token(owner.id, exp=int(time()) - 60),
            "other": other.token,
            "owner": owner.token,
            "admin": admin.token,
        }
        yield Shop(client, owner, other, admin, sku, product_id, placed.answer["id"], tokens)


async def documented(client: Client) -> set[tuple[str, str, str]]:
    """Every operation of every service, read from their documents."""
    documents = {service: (await client.ask(f"/openapi/{service}.json")).answer for service in SERVICES}
    return {
        (service, verb.upper(), path)
        for service, document in documents.items()
        for path, item in document["paths"].items()
        for verb in item.keys() & VERBS
    }


async def test_every_caller_can_do_exactly_what_the_table_allows(system: System) -> None:
    expected = cells()
    async with opened_shop(system) as shop, AsyncExitStack() as stack:
        in_table = {(service, verb, path.partition("?")[0]) for _, service, verb, path, _ in expected}
        assert in_table == await documented(shop.gateway)
        ports = {
            service: await stack.enter_async_context(system.customers(f"http://127.0.0.1:{port}"))
            for service, port in system.stack.ports.services.items()
        }
        found = {}
        for cell in expected:
            entry, service, *_ = cell
            found[cell] = await ask(ports[service] if entry == "port" else shop.gateway, shop, cell)
        wrong = {cell: (found[cell], status) for cell, status in expected.items() if found[cell] != status}
        assert not wrong, "\n".join(f"{cell}: {is_}, not {should}" for cell, (is_, should) in wrong.items())
        # None of these requests changed the owner or the order.
        assert (await shop.owner.send("GET", "/users/me")).answer["username"] == shop.owner.username
        assert (await shop.owner.send("GET", f"/orders/{shop.order_id}")).answer["status"] == "CONFIRMED"
    await system.settled()


async def test_lists_show_all_own_orders_and_no_others(system: System) -> None:
    async with (
        opened_shop(system) as shop,
        system.customers(system.orders_url) as direct,
    ):
        people = [await new_user(shop.gateway) for _ in range(3)]
        own: dict[str, set[int]] = {
            person.id: {(await person.order(shop.product_id, shop.sku)).answer["id"] for _ in range(5)}
            for person in people
        }
        for person, client, path in product(people, (shop.gateway, direct), ("/orders/", "/v1/orders")):
            owner = "user_id" if path == "/orders/" else "userId"
            for query in ("", f"{owner}={person.id}&", f"sku={shop.sku}&"):
                assert await pages(client, person, f"{path}?{query}") == own[person.id]
        assert await pages(shop.gateway, shop.admin, f"/orders/?sku={shop.sku}&") >= set().union(*own.values())
    await system.settled()


async def pages(client: Client, person: Person, path: str) -> set[int]:
    """Read all pages of a list of orders; return the ids."""
    found: list[int] = []
    cursor: str | None = ""
    while cursor is not None:
        sent = path + "limit=2" + (f"&cursor={cursor}" if cursor else "")
        page = await client.send("GET", sent, person.headers, caller=person.caller)
        assert page.status == 200, page
        found += [order["id"] for order in page.answer["orders"]]
        cursor = page.answer["next_cursor"]
    assert len(found) == len(set(found))
    return set(found)
