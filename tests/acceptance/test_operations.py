"""The rehearsed operations of docs/operations.md on the whole system: what is lost is known, nothing is doubled."""

import asyncio
import json
import shutil
import time
from pathlib import Path

from contracts.catalogue import TOPICS
from local import backup, restore
from local.stack import Stack
from shared.delivery import events
from tests.acceptance import client
from tests.acceptance.checker import PUBLISHERS, Poison, Reader
from tests.acceptance.client import History, Load, ids, wrong_answers
from tests.acceptance.conftest import System
from tests.builders import eventually


async def test_a_broker_that_lost_its_data_gets_all_events_again_and_nothing_is_doubled(system: System) -> None:
    async with system.customers() as customers, Load(customers, 25, give_up=0.0):
        await asyncio.sleep(1)
        before = await system.rows("select now()")
        await asyncio.to_thread(lose_kafka, system.stack)
        for service in PUBLISHERS:
            await republish(system, service)
        await asyncio.to_thread(system.stack.up, ["kafka", "topics"])
        await asyncio.sleep(1)
    evidence = await system.settled()
    assert not wrong_answers(customers.history)
    assert len([order for order in evidence.orders.values() if order["created_at"] < before[0][0]]) > 20
    assert min(record.timestamp_ms for record in evidence.records) > before[0][0].timestamp() * 1000


def lose_kafka(stack: Stack) -> None:
    stack.stop([stack.kafka.name])
    shutil.rmtree(stack.kafka.root / "data")


async def republish(system: System, service: str) -> None:
    """Move the cursors back, by the admin API, before Kafka has topics.

    Otherwise a relay would publish newer events of a key first.
    """
    wanted = {"since": "2026-01-01T00:00:00Z", "reason": "the broker lost its disk"}
    async with system.customers(f"http://127.0.0.1:{system.stack.ports.services[service]}") as admin:
        asked = await admin.administer("POST", "/admin/lanes/republish", wanted)
        assert asked.status == 202, asked

        async def ended() -> bool:
            found = await admin.administer("GET", f"/admin/repairs/{asked.answer['repair']}")
            return bool(found.answer.get("ended_at"))

        await eventually(ended, seconds=60, pause=0.2)


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

    started = time.monotonic()
    file = await asyncio.to_thread(restore.restore, system.stack, made.folder)
    system.measure("restore", time.monotonic() - started)

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
    there = {row["id"] for row in await system.rows("select id from orders.orders")}
    return set(ids(history)) & there, set(ids(history)) - there


async def ghosts(system: System) -> list[Poison]:
    """The records in Kafka whose outbox row is gone. No service may handle them."""
    async with Reader(system.kafka) as reader:
        found = await reader.everything(TOPICS)
    known = {row[0] for topic in TOPICS for row in await system.rows(_outbox_of(topic))}  # read last: it grows
    return [Poison(record[:3], frozenset()) for record in found if events.id_of(record) not in known]


def _outbox_of(topic: str) -> str:
    return f"select event_id from {topic.removesuffix('.events')}.outbox"
