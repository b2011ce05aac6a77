"""The program in docs/architecture.md publishes and consumes with the toolkit alone, as it stands there."""

import asyncio
import re
from typing import Any

from shared import postgres
from tests.builders import eventually, order_confirmed, order_created, record
from tests.conftest import ROOT, Database
from tests.examples.shop import create_topics, events_by_order, migrate, parcels, publish, values


def program(**changes: str) -> dict[str, Any]:
    """The names of the program, with other addresses."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    (found,) = re.findall(r"```python\n(.*?)```", page.partition("## Use the toolkit in your service")[2], re.DOTALL)
    names: dict[str, Any] = {"__name__": "program"}
    exec(compile(found, "docs/architecture.md", "exec"), names)  # noqa: S102  # our own page
    assert names.keys() >= changes.keys()
    names.update(changes)
    return names


async def test_the_program_of_the_page_publishes_and_consumes(database: Database, kafka: str) -> None:
    await migrate(database, "upgrade", "head")
    await create_topics(kafka)
    url, stop = database.url_for("shipping"), asyncio.Event()
    names = program(URL=url, KAFKA=kafka)
    by_hand = names["Relay"](url, kafka, service="shipping", owner="by-hand")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(names["main"](stop))
        await publish(kafka, [record(order_created(1)), record(order_confirmed(1))])
        async with postgres.pool(url, size=2, name="test") as pool:
            await names["send_by_hand"](pool, by_hand, 2)

        async def both() -> bool:
            return await parcels(database) == {1, 2}

        await eventually(both)
        found = await events_by_order(kafka, {1, 2})
        stop.set()
    assert found == {1: 1, 2: 1}
    assert not await values(database, "select id from shipping.parked")
