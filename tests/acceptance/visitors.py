"""What visitors of each service do all day, so that a test can look whether they are disturbed.

Only what an idempotency key protects has one, as with any client.
"""

import random
from collections.abc import Awaitable, Callable
from itertools import count, cycle
from uuid import uuid4

from tests.acceptance.client import Act, Client
from tests.acceptance.people import Person, newcomer, registered
from tests.builders import eventually


async def auths_work(client: Client) -> list[Act]:
    """People log in, each refreshes what they were given last, and services ask who they are."""
    people = [await newcomer(client) for _ in range(8)]
    free = list(people)

    async def refresh() -> None:
        if free:
            person = free.pop(0)
            if (await person.refresh()).status == 401:  # an answer was lost, and with it the session
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


async def users_work(client: Client) -> list[Act]:
    """People look at their profiles, and change them, without any key."""
    people = cycle([await newcomer(client) for _ in range(5)])
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
    """A product of the test's own: its id, and its sku once inventory knows it."""
    sku = f"soup-{uuid4().hex[:12]}"
    made = await client.administer("POST", "/products/", {"sku": sku, "name": "Soup", "price_cents": 300})
    assert made.status == 201, made

    async def is_known() -> bool:
        return (await client.ask(f"/inventory/{sku}")).status == 200

    await eventually(is_known)
    return made.answer["id"], sku


async def products_work(client: Client) -> list[Act]:
    """Anybody looks at the catalogue, and an administrator changes it, without any key."""
    product_id, _ = await new_product(client)
    numbers = count()

    async def look() -> None:
        await client.send("GET", "/products/", {})
        await client.send("GET", f"/products/{product_id}", {})

    async def change() -> None:
        await client.administer("PATCH", f"/products/{product_id}", {"name": f"Soup of day {next(numbers)}"})

    return [change, look, change]


async def inventorys_work(client: Client) -> list[Act]:
    """Anybody looks how much there is, and an administrator adds to it."""
    _, sku = await new_product(client)

    async def look() -> None:
        await client.ask(f"/inventory/{sku}")

    async def restock() -> None:
        await client.restock(sku, 3)

    return [restock, look, restock]


async def payments_work(client: Client) -> list[Act]:
    """People look whether they have paid."""
    person = await registered(client)
    placed = await person.order(1, "burger")
    await person.outcome(placed.answer["id"])

    async def look() -> None:
        await person.send("GET", f"/payments/{placed.answer['id']}")

    return [look]


WORK: dict[str, Callable[[Client], Awaitable[list[Act]]]] = {
    "auth": auths_work,
    "users": users_work,
    "products": products_work,
    "inventory": inventorys_work,
    "payments": payments_work,
}
"""By the service; each prepares what it needs, and gives what is to be done in turn."""
