import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from itertools import count, permutations, product
from random import Random
from typing import Any

import asyncpg
import orjson
import pytest

from contracts.orders import OrderCancelled, OrderConfirmed, OrderCreated
from contracts.products import ProductChanged, ProductCreated
from inventory import consumer, service, store
from inventory.domain import Status
from shared import postgres
from shared.delivery.events import Event
from shared.delivery.handling import Handling
from shared.postgres import Pool
from tests.builders import eventually, order_created, record
from tests.conftest import Database


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[Pool]:
    async with database.owned_by("inventory") as owner:
        await owner.execute("truncate stock")
    async with postgres.pool(database.url_for("inventory"), size=8, name="test") as opened:
        yield opened


@pytest.fixture
def handling(pool: Pool) -> Handling:
    return Handling(pool, "inventory", consumer.HANDLERS, also_lock=service.STOCK_LOCK)


def confirmed(order: OrderCreated) -> OrderConfirmed:
    return OrderConfirmed(version=2, order_id=order.order_id, sku=order.sku, quantity=order.quantity)


def cancelled(order: OrderCreated) -> OrderCancelled:
    fields = {"order_id": order.order_id, "sku": order.sku, "quantity": order.quantity}
    return OrderCancelled(version=2, reason="payment_declined", **fields)


def product_event(model: type[ProductCreated | ProductChanged], sku: str) -> ProductCreated | ProductChanged:
    return model(version=1, product_id=1, sku=sku, name=sku, price_cents=850, currency="EUR", active=True)


async def supply(pool: Pool, **units: int) -> None:
    await pool.executemany("insert into stock (sku, available) values ($1, $2)", units.items())


async def stock(pool: Pool) -> dict[str, tuple[int, int, int]]:
    rows = await pool.fetch("select sku, available, held, sold from stock")
    return {row["sku"]: (row["available"], row["held"], row["sold"]) for row in rows}


async def statuses(pool: Pool) -> dict[int, str]:
    return dict(await pool.fetch("select order_id, status from reservations"))


async def published(pool: Pool) -> dict[int, list[str]]:
    """The event types of each order, in the order in which relays read them."""
    types: dict[int, list[str]] = {}
    for row in await pool.fetch("select key, type from outbox order by xid, id"):
        types.setdefault(int(row["key"]), []).append(row["type"].removeprefix("Inventory"))
    return types


async def deliver(handling: Handling, *events: Event) -> None:
    await handling.handle([record(event) for event in events])


async def test_a_reservation_passes_the_payment_reference_on(handling: Handling, pool: Pool) -> None:
    await supply(pool, burger=10)
    await deliver(handling, order_created(1, payment_reference="r1"), order_created(2))
    rows = await pool.fetch("select value from outbox order by key")
    assert [orjson.loads(row["value"])["payment_reference"] for row in rows] == ["r1", None]


async def test_the_orders_of_a_batch_are_served_in_the_order_of_their_arrival(pool: Pool, handling: Handling) -> None:
    await supply(pool, burger=10, pizza=1)
    wanted = [("pizza", 1), ("burger", 6), ("burger", 5), ("burger", 4), ("pizza", 1), ("nowhere", 1)]
    orders = [order_created(n, sku=sku, quantity=q) for n, (sku, q) in enumerate(wanted, start=1)]
    await deliver(handling, *orders, order_created(7, amount_cents=None))
    assert await stock(pool) == {"burger": (0, 10, 0), "pizza": (0, 1, 0)}
    reasons = dict(await pool.fetch("select order_id, reason from reservations where status = 'REJECTED'"))
    assert reasons == {3: "out_of_stock", 5: "out_of_stock", 6: "unknown_sku", 7: "unknown_sku"}
    assert await published(pool) == {n: ["Rejected" if n in reasons else "Reserved"] for n in range(1, 8)}


def deliveries(*kinds: Any, most: int) -> Iterator[tuple[Any, ...]]:
    """All orders in which these events may arrive, each of them once or more often."""
    for length in range(len(kinds), most + 1):
        yield from (sequence for sequence in product(kinds, repeat=length) if set(sequence) == set(kinds))


def created(order: OrderCreated) -> OrderCreated:
    return order


def is_repeated(sequence: tuple[Any, ...]) -> bool:
    return len(set(sequence)) < len(sequence)


@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "one by one"])
@pytest.mark.parametrize("end", [confirmed, cancelled])
async def test_events_in_any_order_and_repeated_have_the_same_end(
    pool: Pool, handling: Handling, end: Any, together: bool
) -> None:
    sequences = [(sequence, fits) for sequence in deliveries(created, end, most=5) for fits in (True, False)]
    assert any(is_repeated(sequence) for sequence, _ in sequences)
    await supply(pool, **{f"sku{n}": 2 if fits else 1 for n, (_, fits) in enumerate(sequences, start=1)})
    for n, (sequence, _) in enumerate(sequences, start=1):
        events = [kind(order_created(n, sku=f"sku{n}")) for kind in sequence]
        for batch in [events] if together else [[event] for event in events]:
            await deliver(handling, *batch)

    left, status, types = await stock(pool), await statuses(pool), await published(pool)
    for n, (sequence, fits) in enumerate(sequences, start=1):
        if not fits and sequence[0] is not cancelled:
            expected = ((1, 0, 0), Status.REJECTED, ["Rejected"])
        elif end is confirmed:
            expected = ((0, 0, 2), Status.SOLD, ["Reserved"])
        elif sequence[0] is cancelled:
            expected = ((2 if fits else 1, 0, 0), Status.CANCELLED, [])
        else:
            expected = ((2, 0, 0), Status.RELEASED, ["Reserved", "Released"])
        assert (left[f"sku{n}"], status[n], types.get(n, [])) == expected, [kind.__name__ for kind in sequence]
    assert await pool.fetchval("select count(*) from parked") == 0


