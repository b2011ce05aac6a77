"""What must happen between the restore of a database and the start of its services, while Kafka keeps its records.

What must stay true: afterwards every service is as it was at the moment of the backup. The services have forgotten what
came later, but Kafka has not: an event that no outbox has must not be handled. So every consumer skips what is in Kafka
now, and the outboxes publish again what consumers may not have handled at the moment of the backup. Inboxes drop the
rest. Numbers that customers may have seen are not given out again.
"""

import asyncio
import logging
import time
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson

from contracts import orders, products, users
from contracts.access import READS, WRITES
from contracts.catalogue import TOPICS
from shared import postgres
from shared.delivery import events, inbox, kafka, repairs
from shared.delivery.events import Record
from shared.delivery.kafka import Brokers
from shared.delivery.repairs import Author

logger = logging.getLogger(__name__)

MARGIN = 10_000
"""So many numbers may have been given out that Kafka has not heard of."""
NUMBERS = {
    "orders.orders_id_seq": (orders.TOPIC, "order_id"),
    "products.products_id_seq": (products.TOPIC, "product_id"),
    "auth.credentials_user_id_seq": (users.AUTH_TOPIC, "user_id"),
}
"""Numbers that people see: the sequence, and where events have them."""
OLDEST = inbox.RETENTION - timedelta(days=1)
"""Older events are not published again. Consumers would park them: inboxes have forgotten which they handled."""
_READ_SECONDS = 600.0
_LEAVING_SECONDS = 30.0

_FORWARD = "select setval($1::text::regclass, greatest($2, nextval($1::text::regclass)) + $3)"


async def prepare(url: str, brokers: Brokers | str, since: datetime, lost: Path, reason: str) -> None:
    """Prepare the restored database at `url` for its services, none of which may run.

    `since` is before the backup, by as long as a consumer may have been late then. The events that are lost are written
    to the file `lost`. Raises `kafka.Unavailable`, also if a consumer runs.
    """
    since = max(since, datetime.now(UTC) - OLDEST)
    conn = await postgres.connect(url, statement_timeout="0", lock_timeout="10s")
    try:
        highest = await _write_lost(conn, brokers, since, lost)
        for sequence, number in highest.items():
            await conn.fetchval(_FORWARD, sequence, number, MARGIN)
        for group, topics in READS.items():
            await _skip(brokers, group, topics)
        await _resume(conn, since, reason)
    finally:
        await conn.close()


async def _write_lost(conn: postgres.Plain, brokers: Brokers | str, since: datetime, file: Path) -> dict[str, int]:
    """Write the events that Kafka has and no outbox has. Returns the highest number of each sequence in them."""
    known = set[UUID]()
    for service in WRITES:
        rows = await conn.fetch(f"select event_id from {service}.outbox", timeout=_READ_SECONDS)
        known |= {row["event_id"] for row in rows}
    highest, count = dict.fromkeys(NUMBERS, 0), 0
    with file.open("wb") as out:
        async for records in kafka.read_since(brokers, TOPICS, since):
            for record in (one for one in records if events.id_of(one) not in known):
                value = orjson.loads(record.value or b"{}")
                out.write(orjson.dumps(_line(record, value)) + b"\n")
                count += 1
                for sequence, (topic, field) in NUMBERS.items():
                    if record.topic == topic:
                        highest[sequence] = max(highest[sequence], int(value.get(field, 0)))
    logger.info("%s events came after the backup and are lost: see %s", count, file)
    return highest


def _line(record: Record, value: Any) -> dict[str, Any]:
    at = datetime.fromtimestamp(record.timestamp_ms / 1000, UTC)
    about = {"at": at, "topic": record.topic, "type": events.type_of(record), "id": events.id_of(record)}
    return {**about, "key": (record.key or b"").decode(errors="replace"), "value": value}


async def _skip(brokers: Brokers | str, group: str, topics: Collection[str]) -> None:
    """Skip what is in the topics, as soon as Kafka has noticed that the group's members are gone."""
    until = time.monotonic() + _LEAVING_SECONDS
    while True:
        try:
            skipped = await kafka.skip(brokers, group, topics)
        except kafka.Unavailable:
            if time.monotonic() > until:
                raise
            await asyncio.sleep(0.5)
        else:
            logger.info("%s skips %s records", group, skipped)
            return


async def _resume(conn: postgres.Plain, since: datetime, reason: str) -> None:
    """Make the outboxes continue under the transaction ids of this cluster."""
    now = await conn.fetchval("select clock_timestamp()")
    author = Author("migrations restored", reason)
    for service in WRITES:
        async with conn.transaction():
            await conn.execute(f"set local role {service}_owner; set local search_path = {service}")
            outcome = await repairs.resume_restored(conn, author, now, since)
        logger.info("%s: %s", service, outcome)
