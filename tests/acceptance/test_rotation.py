"""Secrets are replaced while customers shop, and no request fails. `make bench ARGS=rotation` replaces every secret."""

import asyncio

import asyncpg
import pytest

from local import rotation
from shared.process.configuration import with_password
from tests.acceptance.client import Load, unexpected
from tests.acceptance.conftest import System
from tests.acceptance.people import ADMIN_PASSWORD, Person

CHOSEN = (
    "orders/database_password",
    "payments/provider_database_password",
    "postgres/postgres_password",
    "orders/kafka_password",
    "inventory/kafka_password",
    "admin/kafka_password",
)

ANOTHER = "the administrator's next one"


async def can_log_in(system: System, password: str) -> bool:
    async with system.customers(system.gateway_url) as client:
        return (await Person(client, "admin", password).log_in()).status == 200


async def test_rotating_passwords_under_load_loses_no_request(system: System) -> None:
    former = {name: system.stack.secret(name) for name in CHOSEN}
    old_url, address = (
        system.stack.database_url("orders_user", CHOSEN[0]),
        system.stack.database_url().rpartition("@")[2],
    )
    async with system.customers() as client, Load(client, per_second=15, give_up=1.0):  # without any retries
        await asyncio.sleep(0.5)
        await asyncio.to_thread(rotation.rotate, system.stack, CHOSEN)
        for password in (ANOTHER, ADMIN_PASSWORD):
            await asyncio.to_thread(rotation.rotate, system.stack, [rotation.ADMIN], password)
            assert [await can_log_in(system, one) for one in (ANOTHER, ADMIN_PASSWORD)] == [
                one == password for one in (ANOTHER, ADMIN_PASSWORD)
            ]
        await asyncio.sleep(0.5)
    assert unexpected(client.history, 200, 202, 409) == []
    assert not {name: value for name, value in former.items() if value == system.stack.secret(name)}
    for name, role in (("orders/database_password", "orders_user"), ("postgres/postgres_password", "postgres")):
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(with_password(f"postgresql://{role}@{address}", former[name]))
        await (await asyncpg.connect(system.stack.database_url(role, name))).close()
    assert old_url != system.stack.database_url("orders_user", CHOSEN[0])
    await system.settled()  # every order ended, so all services read and write Kafka with their new passwords
