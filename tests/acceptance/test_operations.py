"""The rehearsed operations of docs/operations.md on the whole system: what is lost is known, nothing is doubled."""

import asyncio
import json
from pathlib import Path
from typing import Any

import asyncpg

from contracts.catalogue import TOPICS
from local import backup, restore
from shared.delivery import events
from tests.acceptance import client
from tests.acceptance.checker import Poison, Reader
from tests.acceptance.client import History, Load, ids, wrong_answers
from tests.acceptance.conftest import System


async def test_after_a_restore_all_services_are_as_they_were_at_the_backup(system: System, tmp_path: Path) -> None:
    async with system.customers() as before:
        await Load(before, per_second=25).run(25)
    await system.settled()
    history: History = []  # some of its orders are lost, so the checker must not see it
    async with client.opened([system.orders_url], system.tokens, history) as during, Load(during, 25, cancel=0.0):
        await asyncio.sleep(1)
        made = await asyncio.to_thread(backup.make, system.database_url, tmp_path / "backup")
        ended = history[-1].started
        await asyncio.sleep(2)

    file = await asyncio.to_thread(restore.restore, system.stack, made.folder)

    kept, lost = await split(system, history)
    accepted = [call for call in history if call.kind == "place" and call.outcome == "ok"]
    assert {call.answer["id"] for call in accepted if call.started > ended} <= lost
    assert lost
    listed = [json.loads(line) for line in file.read_text().splitlines()]
    assert {int(one["key"]) for one in listed if one["type"] == "OrderCreated"} == lost
    system.histories.append([call for call in history if call.kind == "place" and call.answer.get("id") in kept])
    system.poison += await ghosts(system)
    async with system.customers() as after:
        await Load(after, per_second=25).run(25)
    await system.settled()
    assert not wrong_answers(after.history)
    assert min(ids(after.history)) > max(lost)


async def split(system: System, history: History) -> tuple[set[int], set[int]]:
    """The accepted orders that exist, and those that do not."""
    there = {row["id"] for row in await rows(system, "select id from orders.orders")}
    return set(ids(history)) & there, set(ids(history)) - there


async def ghosts(system: System) -> list[Poison]:
    """The records in Kafka whose outbox row is gone. No service may handle them."""
    known = {row[0] for topic in TOPICS for row in await rows(system, _outbox_of(topic))}
    async with Reader(system.kafka) as reader:
        found = await reader.everything(TOPICS)
    return [Poison(record[:3], frozenset()) for record in found if events.id_of(record) not in known]


def _outbox_of(topic: str) -> str:
    return f"select event_id from {topic.removesuffix('.events')}.outbox"


async def rows(system: System, sql: str) -> list[Any]:
    conn = await asyncpg.connect(system.database_url)
    try:
        return list(await conn.fetch(sql))
    finally:
        await conn.close()
