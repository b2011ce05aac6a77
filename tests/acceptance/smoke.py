"""`make smoke URL=https://shop.example`: some customers shop through a gateway, and each answer is checked.

What must stay true: it needs only the public API, and it deletes the users that it registers. So it may run against a
shop that real customers use. `SSL_CERT_FILE` names the certificate of a gateway that made its own.
"""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import typer

from tests.acceptance.client import Client, opened, wrong_answers
from tests.acceptance.people import Person, new_user

CUSTOMERS = 3
ORDER_SECONDS = 20.0
"""How long an order may take until it is CONFIRMED."""


class Wrong(Exception):
    """An answer is not what a customer must get."""


def expect(what: str, found: object, *wanted: object) -> None:
    """Raise `Wrong` if `found` is none of `wanted`."""
    if found not in wanted:
        raise Wrong(f"{what}: {found!r:.300}, and not {' or '.join(map(repr, wanted))}")


async def visit(client: Client, sku: str, seconds: float = ORDER_SECONDS) -> list[float]:
    """Let customers order the product at the same time. Returns the seconds until each order was CONFIRMED.

    Raises `Wrong`, `AssertionError` or `TimeoutError` if a customer got a wrong answer, or none.
    """
    catalogue = await client.send("GET", "/products/", {})
    expect("GET /products/", catalogue.status, 200)
    offers = {one["sku"]: one["id"] for one in catalogue.answer.get("products", [])}
    expect(f"{sku} is in the catalogue", sku in offers, True)
    refused = await client.send("GET", "/orders/", {})
    expect("GET /orders/ without a token", refused.status, 401)
    visits = [_shop(client, offers[sku], sku, seconds) for _ in range(CUSTOMERS)]
    ends = await asyncio.gather(*visits, return_exceptions=True)  # each deletes its users, also if another fails
    took = [_raised_or(end) for end in ends]
    expect("answers that no customer should get", wrong_answers(client.history), [])
    return took


def _raised_or(end: float | BaseException) -> float:
    """Raise an error, or return the time."""
    if isinstance(end, BaseException):
        raise end
    return end


async def _shop(client: Client, product_id: int, sku: str, seconds: float) -> float:
    """Order, repeat the order with its key, wait for its end, and see that a stranger cannot read it."""
    async with _customer(client) as one:
        started = time.monotonic()
        placed = await one.order(product_id, sku, key=f"smoke-{one.id}")
        expect("POST /orders/", placed.status, 202)
        again = await one.order(product_id, sku, key=f"smoke-{one.id}")
        expect("the same order again", again.answer.get("id"), placed.answer["id"])
        path = f"/orders/{placed.answer['id']}"
        ended = await client.send("GET", f"{path}?wait={seconds:g}", one.headers, wait=seconds)
        took = time.monotonic() - started
        expect(f"the order after {took:.1f} s", _seen(ended.answer), ("CONFIRMED", None))
        mine = await one.send("GET", "/orders/")
        expect("GET /orders/", [order["id"] for order in mine.answer.get("orders", [])], [placed.answer["id"]])
        async with _customer(client) as stranger:
            expect("the order for a stranger", (await stranger.send("GET", path)).status, 404)
        return took


def _seen(order: dict[str, Any]) -> tuple[Any, Any]:
    return order.get("status"), order.get("reason")


@asynccontextmanager
async def _customer(client: Client) -> AsyncIterator[Person]:
    """A new user, who is deleted at the end."""
    made = await new_user(client)
    try:
        yield made
    finally:
        expect("DELETE of the user", (await made.send("DELETE", f"/users/{made.id}")).status, 204)


async def _run(url: str, sku: str) -> list[float]:
    async with opened([url.rstrip("/")], lambda _: {}, []) as client:
        return await visit(client, sku)


def main(
    url: Annotated[str, typer.Argument(help="The address of a gateway.")],
    sku: Annotated[str, typer.Option(help="A product in stock.")] = "burger",
) -> None:
    """Let some customers shop, and exit with 1 at the first wrong answer."""
    try:
        took = asyncio.run(_run(url, sku))
    except (Wrong, AssertionError, TimeoutError) as error:
        typer.echo(f"smoke: {type(error).__name__}: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"smoke: {len(took)} orders of {sku} are CONFIRMED, after {statistics.median(took):.2f} s in the middle")


if __name__ == "__main__":
    typer.run(main)
