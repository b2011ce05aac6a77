"""The shop's own orders: none before a customer's, counted by how they end, and left out of the figures of orders."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from asyncpg import Pool
from prometheus_client import REGISTRY
from pydantic import TypeAdapter, ValidationError

from contracts.orders import CancelReason
from orders import canary, service
from orders.canary import Canary
from orders.domain import CANARY, Request
from orders.placement import Placement
from products.api import Sku
from shared import postgres
from tests.builders import eventually


@pytest.fixture
async def pool(open_pool: Any) -> Pool:
    made: Pool = await open_pool("orders")
    return made


def nothing() -> None:
    pass


def read(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def counts() -> tuple[float, float]:
    return read("canary_orders_total", outcome="rejected"), read("canary_orders_total", outcome="failed")


def answering(pool: Pool, reason: CancelReason) -> Callable[[], None]:
    """A `committed` that cancels each new order, as after the answer of another service."""
    tasks = set[asyncio.Task[None]]()

    async def answer() -> None:
        async with postgres.transaction(pool) as conn:
            ids = [row["id"] for row in await conn.fetch("select id from orders where status = 'PENDING'")]
            await service.cancel_all(conn, dict.fromkeys(ids, reason))

    def committed() -> None:
        tasks.add(asyncio.create_task(answer()))

    return committed


async def test_no_canary_is_placed_before_the_first_order_of_a_customer(pool: Pool) -> None:
    stop, rejected = asyncio.Event(), counts()[0]
    made = Canary(pool, 0.02, answering(pool, "unknown_sku"))
    running = asyncio.create_task(made.run(stop))
    await asyncio.sleep(0.3)
    assert await pool.fetchval("select count(*) from orders") == 0

    async with pool.acquire() as conn:
        (placed,) = await Placement("", 60).write(conn, [Request("u1", "burger", 1)])
    assert placed.order_id == 1  # type: ignore[union-attr]

    async def counted() -> bool:
        return counts()[0] > rejected

    await eventually(counted)
    stop.set()
    await running
    assert {row["user_id"] for row in await pool.fetch("select user_id from orders")} == {"u1", CANARY}


async def test_a_canary_that_inventory_rejects_is_counted_and_is_no_order_of_the_figures(pool: Pool) -> None:
    figures = read("order_duration_seconds_count", outcome="CANCELLED", reason="unknown_sku")
    rejected, failed = counts()
    assert await Canary(pool, 60, answering(pool, "unknown_sku")).run_once(asyncio.Event())
    assert counts() == (rejected + 1, failed)
    assert read("order_duration_seconds_count", outcome="CANCELLED", reason="unknown_sku") == figures
    event = await pool.fetchrow("select type, convert_from(value, 'UTF8')::json ->> 'sku' from outbox order by xid, id")
    assert tuple(event) == ("OrderCreated", CANARY)


async def test_a_canary_that_ends_for_another_reason_has_failed(pool: Pool) -> None:
    rejected, failed = counts()
    assert not await Canary(pool, 60, answering(pool, "out_of_stock")).run_once(asyncio.Event())
    assert counts() == (rejected, failed + 1)


async def test_a_canary_that_does_not_end_has_failed(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary, "LIMIT_SECONDS", 0.3)
    rejected, failed = counts()
    assert not await Canary(pool, 60, nothing).run_once(asyncio.Event())
    assert counts() == (rejected, failed + 1)


async def test_a_canary_of_a_process_that_stops_is_not_counted(pool: Pool) -> None:
    stop, before = asyncio.Event(), counts()
    placing = asyncio.create_task(Canary(pool, 60, stop.set).run_once(stop))
    assert await placing is None
    assert counts() == before


def test_no_product_can_have_the_canarys_sku() -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Sku).validate_python(CANARY)
