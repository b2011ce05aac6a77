"""Spans of events: what is exported when handlers succeed, fail, or are rolled back."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from asyncpg import Pool
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from contracts.orders import OrderConfirmed, OrderCreated
from contracts.products import ProductChanged
from shared import tracing
from shared.delivery import outbox, rehearsal
from shared.delivery.events import Record
from shared.delivery.handling import Handling
from shared.postgres import Connection
from tests import spans
from tests.builders import order_confirmed, order_created, record

CHANGED = ProductChanged(
    version=2, product_id=1, sku="burger", name="Burger", price_cents=850, currency="EUR", active=True
)
PROCESSED = "process orders.events by ledger"


@pytest.fixture
async def exporter() -> AsyncIterator[InMemorySpanExporter]:
    with spans.collected() as found:
        yield found


class Ledger:
    """Writes an event and a span for each event. Fails for the orders in `failing`."""

    def __init__(self) -> None:
        self.failing: set[int] = set()

    async def write(self, conn: Connection, given: list[Any]) -> None:
        for event in given:
            if span := tracing.start("effect", "INTERNAL", tracing.of(str(event.order_id)), {}):
                tracing.end_with_work(span)
            await outbox.append(conn, [order_confirmed(event.order_id, event.version)])
        if found := self.failing.intersection(event.order_id for event in given):
            raise LookupError(found)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def handling(pool: Pool, ledger: Ledger) -> Handling:
    return Handling(pool, "ledger", {OrderCreated: ledger.write, OrderConfirmed: ledger.write})


def traced(event: Any, traceparent: str = spans.TRACEPARENT) -> Record:
    made = record(event)
    return made._replace(headers=[*made.headers, ("traceparent", traceparent.encode())])


def names(exporter: InMemorySpanExporter) -> list[str]:
    return spans.tree(exporter, spans.TRACE_ID)


async def traces_written(pool: Pool) -> list[str]:
    rows = await pool.fetch("select convert_from(head, 'UTF8') as head from outbox order by id")
    return [row["head"][63:] for row in rows]


async def test_what_follows_from_an_event_carries_the_span_that_wrote_it(
    pool: Pool, handling: Handling, exporter: InMemorySpanExporter
) -> None:
    """Also if a key has two events in one batch."""
    await handling.handle([traced(order_created(1)), traced(order_confirmed(1, 2)), record(order_created(2))])

    assert names(exporter) == [PROCESSED, "  effect", PROCESSED, "  effect"]
    begun = [s for s in exporter.get_finished_spans() if s.name == "process orders.events"]
    ids = [f"{s.get_span_context().span_id:016x}" for s in begun]
    assert [trace[36:52] for trace in await traces_written(pool)] == [ids[0], "", ids[1]]


async def test_a_failing_event_leaves_one_span_with_its_error_for_each_attempt(
    handling: Handling, ledger: Ledger, exporter: InMemorySpanExporter
) -> None:
    ledger.failing = {2}
    left = await handling.handle([traced(order_created(n)) for n in (1, 2, 3)])
    await handling.handle(left)

    failed = [s for s in exporter.get_finished_spans() if (s.attributes or {}).get(tracing.ERROR_TYPE)]
    assert [(s.attributes or {})[tracing.KEY] for s in failed] == ["2", "2"]
    assert {(s.attributes or {})[tracing.ERROR_TYPE] for s in failed} == {"LookupError"}
    assert names(exporter).count("  effect") == 2
    assert names(exporter).count(PROCESSED) == 4


async def test_work_that_was_rolled_back_leaves_no_span(
    handling: Handling, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(*_: Any) -> None:
        raise asyncpg.ConnectionDoesNotExistError

    with monkeypatch.context() as patch:
        patch.setattr(handling, "_store", lost)
        with pytest.raises(asyncpg.ConnectionDoesNotExistError):
            await handling.handle([traced(order_created(1))])
    assert names(exporter) == []

    await handling.handle([traced(order_created(1))])
    assert names(exporter) == [PROCESSED, "  effect"]


async def test_an_event_that_comes_again_leaves_no_second_span(
    handling: Handling, exporter: InMemorySpanExporter
) -> None:
    came = traced(order_created(1))
    for _ in range(2):
        await handling.handle([came])

    assert names(exporter) == [PROCESSED, "  effect"]


async def test_a_rehearsal_leaves_no_span(
    pool: Pool, handling: Handling, ledger: Ledger, exporter: InMemorySpanExporter
) -> None:
    ledger.failing = {1}
    left = [traced(order_created(1))]
    for _ in range(3):
        left = await handling.handle(left)
    ledger.failing = set()
    exporter.clear()
    [rehearsed] = await rehearsal.rehearse(pool, handling, [await pool.fetchval("select id from parked")])

    assert rehearsed.outcome == "handled"
    assert names(exporter) == []


async def test_processing_a_state_begins_a_trace_of_its_own(pool: Pool, exporter: InMemorySpanExporter) -> None:
    async def replicate(conn: Connection, given: list[Any]) -> None:
        pass

    catalogue = Handling(pool, "ledger", {ProductChanged: replicate}, states=[ProductChanged])
    await catalogue.handle([traced(CHANGED)])

    [span] = exporter.get_finished_spans()
    assert span.parent is None
    assert span.get_span_context().trace_id != spans.TRACE_ID
    assert [link.context.trace_id for link in span.links] == [spans.TRACE_ID]


async def test_a_trace_that_is_not_sampled_is_carried_on_without_spans(
    pool: Pool, handling: Handling, exporter: InMemorySpanExporter
) -> None:
    unsampled = spans.TRACEPARENT[:-1] + "0"
    await handling.handle([traced(order_created(1), unsampled)])

    assert exporter.get_finished_spans() == ()
    assert await traces_written(pool) == [unsampled]
