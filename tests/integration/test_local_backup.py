"""A backup of an older major version is loaded into a new cluster, and the relays continue there."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest

from contracts import topics
from contracts.orders import TOPIC
from local import backup, ports
from local.backup import Backup
from local.postgres import FORMER, Postgres
from local.problem import Problem
from shared import postgres as connections
from shared.delivery import outbox, repairs
from shared.delivery.lanes import RestoredElsewhere
from shared.delivery.relay import Relay
from shared.delivery.repairs import Author, Repairs
from tests.builders import order_confirmed, tail, versions_by_key
from tests.conftest import PARTITIONS, Database, created, in_memory, serving
from tests.migrations.conftest import migrate

KEYS = range(1, 11)


@pytest.fixture(scope="module")
def former(run_folder: Path) -> Iterator[int]:
    """A server of an older major version; yields its port."""
    folder = in_memory(run_folder) / "former"
    engine = Postgres(folder, ports.free_block(1), settings={"fsync": "off"}, programs=FORMER)
    with serving(engine, run_folder / "former") as port:
        yield port


@pytest.fixture
async def new(template: Database) -> AsyncIterator[Database]:
    """An empty database in the cluster of today."""
    async with created(template.port, "restored") as made:
        yield made


async def append(database: Database, version: int) -> None:
    conn = await connections.connect(database.url_for("orders"))
    async with conn.transaction():
        await outbox.append(conn, [order_confirmed(key, version) for key in KEYS])
    await conn.close()


async def rebase(database: Database) -> str | None:
    """What `outbox rebase` does."""
    async with connections.pool(database.url_for("orders"), size=2, name="test") as pool:
        async with connections.transaction(pool) as conn:
            since = {"since": datetime.now(UTC).isoformat()}
            await repairs.request(conn, "rebase", Author("test", "a new major version"), since)
        assert await Repairs(pool).run_once(asyncio.Event())
        return await pool.fetchval("select outcome from repairs")


async def test_a_database_of_an_older_major_version_moves_to_a_new_cluster(
    former: int, new: Database, kafka: str, tmp_path: Path
) -> None:
    await topics.create(kafka, PARTITIONS, 1)
    old = Database("quickbite", former)
    await migrate(old, "up")
    async with tail(kafka, TOPIC) as published:
        await append(old, 1)
        relay = Relay(old.url_for("orders"), kafka, service="orders", owner="test")
        await relay.run_once()
        await relay.close()
        await append(old, 2)

        backup.load(await asyncio.to_thread(backup.make, old.admin_url, tmp_path / "b"), new.admin_url)
        await migrate(new, "up")
        conn = await asyncpg.connect(new.admin_url)
        assert await conn.fetchval("show server_version_num") > "180000"
        await conn.close()
        await append(new, 3)
        relay = Relay(new.url_for("orders"), kafka, service="orders", owner="test")
        with pytest.raises(RestoredElsewhere):
            await relay.run_once()
        assert await rebase(new) == "20 rows are published next"
        while await relay.run_once():
            pass
        await relay.close()
        assert versions_by_key(await published()) == {str(key): [1, 2, 3] for key in KEYS}


async def test_an_unfinished_backup_is_refused_and_no_backup_is_overwritten(template: Database, tmp_path: Path) -> None:
    with pytest.raises(Problem, match="no complete backup"):
        Backup.of(tmp_path)
    with pytest.raises(Problem, match="exists already"):
        backup.make(template.admin_url, tmp_path)
    nobody = Database("quickbite", template.port, password="wrong")
    with pytest.raises(Problem, match="pg_dump failed"):
        backup.make(nobody.admin_url, tmp_path / "b")
    assert not (tmp_path / "b").exists()
