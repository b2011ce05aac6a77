"""Between the restore of a database and the start of its services: what no outbox has is listed, and never handled."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import orjson
from asyncpg import Pool

from contracts import topics
from contracts.access import READS
from contracts.catalogue import TOPICS
from contracts.orders import TOPIC
from migrations import restored
from shared import postgres
from shared.delivery import kafka as toolkit
from shared.delivery import outbox
from shared.delivery.kafka import Publisher
from shared.delivery.relay import Relay
from tests.builders import order_created, record
from tests.conftest import PARTITIONS, Database

GHOST = 5000


async def publish_ghost(address: str) -> None:
    """An event of an order that was accepted after the backup."""
    ghost = record(order_created(GHOST))
    publisher = Publisher(address)
    await publisher.start()
    headers = [(name, value or b"") for name, value in ghost.headers]
    await publisher.send({(TOPIC, 0): [(ghost.key or b"", ghost.value or b"", headers)]}, 5.0)
    await publisher.close()


async def test_what_no_outbox_has_is_skipped_and_listed_and_its_number_is_not_used_again(
    database: Database, kafka: str, pool: Pool, tmp_path: Path
) -> None:
    await topics.create(kafka, PARTITIONS, 1)
    async with postgres.transaction(pool) as conn:
        await outbox.append(conn, [order_created(1)])
    relay = Relay(database.url_for("orders"), kafka, service="orders", owner="test")
    await relay.run_once()
    await relay.close()
    await publish_ghost(kafka)
    assert (await toolkit.count_unhandled(kafka, READS, TOPICS))["inventory"] >= 2

    since, file = datetime.now(UTC) - timedelta(hours=1), tmp_path / "lost.jsonl"
    await restored.prepare(database.admin_url, kafka, since, file, "a test")

    assert [orjson.loads(line)["key"] for line in file.read_bytes().splitlines()] == [str(GHOST)]
    assert set((await toolkit.count_unhandled(kafka, READS, TOPICS)).values()) == {0}
    conn = await asyncpg.connect(database.admin_url)
    assert await conn.fetchval("select nextval('orders.orders_id_seq')") > GHOST + restored.MARGIN
    waiting = await conn.fetchval(
        "select count(*) from orders.outbox o join orders.outbox_lanes l using (lane) "
        "where (o.xid, o.id) > (l.xid, l.id)"
    )
    await conn.close()
    assert waiting == 1  # it is published again
