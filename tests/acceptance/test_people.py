"""From registration to deletion, and from a new product to its sale: events reach the other services."""

from typing import Any
from uuid import uuid4

from tests.acceptance.conftest import System
from tests.acceptance.people import Person, administrator, registered
from tests.builders import eventually

AT_ONCE = 10.0
"""The longest time until the gateway refuses an ended session.

The gateway caches an answer of auth for two seconds, and auth reads ended sessions every second.
"""


def port_url(system: System, service: str) -> str:
    """The URL of the service's own port."""
    return f"http://127.0.0.1:{system.stack.ports.services[service]}"


async def until(person: Person, path: str, status: int, seconds: float = AT_ONCE) -> dict[str, Any]:
    """Repeat a GET until it answers with this status; return the answer."""

    async def is_answered() -> Any:
        call = await person.send("GET", path)
        return call if call.status == status else None

    answer: dict[str, Any] = (await eventually(is_answered, seconds=seconds, pause=0.05)).answer
    return answer


async def test_profile_is_created_changed_and_deleted_with_its_login(system: System) -> None:
    async with system.customers(system.gateway_url) as client, system.customers(port_url(system, "users")) as at_users:
        admin, ann = await administrator(client), await registered(client)
        profile = await until(ann, "/users/me", 200)
        assert (profile["id"], profile["username"], profile["version"]) == (int(ann.id), ann.username, 1)
        own = f"/users/{ann.id}"
        changed = await ann.send("PATCH", own, {"display_name": "Ann", "email": "ann@example.org"})
        assert (changed.status, changed.answer["display_name"], changed.answer["version"]) == (200, "Ann", 2)
        assert (await ann.send("GET", own)).answer == changed.answer

        assert (await ann.send("DELETE", own)).status == 204
        for change in (None, {"display_name": "Bob"}):  # 401 when the service has heard of the end of the session
            answer = await at_users.send("PATCH" if change else "GET", own, ann.headers, change)
            assert answer.status in {401, 404}
        assert (await admin.send("GET", own)).status == 404
        await until(ann, "/orders/", 401)
        assert (await ann.log_in()).status == 401
        assert (await ann.refresh()).status == 401

        again = await registered(client, ann.username)  # the username is free again, for a new user
        assert again.id != ann.id
        assert (await until(again, "/users/me", 200))["display_name"] == ""
        assert (await again.send("GET", own)).status == 404
    await system.settled()


async def test_gateway_and_services_refuse_a_session_after_logout(system: System) -> None:
    async with system.customers(system.gateway_url) as client, system.customers(system.orders_url) as at_orders:
        ann = await registered(client)
        elsewhere = Person(client, ann.username)
        assert (await elsewhere.log_in()).status == 200
        assert (await ann.send("GET", "/orders/")).status == 200
        assert (await ann.log_out()).status == 204
        await until(ann, "/orders/", 401)

        async def is_refused_at_the_port() -> bool:
            return (await at_orders.send("GET", "/orders/", ann.headers)).status == 401

        await eventually(is_refused_at_the_port, seconds=AT_ONCE)
        assert (await client.send("GET", "/auth/ended", {})).status == 404  # only at the port of auth
        assert (await ann.refresh()).status == 401
        assert (await elsewhere.send("GET", "/orders/")).status == 200  # another session of the same user continues
        assert (await elsewhere.refresh()).status == 200
    await system.settled()


async def test_new_product_is_sold_after_a_restock_and_orders_keep_their_snapshot(system: System) -> None:
    async with system.customers(system.gateway_url) as client:
        admin, ann = await administrator(client), await registered(client)
        sku = f"stew-{uuid4().hex[:12]}"
        made = (await admin.send("POST", "/products/", {"sku": sku, "name": "Stew", "price_cents": 700})).answer
        assert (await until(ann, f"/inventory/{sku}", 200))["available"] == 0

        key = uuid4().hex

        async def is_accepted() -> Any:
            call = await ann.order(made["id"], sku, 2, key)
            assert call.status in {202, 404}
            return call.answer.get("id")

        none_left = await ann.outcome(await eventually(is_accepted, pause=0.05))
        assert (none_left["status"], none_left["reason"]) == ("CANCELLED", "out_of_stock")
        assert (await client.restock(sku, 10)).answer["available"] == 10
        first = await ann.outcome((await ann.order(made["id"], sku, 2)).answer["id"])
        assert first["status"] == "CONFIRMED"

        change = {"name": "Soup", "price_cents": 900, "version": made["version"]}
        assert (await admin.send("PATCH", f"/products/{made['id']}", change)).status == 200
        placed: list[int] = []

        async def has_new_price() -> bool:
            placed.append((await ann.order(made["id"], sku)).answer["id"])
            await ann.outcome(placed[-1])
            payment = await ann.send("GET", f"/payments/{placed[-1]}")
            return bool(payment.answer["amount_cents"] == 900)

        await eventually(has_new_price, pause=0.3)
    evidence = await system.settled()
    was, is_ = evidence.orders[first["id"]], evidence.orders[placed[-1]]
    assert (was["amount_cents"], is_["amount_cents"]) == (1400, 900)
    product = {"product_id": made["id"], "sku": sku, "currency": "EUR"}
    assert was["product"] == {**product, "name": "Stew", "price_cents": 700, "version": 1}
    assert is_["product"] == {**product, "name": "Soup", "price_cents": 900, "version": 2}
