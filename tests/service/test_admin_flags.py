"""Failure flags, and the books that have to agree."""

from datetime import UTC, datetime
from typing import Any

import pytest

from payments import provider
from payments.provider import FLAGS, SimulatedProvider
from shared.errors import Conflict, Invalid
from shared.process.flags import MAX_FLAGS, Flag, Flags, in_seconds
from shared.web import database
from tests.builders import record
from tests.service.conftest import Client, Serve
from tests.service.test_admin_api import declined, do, handling_of, paid, place, shown
from tests.tokens import Mint

DRILL = {"name": "fail_handler", "type": "PaymentSucceeded", "reason": "a drill"}


@pytest.fixture
async def orders(serve: Serve) -> Client:
    return await serve("orders", failure_flags=True)


async def statuses(client: Client) -> list[str]:
    return [row["status"] for row in await client.app[database.POOL].fetch("select status from orders order by id")]


async def test_without_the_setting_no_flag_can_be_set(serve: Serve, mint: Mint) -> None:
    status, detail = await do(await serve("orders"), mint, "flags", **DRILL)
    assert status == 409
    assert "FAILURE_FLAGS=true" in detail


async def test_a_flag_makes_a_handler_fail_at_one_key_until_it_is_ended(orders: Client, mint: Mint) -> None:
    ids = [await place(orders, mint) for _ in range(2)]
    status, flag = await do(orders, mint, "flags", **DRILL, key=str(ids[0]))
    assert status == 201

    left = await handling_of(orders).handle([record(paid(id_)) for id_ in ids])
    assert await statuses(orders) == ["PENDING", "CONFIRMED"]
    [active] = (await shown(orders, mint, "flags"))["flags"]
    assert (active["id"], active["key"], active["reason"]) == (flag["id"], str(ids[0]), "a drill")

    assert await do(orders, mint, f"flags/{flag['id']}/end") == (200, {"ended": True})
    await handling_of(orders).handle(left)
    assert await statuses(orders) == ["CONFIRMED", "CONFIRMED"]
    assert (await do(orders, mint, f"flags/{flag['id']}/end"))[0] == 404


async def test_a_flag_of_one_type_spares_the_others(orders: Client, mint: Mint) -> None:
    order_id = await place(orders, mint)
    await do(orders, mint, "flags", **DRILL)
    await handling_of(orders).handle([record(declined(order_id))])
    assert await statuses(orders) == ["CANCELLED"]


def test_a_flag_ends_by_itself() -> None:
    flags = Flags({"fail_handler": ""})
    flags.set(Flag("fail_handler", datetime.now(UTC), "1", "a drill"))
    assert flags.find("fail_handler") is None
    flags.set(Flag("fail_handler", in_seconds(60), "1", "a drill"))
    assert flags.find("fail_handler") is not None


def test_only_so_many_known_flags_can_be_set() -> None:
    flags = Flags({"fail_handler": ""})
    with pytest.raises(Invalid, match="only fail_handler"):
        flags.set(Flag("explode", in_seconds(60), "1", "a drill"))
    for _ in range(MAX_FLAGS):
        flags.set(Flag("fail_handler", in_seconds(60), "1", "a drill"))
    with pytest.raises(Conflict, match="end one first"):
        flags.set(Flag("fail_handler", in_seconds(60), "1", "a drill"))


@pytest.mark.parametrize("wrong", [{"seconds": 0}, {"seconds": 3601}, {"reason": ""}, {"name": None}])
async def test_a_bad_flag_is_refused(orders: Client, mint: Mint, wrong: dict[str, Any]) -> None:
    assert (await do(orders, mint, "flags", **DRILL | wrong))[0] == 400


async def test_payments_has_flags_of_its_provider(serve: Serve, mint: Mint) -> None:
    payments = await serve("payments", failure_flags=True)
    found = await shown(payments, mint, "flags")
    assert found["allowed"].keys() == {"fail_handler", *FLAGS}
    assert found["types"] == ["InventoryReserved", "OrderCancelled"]


async def test_a_flag_makes_the_provider_decline(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    simulated = SimulatedProvider("postgresql://nowhere")
    simulated.flags = Flags(FLAGS)

    async def note(move: Any) -> Any:
        asked.append(move.kind)
        return object()

    monkeypatch.setattr(simulated, "_submit", note)
    await simulated.charge("k", 850, "EUR")
    id_ = simulated.flags.set(Flag(provider.DECLINE, in_seconds(60), "1", "a drill"))
    await simulated.charge("k", 850, "EUR")
    simulated.flags.end(id_, "1")
    await simulated.charge("k", 850, "EUR")

    assert asked == ["capture", "decline", "capture"]


async def test_the_books_of_the_services_agree_if_nothing_was_lost(serve: Serve, mint: Mint) -> None:
    orders, inventory, payments = [await serve(name) for name in ("orders", "inventory", "payments")]
    ids = [await place(orders, mint) for _ in range(3)]
    pool = orders.app[database.POOL]
    await pool.execute(
        "update orders set status = 'CONFIRMED', expires_at = now() - interval '2 minutes' where id < $1", ids[2]
    )
    await inventory.app[database.POOL].executemany(
        "insert into reservations (order_id, sku, quantity, status, version) values ($1, 'burger', 2, 'SOLD', 2)",
        [(id_,) for id_ in ids],
    )
    await payments.app[database.POOL].execute(
        "insert into payments (order_id, status, amount_cents, currency, expires_at, claim, claimed_until, "
        "cancel_requested, version, attempts) values ($1, 'SUCCEEDED', 1700, 'EUR', now(), 0, now(), false, 1, 0)",
        ids[0],
    )
    found = (await shown(orders, mint, "books"))["books"]
    assert found == {"first": ids[0], "last": ids[1], "count": 2, "units": 4, "cents": 3400}
    same = {"first": found["first"], "last": found["last"]}
    assert (await shown(inventory, mint, "books", **same))["books"] == {"count": 2, "units": 4}
    assert (await shown(payments, mint, "books", **same))["books"] == {"count": 1, "cents": 1700}


async def test_a_service_without_a_part_of_an_order_has_no_books(serve: Serve, mint: Mint) -> None:
    assert (await shown(await serve("users"), mint, "books", first=1, last=2))["books"] is None
