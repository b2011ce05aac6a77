"""What visitors of each service do all the time, so that a test can see if they get errors.

A request has an idempotency key only where the API has one, as with any client.
"""

import random
from collections.abc import Awaitable, Callable
from itertools import count, cycle
from uuid import uuid4

from tests.acceptance.client import Action, Client
from tests.acceptance.people import Person, new_user, registered
from tests.builders import eventually


async def auth_work(client: Client) -> list[Action]:
    """People log in and refresh their latest tokens, and tokens are validated."""
    people = [await new_user(client) for _ in range(8)]
    free = list(people)

    async def refresh() -> None:
        if free:
            person = free.pop(0)
            if (await person.refresh()).status == 401:  # an answer was lost, so the session has ended
                await person.log_in()
            free.append(person)

    async def log_in() -> None:
        await Person(client, random.choice(people).username).log_in()

    async def log_in_and_out() -> None:
        session = Person(client, random.choice(people).username)
        await session.log_in()
        await session.log_out()

    async def validate() -> None:
        await random.choice(people).send("GET", "/auth/validate")

    async def keys() -> None:
        await client.send("GET", "/auth/jwks.json", {})

    return [refresh, validate, refresh, log_in, refresh, validate, refresh, keys, refresh, log_in_and_out]


async def users_work(client: Client) -> list[Action]:
    """People read and change their profiles, without idempotency keys."""
    people = cycle([await new_user(client) for _ in range(5)])
    numbers = count()

    async def look() -> None:
        person = next(people)
        await person.send("GET", "/users/me")
        await person.send("GET", f"/users/{person.id}")

    async def change() -> None:
        person = next(people)
        await person.send("PATCH", f"/users/{person.id}", {"display_name": f"Number {next(numbers)}"})

    async def list_all() -> None:
        await client.administer("GET", "/users/?limit=3")

    return [change, look, change, list_all, change]


async def new_product(client: Client) -> tuple[int, str]:
    """Create a product for this test; return its id and sku when inventory knows it."""
    sku = f"soup-{uuid4().hex[:12]}"
    made = await client.administer("POST", "/products/", {"sku": sku, "name": "Soup", "price_cents": 300})
    assert made.status == 201, made

    async def is_known() -> bool:
        return (await client.ask(f"/inventory/{sku}")).status == 200

    await eventually(is_known)
    return made.answer["id"], sku


async def products_work(client: Client) -> list[Action]:
    """The catalogue is read without a token, and an administrator changes it, without idempotency keys."""
    product_id, _ = await new_product(client)
    numbers = count()

    async def look() -> None:
        await client.send("GET", "/products/", {})
        await client.send("GET", f"/products/{product_id}", {})

    async def change() -> None:
        await client.administer("PATCH", f"/products/{product_id}", {"name": f"Soup of day {next(numbers)}"})

    return [change, look, change]


async def inventory_work(client: Client) -> list[Action]:
    """The stock of a product is read, and an administrator adds to it."""
    _, sku = await new_product(client)

    async def look() -> None:
        await client.ask(f"/inventory/{sku}")

    async def restock() -> None:
        await client.restock(sku, 3)

    return [restock, look, restock]


async def payments_work(client: Client) -> list[Action]:
    """A user reads a payment."""
    person = await registered(client)
    placed = await person.order(1, "burger")
    await person.outcome(placed.answer["id"])

    async def look() -> None:
        await person.send("GET", f"/payments/{placed.answer['id']}")

    return [look]


WORK: dict[str, Callable[[Client], Awaitable[list[Action]]]] = {
    "auth": auth_work,
    "users": users_work,
    "products": products_work,
    "inventory": inventory_work,
    "payments": payments_work,
}
"""By service: a function that prepares what it needs, and returns the actions to be done in turn."""