async def test_the_first_of_two_contradicting_ends_counts(pool: Pool, handling: Handling) -> None:
    sequences = list(permutations([created, confirmed, cancelled]))
    await supply(pool, **{f"sku{n}": 2 for n in range(len(sequences))})
    for n, sequence in enumerate(sequences):
        for kind in sequence:
            await deliver(handling, kind(order_created(n + 1, sku=f"sku{n}")))
    left = await stock(pool)
    for n, sequence in enumerate(sequences):
        is_sold = sequence.index(confirmed) < sequence.index(cancelled)
        assert left[f"sku{n}"] == ((0, 0, 2) if is_sold else (2, 0, 0)), [kind.__name__ for kind in sequence]


async def test_a_repeated_record_changes_nothing(pool: Pool, handling: Handling) -> None:
    await supply(pool, burger=10)
    records = [record(order_created(n)) for n in range(1, 4)]
    for batch in (records, records[1:], [*records, *records]):
        await handling.handle(batch)
    assert await stock(pool) == {"burger": (4, 6, 0)}


async def test_a_new_product_has_no_stock_and_a_known_one_keeps_its_own(pool: Pool, handling: Handling) -> None:
    await supply(pool, burger=10)
    for model in (ProductCreated, ProductChanged, ProductCreated):
        await deliver(handling, *(product_event(model, sku) for sku in ("burger", "pizza", model.__name__)))
    assert await stock(pool) == {
        "burger": (10, 0, 0),
        **dict.fromkeys(["pizza", "ProductCreated", "ProductChanged"], (0, 0, 0)),
    }


async def buy(pool: Pool, order_id: int) -> None:
    async with postgres.transaction(pool) as conn:
        await postgres.lock_keys(conn, [str(order_id)])
        await service.reserve(conn, [order_created(order_id, quantity=1)])


async def test_500_buyers_of_100_burgers_get_100(pool: Pool) -> None:
    await supply(pool, burger=100)
    ids = count(1)

    async def buyer() -> None:
        while (order_id := next(ids)) <= 500:
            await buy(pool, order_id)

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(buyer())
    assert await stock(pool) == {"burger": (0, 100, 0)}
    assert Counter((await statuses(pool)).values()) == {"HELD": 100, "REJECTED": 400}


async def two_buyers_of_the_last_burger(pool: Pool) -> None:
    """The second buyer reads the stock when the first has reserved the burger, but not committed."""
    await supply(pool, burger=1)
    async with postgres.transaction(pool) as conn:
        await service.reserve(conn, [order_created(1, quantity=1)])
        second = asyncio.create_task(buy(pool, 2))
        await eventually(
            lambda: pool.fetchval(
                "select true from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
            )
        )
    await second


async def test_the_second_buyer_waits_for_the_first_and_sees_what_is_left(pool: Pool) -> None:
    await two_buyers_of_the_last_burger(pool)
    assert await statuses(pool) == {1: "HELD", 2: "REJECTED"}


