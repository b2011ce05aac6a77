"""What is left of a deleted user in the database, and how it ends. The whole system: tests/acceptance."""

from typing import Any

import asyncpg
from asyncpg import Pool

from auth import consumer as auth_consumer
from auth.domain import Sender
from auth.keyring import Keyring
from auth.passwords import Passwords
from auth.service import Limits, Logins
from contracts.users import UserDeleted, UserRegistered
from orders import consumer as orders_consumer
from orders.domain import Request
from orders.placement import Placement
from shared import postgres
from shared.delivery import partitions
from shared.delivery.handling import Handling
from shared.web.audit import Trail
from tests import people_search
from tests.builders import record
from tests.conftest import Database, OpenPool
from users import consumer as users_consumer
from users import service as users

PASSWORD = "correct horse"
NAME, WORDS = "lovelace-1815", ["lovelace-1815", "Ada-King", "ada-king@example.org", "Analytical/1", "engine-note"]
HERE = Sender("192.0.2.1", "", "Analytical/1")


async def registered(pool: Pool) -> int:
    keyring, trail = Keyring(pool), Trail(pool)
    await keyring.reload()
    logins = Logins(pool, keyring, Passwords(1), Limits(900, 3600, 9, 9, 9), lambda: None, trail)
    user_id = await logins.register(NAME, PASSWORD, HERE)
    await logins.log_in(NAME, PASSWORD, HERE)
    await trail.store()
    return user_id


async def ordered(pool: Pool, url: str, user_ids: list[str]) -> None:
    async with postgres.transaction(pool) as conn:
        await Placement(url, 60.0).write(conn, [Request(user_id, "burger", 1, "engine-note") for user_id in user_ids])


async def profiled(pool: Pool, user_id: int) -> None:
    await Handling(pool, "users", users_consumer.HANDLERS).handle(
        [record(UserRegistered(version=1, user_id=str(user_id), username=NAME))]
    )
    async with postgres.transaction(pool, [str(user_id)]) as conn:
        await users.change(conn, user_id, {"display_name": "Ada-King", "email": "ada-king@example.org"})


async def test_only_outboxes_have_a_deleted_user_until_their_days_are_dropped(
    database: Database, open_pool: OpenPool
) -> None:
    auth_pool, users_pool, orders_pool = [await open_pool(name) for name in ("auth", "users", "orders")]
    user_id = await registered(auth_pool)
    await profiled(users_pool, user_id)
    await ordered(orders_pool, database.url_for("orders"), [str(user_id), "somebody else"])
    conn: Any = await asyncpg.connect(database.admin_url)
    kept = {"auth.outbox", "orders.outbox"}
    in_use = {"auth.credentials", "auth.sessions", "users.profiles", "orders.orders"}
    assert await people_search.tables_with(conn, WORDS) == in_use | kept

    async with postgres.transaction(users_pool, [str(user_id)]) as writing:
        await users.delete(writing, user_id)
    deleted = record(UserDeleted(version=3, user_id=str(user_id)))
    await Handling(auth_pool, "auth", auth_consumer.HANDLERS).handle([deleted])
    orders = Handling(orders_pool, "orders", orders_consumer.HANDLERS, ignores=orders_consumer.IGNORES)
    await orders.handle([deleted])
    notes = "select user_id, note from orders.orders order by id"
    assert [tuple(row) for row in await conn.fetch(notes)] == [(str(user_id), ""), ("somebody else", "engine-note")]
    await conn.execute("delete from orders.orders where user_id = 'somebody else'")
    assert await people_search.tables_with(conn, WORDS) == kept

    await conn.execute("update auth.outbox_lanes set xid = '9223372036854775807'")  # all is published
    await conn.execute("update orders.outbox_lanes set xid = '9223372036854775807'")
    for days, left in ((8, kept), (1, set[str]())):
        for name, pool in (("auth", auth_pool), ("orders", orders_pool)):
            await conn.execute(f"update {name}.outbox set occurred_at = occurred_at - make_interval(days => {days})")
            await partitions.run_once(pool)
        assert await people_search.tables_with(conn, WORDS) == left
    await conn.close()
