"""A deleted user's name, and all that they wrote, is followed through everything that keeps data.

docs/security.md says how long each place keeps it: what this test finds at the end is what the page names.
"""

import sqlite3
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from contracts import topics
from shared.delivery.kafka import Brokers
from tests import people_search
from tests.acceptance.checker import Reader
from tests.acceptance.client import Client
from tests.acceptance.conftest import System, viewed_system
from tests.acceptance.people import PASSWORD, Person, administrator, registered
from tests.acceptance.test_people import until
from tests.acceptance.test_secrets import everything_is_logged
from tests.builders import eventually

DAY_MS = 86_400_000
FIRST = {"auth.credentials", "auth.sessions", "auth.outbox", "users.profiles", "orders.orders", "orders.outbox"}
LAST = {"auth.outbox", "orders.outbox"}
IN_TOPICS = {"auth.events", "orders.events"}


@pytest.fixture
def system(run_folder: Path, request: pytest.FixtureRequest) -> System:
    return viewed_system(run_folder, request)


async def topics_with(brokers: Brokers, words: list[str]) -> set[str]:
    """The topics that have a record with one of these words."""
    async with Reader(brokers) as reader:
        found = await reader.everything(topics.configurations())
    return {one.topic for one in found if any(word.encode() in (one.value or b"") for word in words)}


async def longest_days(brokers: Brokers) -> dict[str, int]:
    """How many days Kafka keeps a record at the longest, for each topic that is not compacted."""
    admin = AIOKafkaAdminClient(**brokers.options())
    await admin.start()
    names = [name for name in topics.configurations() if name not in topics.STATES]
    try:
        answers = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in names])
    finally:
        await admin.close()
    entries = {name: {e[0]: e[1] for e in found} for answer in answers for _, _, _, name, found in answer.resources}
    return {name: (int(e["retention.ms"]) + int(e["segment.ms"])) // DAY_MS for name, e in entries.items()}


def files_with(folder: Path, words: list[str]) -> set[str]:
    """The files below the folder that have one of these words."""
    found = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {path.name for path, content in found.items() if any(word.encode() in content for word in words)}


async def live(client: Client, person: Person, display_name: str, email: str, device: str, note: str) -> None:
    """Do what users do: log in, also with a wrong password, write a profile, order, and look at it."""
    login = {"username": person.username, "password": PASSWORD}
    assert (await client.send("POST", "/auth/login", {"User-Agent": device}, login)).status == 200
    await client.send("POST", "/auth/login", {"User-Agent": device}, login | {"password": "wrong password"})
    await client.send("POST", "/auth/register", {}, login)  # the name is taken
    await until(person, "/users/me", 200)
    changed = await person.send("PATCH", "/users/me", {"display_name": display_name, "email": email})
    assert changed.status == 200
    body = {"userId": person.id, "sku": "burger", "quantity": 1, "note": note}
    about: dict[str, Any] = {"kind": "place", "caller": person.caller, "body": body, "key": uuid4().hex}
    placed = await client.send(
        "POST", "/orders/", person.headers, {"product_id": 1, "quantity": 1, "note": note}, **about
    )
    assert placed.status == 202
    assert (await person.outcome(placed.answer["id"]))["note"] == note
    admin = await administrator(client)
    assert (await admin.send("GET", f"/users/?username={person.username}")).answer["users"][0]["email"] == email


async def test_a_deleted_user_is_gone_but_for_what_ends_by_itself(system: System) -> None:
    mark = uuid4().hex[:8]
    name, display, email, device, note = (f"{word}{mark}" for word in ("ada-", "Lovelace", "mail", "Phone/", "ring "))
    email += "@example.org"
    words = [name, display, email, device, note]
    conn = await asyncpg.connect(system.database_url)
    try:
        async with system.customers(system.gateway_url) as client:
            person = await registered(client, name)
            await live(client, person, display, email, device, note)
            assert await people_search.tables_with(conn, words) == FIRST
            assert (await person.send("DELETE", "/users/me")).status == 204

            async def is_gone() -> bool:
                return await people_search.tables_with(conn, words) <= LAST

            await eventually(is_gone)
            await everything_is_logged(client, system)
        assert await people_search.tables_with(conn, words) == LAST, "days of an outbox are dropped after 8 to 9 days"
    finally:
        await conn.close()
    assert await topics_with(system.kafka, words) == IN_TOPICS
    assert set((await longest_days(system.kafka)).values()) == {8}
    assert files_with(system.stack.root / "logs", words) == set()
    console = system.stack.root / "console"
    assert [path for path in console.rglob("telemetry-*.sqlite") if lines_of(path)], "the console has lines"
    assert files_with(console, words) == set()


def lines_of(path: Path) -> int:
    conn = sqlite3.connect(path)
    (found,) = conn.execute("select count(*) from lines").fetchone()
    conn.close()
    return int(found)