async def test_without_the_row_lock_both_buyers_reserve_the_last_burger(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_LOCK", store._LOCK.replace("for update", ""))
    with pytest.raises(asyncpg.CheckViolationError, match="stock_available"):
        await two_buyers_of_the_last_burger(pool)


async def two_overlapping_instances(pool: Pool, turn: tuple[str, ...]) -> list[BaseException | None]:
    """Each instance sells the sku that the other is going to reserve, in overlapping transactions."""
    await supply(pool, burger=10, pizza=10)
    sold = {sku: order_created(n, sku=sku) for n, sku in enumerate(("burger", "pizza"), start=1)}
    await deliver(Handling(pool, "inventory", consumer.HANDLERS, also_lock=service.STOCK_LOCK), *sold.values())

    async def confirm_and_wait(conn: postgres.Connection, events: list[OrderConfirmed]) -> None:
        await consumer.on_order_confirmed(conn, events)
        await asyncio.sleep(0.2)

    handlers = {**consumer.HANDLERS, OrderConfirmed: confirm_and_wait}
    waiting = Handling(pool, "inventory", handlers, also_lock=turn)
    return await asyncio.gather(
        deliver(waiting, confirmed(sold["burger"]), order_created(3, sku="pizza")),
        deliver(waiting, confirmed(sold["pizza"]), order_created(4, sku="burger")),
        return_exceptions=True,
    )


async def test_two_instances_that_need_the_same_skus_in_opposite_orders_wait_for_each_other(pool: Pool) -> None:
    assert await two_overlapping_instances(pool, service.STOCK_LOCK) == [None, None]
    assert await stock(pool) == {"burger": (6, 2, 2), "pizza": (6, 2, 2)}


async def test_without_the_stock_lock_two_instances_deadlock(pool: Pool) -> None:
    assert any(isinstance(error, asyncpg.DeadlockDetectedError) for error in await two_overlapping_instances(pool, ()))


@pytest.mark.parametrize("seed", range(4))
async def test_three_instances_at_once_lose_no_unit(pool: Pool, seed: int) -> None:
    random = Random(seed)
    units = {"burger": 100, "pizza": 40, "sushi": 7, "lobster": 0}
    await supply(pool, **units)
    queues: list[list[Event]] = [[], [], []]
    for n in range(1, 301):
        order = order_created(n, sku=random.choice([*units, "nowhere"]), quantity=random.randint(1, 5))
        events = [order, random.choice([confirmed, cancelled])(order)] * random.randint(1, 2)
        random.shuffle(events)
        for event in events:  # sometimes an event reaches another instance than its order, as in a rebalance
            queues[n % 3 if random.random() < 0.9 else random.randrange(3)].append(event)

    async def instance(events: list[Event], sizes: Random) -> None:
        handling = Handling(pool, "inventory", consumer.HANDLERS, also_lock=service.STOCK_LOCK)
        events.sort(key=lambda _: sizes.random())
        while events:
            batch = [record(events.pop()) for _ in range(min(len(events), sizes.randint(1, 40)))]
            await handling.handle(batch)

    async with asyncio.TaskGroup() as group:
        for n, events in enumerate(queues):
            group.create_task(instance(events, Random(f"{seed} {n}")))

    rows = await pool.fetch("select sku, status, sum(quantity)::int from reservations group by 1, 2")
    reserved = {(sku, status): quantity for sku, status, quantity in rows}
    for sku, (available, held, sold) in (await stock(pool)).items():
        assert available + held + sold == units[sku]
        assert (held, sold) == (0, reserved.get((sku, "SOLD"), 0))
    versions = dict(await pool.fetch("select order_id, version from reservations"))
    types = await published(pool)
    assert {n: len(types.get(n, [])) for n in versions} == versions
    assert set((await statuses(pool)).values()) == {"SOLD", "RELEASED", "REJECTED", "CANCELLED"}


@pytest.mark.parametrize(
    "before",
    [
        pytest.param("select 1", id="tables never analysed"),
        pytest.param("set enable_seqscan = off; analyze stock; analyze reservations", id="analysed when small"),
    ],
)
async def test_plans_made_for_small_tables_do_not_scan_large_tables(pool: Pool, before: str) -> None:
    async def batch(conn: postgres.Connection, first: int) -> None:
        orders = [order_created(n, sku=f"sku{n}", quantity=1) for n in range(first, first + 20)]
        await service.reserve(conn, orders)
        await service.confirm(conn, [confirmed(order) for order in orders[:10]])
        await service.cancel(conn, [cancelled(order) for order in orders[10:]])

    async with pool.acquire() as conn:
        await conn.execute("insert into stock select 'sku' || n, 10 from generate_series(1, 20) n")
        await conn.execute("set plan_cache_mode = force_generic_plan")
        await conn.execute(before)
        async with conn.transaction():
            await batch(conn, 1)
        await conn.execute("insert into stock select 'sku' || n, 10 from generate_series(21, 50000) n")
        await conn.execute(
            "insert into reservations select n, 'sku1', 1, 'REJECTED', 'x', 1 from generate_series(100001, 150000) n"
        )
        async with conn.transaction():
            read = "select sum(seq_tup_read + idx_tup_fetch) from pg_stat_xact_user_tables where relname = any($1)"
            earlier = await conn.fetchval(read, ["stock", "reservations"])
            await batch(conn, 21)
            assert await conn.fetchval(read, ["stock", "reservations"]) - earlier < 1000


async def test_old_tombstones_and_keys_of_restocks_are_forgotten_and_nothing_else(
    handling: Handling, pool: Pool
) -> None:
    await supply(pool, burger=10)
    orders = [order_created(n) for n in range(1, 5)]
    await deliver(handling, orders[0], cancelled(orders[1]), confirmed(orders[2]), cancelled(orders[3]))
    await pool.execute("update reservations set created_at = now() - interval '31 days' where order_id <> 4")
    await pool.execute(
        "insert into restocks values ('1', 'old', 'burger', 1, now() - interval '31 days'), "
        "('1', 'new', 'burger', 1, now())"
    )
    async with pool.acquire() as conn:
        assert [await store.forget_tombstones(conn) for _ in range(2)] == [2, 0]
        assert [await store.forget_restocks(conn) for _ in range(2)] == [1, 0]
    assert (await statuses(pool)).keys() == {1, 4}
    assert [row["key"] for row in await pool.fetch("select key from restocks")] == ["new"]
