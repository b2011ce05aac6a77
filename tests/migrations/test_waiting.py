"""A pod waits until the schema is new enough for its code, as the service's own role."""

import asyncio
import sys

import asyncpg

from migrations import waiting
from migrations.__main__ import INI
from tests.conftest import ROOT, Database
from tests.migrations.conftest import migrate

ORDERS = waiting.scripts(str(INI), ["orders"])


def test_code_waits_for_its_newest_revision_and_accepts_one_that_it_does_not_know() -> None:
    script = ORDERS["orders"]
    assert not waiting.is_old(script.get_current_head(), script)
    assert waiting.is_old(None, script)
    assert waiting.is_old("orders_0001", script)
    assert not waiting.is_old("orders_9999", script)  # of a later release


async def test_a_pod_waits_until_all_migrations_are_done(empty: Database) -> None:
    url = empty.url_for("orders")
    waits = asyncio.create_task(waiting.wait(url, ORDERS))
    assert await waiting._missing(url, ORDERS)
    await migrate(empty, "up")
    await asyncio.wait_for(waits, 60)
    for schemas in (["orders"], ["payments", "provider"]):
        assert await command(empty.url_for(schemas[0]), *schemas) == 0
    admin = await asyncpg.connect(empty.admin_url)
    await admin.execute("comment on schema orders is 'orders_0001'")
    await admin.close()
    assert await waiting._missing(url, ORDERS) == "orders is orders_0001"


async def command(url: str, *schemas: str) -> int:
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "migrations", "wait", *schemas), cwd=ROOT, env={"DATABASE_URL": url}
    )
    return await asyncio.wait_for(child.wait(), 60)
