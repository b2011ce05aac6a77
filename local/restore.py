"""Puts a backup of Postgres in the place of the stack's database, while Kafka keeps its records.

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

import asyncpg
import orjson

from contracts import orders, products, users
from contracts.access import ADMIN, READS, WRITES
from contracts.catalogue import TOPICS
from local import backup
from local.backup import Backup
from local.problem import Problem
from local.stack import Stack
from shared import postgres
from shared.delivery import events, kafka, repairs
from shared.delivery.events import Record
from shared.delivery.kafka import Brokers
from shared.delivery.repairs import Author

logger = logging.getLogger(__name__)

BEHIND = timedelta(hours=1)
"""So far behind may a consumer have been at the moment of the backup."""
MARGIN = 10_000
"""So many numbers may have been given out that Kafka has not heard of."""
NUMBERS = {
    "orders.orders_id_seq": (orders.TOPIC, "order_id"),
    "products.products_id_seq": (products.TOPIC, "product_id"),
    "auth.credentials_user_id_seq": (users.AUTH_TOPIC, "user_id"),
}
"""Numbers that people see: the sequence, and where events have them."""
_READ_SECONDS = 600.0
_LEAVING_SECONDS = 30.0
_REPAIR_SECONDS = 120.0

_FORWARD = "select setval($1::text::regclass, greatest($2, nextval($1::text::regclass)) + $3)"


def restore(stack: Stack, folder: Path, *, behind: timedelta = BEHIND) -> Path:
    """Replace the database by the backup in `folder`. Returns the file with the events that are lost.

    The old database is kept beside the new one. Raises `Problem`.
    """
    made = Backup.of(folder)
    stack.stop([*WRITES, stack.postgres.name])
    aside = stack.postgres.set_aside()
    logger.info("the database of before is kept in %s", aside)
    stack.up([stack.postgres.name])
    backup.load(made, stack.database_url())
    stack.up(["migrate", "topics"])
    lost = folder / f"lost-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.jsonl"
    asyncio.run(_before_the_start(stack, made, lost, behind))
    stack.up(list(WRITES))
    asyncio.run(_until_repaired(stack.database_url()))
    return lost


async def _before_the_start(stack: Stack, made: Backup, lost: Path, behind: timedelta) -> None:
    conn = await postgres.connect(stack.database_url(), statement_timeout="0", lock_timeout="10s")
    brokers = Brokers(
        f"{stack.kafka.host}:{stack.ports.kafka}",
        "SASL_PLAINTEXT",
        username=ADMIN,
        password=stack.secret(f"{ADMIN}/kafka_password"),
    )
    since = made.began_at - behind
    try:
        await _forward(conn, await _write_lost(conn, brokers, since, lost))
        for group, topics in READS.items():
            await _skip(brokers, group, topics)
        await _request_repairs(conn, since, f"restored from {made.folder.name}")
    finally:
        await conn.close()


async def _write_lost(conn: postgres.Plain, brokers: Brokers, since: datetime, file: Path) -> dict[str, int]:
    """Write the events that Kafka has and no outbox has. Returns the highest number of each sequence in them."""
    known = set[UUID]()
    for service in WRITES:
        rows = await conn.fetch(f"select event_id from {service}.outbox", timeout=_READ_SECONDS)
        known |= {row["event_id"] for row in rows}
    highest = dict.fromkeys(NUMBERS, 0)
    count = 0
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


async def _forward(conn: postgres.Plain, highest: dict[str, int]) -> None:
    for sequence, number in highest.items():
        await conn.fetchval(_FORWARD, sequence, number, MARGIN)


async def _skip(brokers: Brokers, group: str, topics: Collection[str]) -> None:
    """Wait until Kafka has noticed that the group's members are gone, then skip what is in the topics."""
    until = time.monotonic() + _LEAVING_SECONDS
    while True:
        try:
            skipped = await kafka.skip(brokers, group, topics)
        except kafka.Unavailable as error:
            if time.monotonic() > until:
                raise Problem(f"The group {group} could not be moved: {error}") from error
            await asyncio.sleep(0.5)
        else:
            logger.info("%s skips %s records", group, skipped)
            return


async def _request_repairs(conn: postgres.Plain, since: datetime, reason: str) -> None:
    """Store what `outbox rebase` and `outbox republish` store. The services do it when they start, in this order."""
    now = await conn.fetchval("select clock_timestamp()")
    author = Author("make restore", reason)
    for service in WRITES:
        async with conn.transaction():
            await conn.execute(f"set local role {service}_owner; set local search_path = {service}")
            await repairs.request(conn, "rebase", author, {"since": now.isoformat()})
            await repairs.request(conn, "republish", author, {"since": since.isoformat()})


async def _until_repaired(url: str) -> None:
    """Wait until the services have done their repairs. Raises `Problem`."""
    until = time.monotonic() + _REPAIR_SECONDS
    conn = await postgres.connect(url)
    try:
        for service in WRITES:
            while rows := await _open(conn, service):
                if time.monotonic() > until:
                    raise Problem(f"{service} has not done the {rows[0]['action']} of its outbox: see its log.")
                await asyncio.sleep(0.2)
            for row in await conn.fetch(f"select action, outcome from {service}.repairs order by id desc limit 2"):
                if (row["outcome"] or "").startswith("failed"):
                    raise Problem(f"{service}: {row['action']} {row['outcome']}")
    finally:
        await conn.close()


async def _open(conn: postgres.Plain, service: str) -> list[asyncpg.Record]:
    return await conn.fetch(f"select action from {service}.repairs where ended_at is null order by id limit 1")
