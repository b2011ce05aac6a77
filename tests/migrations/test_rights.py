"""A service that turned bad attacks the database with its own role: its outbox, the locks and statements of others."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest
from alembic import command
from alembic.config import Config

from migrations import config, passwords
from shared import postgres
from shared.delivery.lanes import Lanes, Limit, first_day, held_back_by, read
from shared.postgres import Plain
from tests.conftest import PASSWORDS, ROOT, Database, copied_from
from tests.migrations.conftest import ROLES, SERVICES, metadata_of, migrate

LOCKS = "^pg_(try_)?advisory_(xact_)?lock"


@pytest.fixture
async def admin(database: Database) -> AsyncIterator[Plain]:
    conn = await asyncpg.connect(database.admin_url)
    yield conn
    await conn.close()


async def refused(conn: Plain, *statements: str) -> None:
    """Run statements that must all be refused for lack of a right."""
    done = []
    for statement in statements:
        with suppress(asyncpg.InsufficientPrivilegeError):
            done.append((statement, await conn.execute(statement)))
    assert done == []


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_can_only_append_to_its_outbox_and_read_it(database: Database, service: str) -> None:
    conn = await postgres.connect(database.url_for(service))
    today = datetime.now(UTC).date()
    assert await conn.fetchval("select make_day('outbox', $1)", today + timedelta(days=30))
    for part in ("outbox", "outbox_default", f"outbox_{today:%Y%m%d}", f"outbox_{today + timedelta(days=30):%Y%m%d}"):
        await refused(
            conn,
            f"truncate {part}",
            f"delete from {part}",
            f"update {part} set value = ''",
            f"drop table {part}",
            f"alter table {part} drop constraint outbox_topic",
            f"alter table {part} add column x int",
        )
    await refused(
        conn,
        "alter table outbox detach partition outbox_default",
        "insert into outbox_lanes values (9, default, default, null, 0, default, 0)",
        "delete from outbox_lanes",
        "update outbox_lanes set system_identifier = 1",
        "select setval('outbox_id_seq', 1)",
        "drop function rebase_outbox",
        "alter function drop_day owner to current_user",
        "create function mine() returns int language sql as 'select 1'",
        "create table mine (x int)",
        "alter schema " + service + " rename to mine",
        "delete from alembic_version",
        f"set role {service}_owner",
        f"reassign owned by {service}_owner to {service}_user",
    )
    await conn.close()


@pytest.mark.parametrize("role", ROLES)
async def test_a_service_owns_nothing_and_may_read_every_table_of_its_own(
    database: Database, admin: Plain, role: str
) -> None:
    owned = "select count(*) from pg_shdepend where refobjid = $1::text::regrole and deptype = 'o'"
    assert await admin.fetchval(owned, f"{role}_user") == 0
    for table in metadata_of(role).tables:
        assert await admin.fetchval("select has_table_privilege($1, $2, 'select')", f"{role}_user", table), table


@pytest.mark.parametrize("role", ROLES)
async def test_a_service_takes_no_advisory_lock_but_those_of_its_own_keys(
    database: Database, admin: Plain, role: str
) -> None:
    functions = await admin.fetch("select oid::regprocedure::text from pg_proc where proname ~ $1", LOCKS)
    assert len(functions) == 16
    conn = await postgres.connect(database.url_for(role))
    other = "inventory" if role != "inventory" else "orders"
    for [signature] in functions:
        name, _, arguments = signature.partition("(")
        keys = f"hashtext('{other}'), 5" if "," in arguments else "5"
        await refused(conn, f"select {name}({keys})")
    await refused(conn, f"select {other}.lock_keys('{{5}}')")
    await conn.close()


async def test_the_locks_of_two_services_are_apart_and_are_those_of_the_former_release(
    database: Database, admin: Plain
) -> None:
    orders = await postgres.connect(database.url_for("orders"))
    async with postgres.pool(database.url_for("inventory"), size=1, name="test") as pool, orders.transaction():
        await postgres.lock_keys(orders, ["a", "b"])
        held = "select classid::bigint, count(*) from pg_locks where pid = $1 and locktype = 'advisory' group by 1"
        [(number, count)] = await admin.fetch(held, orders.get_server_pid())
        assert count == 2
        assert number == await admin.fetchval("select hashtext('orders')::bigint & 4294967295")
        async with postgres.transaction(pool, ["a", "b"]):
            pass
    await orders.close()


async def test_a_service_sees_no_statement_of_another_role(database: Database, admin: Plain) -> None:
    conn = await postgres.connect(database.url_for("orders"))
    async with admin.transaction():
        await admin.execute("select pg_current_xact_id() as the_secret")
        seen = await conn.fetchval("select query from pg_stat_activity where pid = $1", admin.get_server_pid())
        held_back = await held_back_by(conn)
    assert seen == "<insufficient privilege>"
    assert held_back is not None
    assert (held_back["pid"], held_back["usename"]) == (admin.get_server_pid(), "postgres")
    assert "the_secret" not in str(dict(held_back))
    await refused(conn, "grant pg_read_all_stats to current_user", "set role pg_read_all_stats")
    await conn.close()


async def test_the_oldest_transaction_of_another_database_is_still_noticed(
    database: Database, template: Database
) -> None:
    conn = await postgres.connect(database.url_for("orders"))
    async with copied_from(template) as another:
        other = await asyncpg.connect(another.admin_url)
        async with other.transaction():
            began = await other.fetchval("select now()")
            assert await conn.fetchval("select first_open_transaction()") <= began
            assert (await first_day(conn)) <= began.date()
        await other.close()
    await conn.close()


@pytest.mark.parametrize("role", ROLES)
async def test_a_service_changes_no_role(database: Database, role: str) -> None:
    conn = await postgres.connect(database.url_for(role))
    other = "inventory" if role != "inventory" else "orders"
    await refused(
        conn,
        f"alter role {other}_user password 'x'",
        f"alter role {other}_owner login password 'x'",
        f"alter role {other}_user set search_path = {role}",
        f"alter role {role}_user superuser",
        f"grant {other}_user to {role}_user",
        f"grant {role}_owner to {role}_user",
        "select rolpassword from pg_authid",
    )
    await conn.close()


# Passwords


async def test_passwords_are_set_at_every_start_and_are_in_no_statement(empty: Database, run_folder: Path) -> None:
    conn = await asyncpg.connect(empty.admin_url)
    await conn.execute(f"alter database {empty.name} set log_statement = 'all'")
    log = run_folder / "postgres" / "postgres.log"
    begin = log.stat().st_size
    await migrate(empty, "up")
    stolen = {role: f"stolen {role}" for role in ROLES}
    for role, password in stolen.items():
        await conn.execute(f"alter role {role}_user password '{password}'")
        await (await asyncpg.connect(empty.url_of(f"{role}_user", password))).close()
    await migrate(empty, "up")
    for role, password in stolen.items():
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(empty.url_of(f"{role}_user", password))
        await (await asyncpg.connect(empty.url_for(role))).close()
    text = log.read_text()[begin:]  # small
    assert text.count("password 'SCRAM-SHA-256$") == 2 * len(ROLES)
    for password in PASSWORDS.values():
        assert password not in text
        assert password.replace('"', '\\"') not in text  # as it would be in the log's JSON
    await conn.close()


async def test_a_superuser_loses_the_password_of_the_former_release(database: Database, admin: Plain) -> None:
    boss = f"boss_{database.name}"
    await admin.execute(f"create role {boss} superuser login password '{passwords.FORMER}'")
    try:
        url = database.url_of(boss, "a:b/c@d'e")
        for _ in range(2):
            await passwords.replace_former(url)
            await (await asyncpg.connect(url)).close()
        for password in (passwords.FORMER, "another"):
            with pytest.raises(asyncpg.InvalidPasswordError):
                await asyncpg.connect(database.url_of(boss, password))
        with pytest.raises(asyncpg.InvalidPasswordError):
            await passwords.replace_former(database.url_of(boss, "another"))
    finally:
        await admin.execute(f"drop role {boss}")


@pytest.mark.parametrize(
    ("value", "complaint"),
    [("", "ORDERS_DB_PASSWORD must be set, or SECRETS_FOLDER"), ("päss", "ORDERS_DB_PASSWORD: only printable ASCII")],
)
def test_a_missing_or_odd_password_is_one_line(monkeypatch: pytest.MonkeyPatch, value: str, complaint: str) -> None:
    for section, password in PASSWORDS.items():
        monkeypatch.setenv(config.variable(section), password)
    monkeypatch.setenv("ORDERS_DB_PASSWORD", value)
    with pytest.raises(SystemExit, match=f"^{complaint}.*$"):
        config.Settings().passwords()


def test_passwords_are_read_from_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for section, name in {**config.FILES, "postgres": config.SUPERUSER}.items():
        monkeypatch.delenv(config.variable(section), raising=False)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{section}@\n")
    monkeypatch.setenv("SECRETS_FOLDER", str(tmp_path))
    monkeypatch.setenv("ADMIN_DATABASE_URL", "postgresql://postgres@host/quickbite")
    assert config.Settings().passwords() == {section: f"{section}@" for section in ROLES}
    assert config.Settings().admin_url == "postgresql://postgres:postgres%40@host/quickbite"


# From the former release

FORMER = {
    "orders": "orders_0004",
    "inventory": "inventory_0003",
    "payments": "payments_0005",
    "provider": "provider_0001",
    "auth": "auth_0002",
    "users": "users_0002",
    "products": "products_0003",
    "admin": "admin_0002",  # the last one: it gives the tables back to the services
}


async def test_the_tables_are_handed_over_in_place_with_orders_open_and_events_unpublished(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADMIN_DATABASE_URL", database.admin_url)
    for section, revision in FORMER.items():
        await asyncio.to_thread(command.downgrade, Config(ROOT / "alembic.ini", ini_section=section), revision)
    former = await asyncpg.connect(database.url_for("orders"))
    for attack in ("truncate outbox", "alter table outbox drop constraint outbox_topic", "select pg_advisory_lock(1)"):
        transaction = former.transaction()
        await transaction.start()
        await former.execute(attack)  # works: the former state is as it was
        await transaction.rollback()
    await former.execute("select pg_advisory_unlock_all()")
    await former.execute("insert into orders (user_id, product, expires_at) values ('u', '{}', now())")
    await former.execute(
        "insert into outbox (lane, event_id, topic, hash, key, type, head, value) "
        "select n, gen_random_uuid(), 'orders.events', 0, n::text, 't', '', '' from generate_series(0, 3) n"
    )
    before = await former.fetch("select xid, id, key from outbox order by xid, id")

    await migrate(database, "up", "--seed")  # while the former process is still connected

    await refused(former, "truncate outbox", "alter table outbox drop constraint outbox_topic")
    await former.close()
    conn = await postgres.connect(database.url_for("orders"))
    assert await conn.fetch("select xid, id, key from outbox order by xid, id") == before
    assert await conn.execute("update orders set status = 'CANCELLED' where user_id = 'u'") == "UPDATE 1"
    lanes = Lanes("a", 3.0)
    await lanes.renew(conn)
    assert len(await read(conn, lanes.positions, Limit(10, 10**9))) == 4
    await conn.close()
