"""One order is one trace: the services run in this process, with a real Postgres and a real Kafka."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from contracts import topics
from shared import tracing
from shared.web import database
from tests import spans
from tests.builders import eventually
from tests.conftest import ServiceDatabase, StartBroker
from tests.service.conftest import Client, Serve

ALL_PARTS = ["api", "relay", "consumer", "worker"]
ORDER = {"userId": "u1", "sku": "burger", "quantity": 2}

Shop = Callable[..., Awaitable[Client]]


@pytest.fixture
async def exporter() -> AsyncIterator[InMemorySpanExporter]:
    with spans.collected() as found:
        yield found


@pytest.fixture
async def shop(serve: Serve, start_broker: StartBroker, payments_db: ServiceDatabase) -> Shop:
    """Start inventory, payments and orders, on a broker without events of other tests. Returns a client of orders."""
    kafka = (await asyncio.to_thread(start_broker, "traces-kafka")).address
    await topics.create(kafka, 4, 1)
    every = {"only": ALL_PARTS, "kafka_bootstrap_servers": kafka}

    async def start(names: tuple[str, ...] = ("inventory", "payments"), **provider: Any) -> Client:
        if "inventory" in names:
            await serve("inventory", **every)
        if "payments" in names:
            await serve("payments", **every, provider_database_url=payments_db.provider_url, **provider)
        seconds = 60.0 if names else 1.0
        return await serve("orders", **every, require_token=False, order_deadline_seconds=seconds)

    return start


async def place(orders: Client) -> int:
    answer = await orders.post("/v1/orders", json=ORDER)
    assert answer.status == 202
    placed: int = (await answer.json())["id"]
    return placed


async def tree_with(exporter: InMemorySpanExporter, count: int) -> list[str]:
    """The tree of the order, when it has so many spans."""

    async def is_complete() -> list[str]:
        roots = [s for s in exporter.get_finished_spans() if s.name == "POST /v1/orders"]
        found = spans.tree(exporter, roots[0].get_span_context().trace_id) if roots else []
        return found if len(found) >= count else []

    found: list[str] = await eventually(is_complete)
    return found


async def test_an_order_is_one_trace(shop: Shop, exporter: InMemorySpanExporter) -> None:
    orders = await shop()
    order_id = await place(orders)

    assert await tree_with(exporter, 11) == [
        "POST /v1/orders",
        "  order",
        "    process orders.events by inventory",
        "    send orders.events",
        "  process orders.events by inventory",
        "    process inventory.events by payments",
        "      charge",
        "        process payments.events by orders",
        "        send payments.events",
        "    send inventory.events",
        "  send orders.events",
    ]
    whole, root = spans.named(exporter, "order"), spans.named(exporter, "POST /v1/orders")
    assert whole.attributes
    assert whole.attributes["quickbite.outcome"] == "CONFIRMED"
    assert whole.attributes[tracing.KEY] == str(order_id)
    assert whole.start_time is not None
    assert whole.end_time is not None
    assert whole.end_time > whole.start_time
    charge = spans.named(exporter, "charge")
    assert charge.attributes == {tracing.KEY: str(order_id)}
    assert root.attributes == {tracing.METHOD: "POST", tracing.ROUTE: "/v1/orders", tracing.STATUS: 202}
    processed = spans.named(exporter, "process inventory.events")
    assert [link.context.span_id for link in processed.links] == [processed.parent and processed.parent.span_id]
    sent = spans.named(exporter, "send inventory.events").attributes or {}
    assert isinstance(sent[tracing.OUTBOX_SECONDS], float)
    written = spans.named(exporter, "write orders")
    assert [link.context.span_id for link in written.links] == [root.get_span_context().span_id]
    assert written.get_span_context().trace_id != root.get_span_context().trace_id


async def test_an_order_that_ends_by_its_deadline_ends_in_its_trace(shop: Shop, exporter: InMemorySpanExporter) -> None:
    await place(await shop(names=()))

    assert await tree_with(exporter, 4) == [
        "POST /v1/orders",
        "  order",
        "    send orders.events",
        "  send orders.events",
    ]
    assert (spans.named(exporter, "order").attributes or {})["quickbite.reason"] == "deadline_passed"


async def test_a_charge_that_is_undone_after_the_end_of_the_order_is_in_its_trace(
    shop: Shop, exporter: InMemorySpanExporter
) -> None:
    orders = await shop(provider_error_after_charge_ratio=1.0)  # so the order stays open until it is cancelled
    order_id = await place(orders)

    async def is_reserved() -> bool:
        return any(s.name == "process inventory.events" for s in exporter.get_finished_spans())

    await eventually(is_reserved)
    assert (await orders.post(f"/v1/orders/{order_id}/cancel")).status == 202

    async def undone() -> list[str]:
        return [s.name for s in exporter.get_finished_spans() if s.name in {"refund", "void"}]

    name, *_ = await eventually(undone, seconds=60.0)  # the next call waits for the pause after the last one
    root = spans.named(exporter, "POST /v1/orders").get_span_context()
    assert f"    {name}" in [line[2:] for line in spans.tree(exporter, root.trace_id)]


async def test_a_trace_that_is_not_sampled_leaves_nothing(shop: Shop) -> None:
    with spans.collected(per_second=0.0) as exporter:
        orders = await shop()
        order_id = await place(orders)
        found = await (await orders.get(f"/v1/orders/{order_id}?wait=20")).json()

        assert found["status"] == "CONFIRMED"
        assert exporter.get_finished_spans() == ()
        pool = orders.app[database.POOL]
        assert await pool.fetchval("select trace from orders") is None
        assert await pool.fetchval("select count(*) from outbox where convert_from(head, 'UTF8') not like '%Z'") == 0


async def test_a_request_that_reads_begins_no_trace(shop: Shop, exporter: InMemorySpanExporter) -> None:
    orders = await shop(names=())
    await orders.get("/v1/orders/1")
    assert exporter.get_finished_spans() == ()

    await orders.get("/v1/orders/1", headers={"traceparent": spans.TRACEPARENT})
    assert [s.name for s in exporter.get_finished_spans()] == ["GET /v1/orders/{id}"]
