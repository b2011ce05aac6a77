"""Migrations: up, down and up again; they match the tables in code; no role can use the schema of another."""

import asyncio
import re
from typing import Any

import asyncpg
import orjson
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from contracts.catalogue import TOPICS
from contracts.products import ProductChanged, ProductCreated
from migrations import seed
from shared.delivery.tables import Xid8
from tests.conftest import PASSWORDS, ROOT, Database
from tests.migrations.conftest import ROLES, SERVICES, metadata_of, migrate

PARTITION = re.compile(r"(outbox|inbox)_(\d{8}|default)")


async def contents(database: Database) -> set[str]:
    """Every table, index, sequence, column and constraint outside Postgres' own schemas, without partitions."""
    conn = await asyncpg.connect(database.admin_url)
    rows = await conn.fetch(
        """
        with own as (select oid, nspname from pg_namespace where nspname !~ '^(pg_|information_schema)')
        select format('%s %s.%s', relkind, nspname, relname) from pg_class join own on own.oid = relnamespace
        union all
        select format('%s.%s.%s %s %s', nspname, relname, attname, format_type(atttypid, atttypmod), attnotnull)
          from pg_attribute join pg_class c on c.oid = attrelid join own on own.oid = relnamespace
         where attnum > 0 and not attisdropped
        union all
        select format('%s.%s %s', nspname, conname, pg_get_constraintdef(c.oid))
          from pg_constraint c join own on own.oid = connamespace
        union all
        select format('function %s.%s', nspname, proname) from pg_proc join own on own.oid = pronamespace
        union all
        select format('schema %s', nspname) from own
        """
    )
    await conn.close()
    return {row[0] for row in rows if not PARTITION.search(row[0])}


async def test_up_creates_the_same_each_time_and_down_leaves_nothing(empty: Database) -> None:
    before = await contents(empty)
    await migrate(empty, "up")
    made = await contents(empty)
    await migrate(empty, "down")
    assert {one for one in await contents(empty) - before if "alembic_version" not in one} == set()
    for _ in range(2):
        await migrate(empty, "up", "--seed")
        assert await contents(empty) == made


async def test_every_section_can_go_down_and_up_alone(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADMIN_DATABASE_URL", database.admin_url)
    made = await contents(database)
    for section in ROLES:
        config = Config(ROOT / "alembic.ini", ini_section=section)
        await asyncio.to_thread(command.downgrade, config, "base")
        left = {one for one in made & await contents(database) if f" {section}." in f" {one}"}
        assert {one for one in left if "alembic_version" not in one} == set()
        await asyncio.to_thread(command.upgrade, config, "head")
    assert await contents(database) == made


@pytest.mark.parametrize("service", ROLES)
async def test_the_tables_of_a_service_match_its_migrations(database: Database, service: str) -> None:
    wanted = metadata_of(service)
    url = database.admin_url.replace("postgresql://", "postgresql+asyncpg://")

    def named(name: str | None, kind: str, _: Any) -> bool:
        if kind == "schema":
            return name == service
        return not PARTITION.fullmatch(name or "") and name != "alembic_version"

    def compare(connection: Connection) -> list[Any]:
        connection.dialect.ischema_names["xid8"] = Xid8  # as env.py does
        options = {"include_schemas": True, "include_name": named, "compare_type": True}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), wanted))

    engine = create_async_engine(url)
    async with engine.connect() as connection:
        assert await connection.run_sync(compare) == []
    await engine.dispose()


@pytest.mark.parametrize("service", ROLES)
async def test_defaults_and_nullability_match_the_tables(database: Database, service: str) -> None:
    wanted = metadata_of(service)
    conn = await asyncpg.connect(database.admin_url)
    rows = await conn.fetch(
        "select table_name, column_name, is_nullable = 'YES', column_default is not null or is_identity = 'YES' "
        "from information_schema.columns where table_schema = $1",
        service,
    )
    await conn.close()
    migrated = {tuple(row)[:2]: tuple(row)[2:] for row in rows if not PARTITION.fullmatch(row[0])}
    declared = {
        (table.name, column.name): (
            column.nullable,
            column.server_default is not None or (column is table.autoincrement_column),
        )
        for table in wanted.tables.values()
        for column in table.columns
    }
    assert declared == {name: column for name, column in migrated.items() if name[0] != "alembic_version"}


async def test_orders_has_the_required_columns_and_indexes(database: Database) -> None:
    conn = await asyncpg.connect(database.url_for("orders"))
    columns = await conn.fetch(
        "select column_name, data_type, is_nullable, column_default from information_schema.columns "
        "where table_schema = 'orders' and table_name = 'orders' order by ordinal_position"
    )
    indexes = await conn.fetch("select indexname, indexdef from pg_indexes where tablename = 'orders'")
    tables = await conn.fetch("select tablename from pg_tables where schemaname = 'orders'")  # psql's \dt orders.*
    await conn.close()
    found = {row[0]: tuple(row)[1:] for row in columns}
    required = {
        "id": ("bigint", "NO", "nextval('orders_id_seq'::regclass)"),
        "user_id": ("text", "NO", None),
        "note": ("text", "NO", "''::text"),
        "status": ("text", "NO", "'PENDING'::text"),
        "sku": ("text", "NO", "''::text"),
        "quantity": ("integer", "NO", "1"),
        "created_at": ("timestamp with time zone", "NO", "now()"),
    }
    assert {name: found[name] for name in required} == required
    assert found["product"][0] == "jsonb"
    assert set(found) >= {"amount_cents", "currency", "reason", "version", "expires_at", "updated_at"}
    defined = {row[0]: row[1] for row in indexes}
    for column in ("user_id", "status", "sku"):
        assert defined[f"idx_orders_{column}"].endswith(f"btree ({column})")
    assert {row[0] for row in tables} >= {"orders", "products", "outbox", "inbox", "parked"}


@pytest.mark.parametrize("values", [("LOST", 1), ("pending", 1), ("", 1)], ids=str)
async def test_an_unknown_status_is_refused(database: Database, values: tuple[str, int]) -> None:
    conn = await asyncpg.connect(database.url_for("orders"))
    with pytest.raises(asyncpg.CheckViolationError):
        await conn.execute(
            "insert into orders (user_id, product, expires_at, status, quantity) values ('u', '{}', now(), $1, $2)",
            *values,
        )
    await conn.close()


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_can_neither_read_nor_write_another_services_schema(database: Database, role: str) -> None:
    admin = await asyncpg.connect(database.admin_url)
    tables = await admin.fetch("select schemaname, tablename from pg_tables where schemaname = any($1)", ROLES)
    await admin.close()
    conn = await asyncpg.connect(database.url_for(role))
    others = [(schema, table) for schema, table in tables if schema != role and not PARTITION.fullmatch(table)]
    assert {schema for schema, _ in others} == set(ROLES) - {role}
    for schema, table in others:
        for statement in (
            f"select * from {schema}.{table}",
            f"delete from {schema}.{table}",
            f"insert into {schema}.{table} default values",
            f"truncate {schema}.{table}",
            f"drop table {schema}.{table}",
            f"alter table {schema}.{table} add column x int",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await conn.execute(statement)
    for schema in {*ROLES, "public"} - {role}:
        for privilege in ("usage", "create"):
            assert not await conn.fetchval("select has_schema_privilege($1, $2)", schema, privilege)
        for statement in (
            f"create table {schema}.mine (x int)",
            f"drop schema {schema} cascade",
            f"set role {schema}_user",
            f"set role {schema}_owner",
        ):
            if not statement.startswith("set role public"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await conn.execute(statement)
    for statement in (
        "create schema mine",
        "create role mine",
        "alter role postgres password 'x'",
        "create database mine",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute(statement)
    assert await conn.fetchval("select current_schema()") == role
    await conn.close()


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_cannot_log_in_with_another_roles_password(database: Database, role: str) -> None:
    for password in ("", "postgres", *ROLES, *(PASSWORDS[other] for other in ROLES if other != role)):
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(database.url_of(f"{role}_user", password))


async def test_seeding_creates_five_products_and_their_stock(database: Database) -> None:
    conn = await asyncpg.connect(database.admin_url)
    products = await conn.fetch(
        "select product_id, sku, price_cents, currency, active from orders.products order by product_id"
    )
    catalogue = await conn.fetch("select id, sku, price_cents, currency, active from products.products order by id")
    stock = dict(await conn.fetch("select sku, available from inventory.stock"))  # type: ignore[arg-type]
    await conn.close()
    assert products == catalogue
    assert [tuple(row) for row in products] == [
        (1, "burger", 850, "EUR", True),
        (2, "pizza", 1200, "EUR", True),
        (3, "fries", 350, "EUR", True),
        (4, "sushi", 1800, "EUR", True),
        (5, "lobster", 6000, "EUR", True),
    ]
    assert stock["lobster"] == 0
    assert all(stock[sku] >= 1000 for sku in ("burger", "pizza", "fries", "sushi"))


async def test_seeding_again_keeps_sold_stock_and_changed_prices(database: Database) -> None:
    conn = await asyncpg.connect(database.admin_url)
    await conn.execute("update orders.products set price_cents = 1, version = 2 where sku = 'burger'")
    await conn.execute("update inventory.stock set available = 7 where sku = 'burger'")
    await conn.execute("delete from orders.products where sku = 'pizza'")
    await conn.execute("update products.products set price_cents = 1, version = 2 where sku = 'burger'")
    for _ in range(2):
        await seed.run(database.admin_url)
    assert await conn.fetchval("select price_cents from products.products where sku = 'burger'") == 1
    assert await conn.fetchval("select price_cents from orders.products where sku = 'burger'") == 1
    assert await conn.fetchval("select available from inventory.stock where sku = 'burger'") == 7
    assert await conn.fetchval("select count(*) from orders.products") == 5
    await conn.close()


async def published(database: Database) -> list[ProductCreated]:
    conn = await asyncpg.connect(database.admin_url)
    rows = await conn.fetch("select type, key, value from products.outbox order by xid, id")
    await conn.close()
    events = [ProductCreated(**orjson.loads(row["value"])) for row in rows]
    assert [tuple(row)[:2] for row in rows] == [("ProductCreated", event.sku) for event in events]
    return events


async def test_seeding_publishes_each_product_once(database: Database) -> None:
    for _ in range(2):
        await seed.run(database.admin_url)
        assert [
            (event.product_id, event.sku, event.name, event.price_cents) for event in await published(database)
        ] == [row[:4] for row in seed.CATALOGUE]
    assert {(event.version, event.currency, event.active) for event in await published(database)} == {(1, "EUR", True)}


async def test_seeding_publishes_only_added_products_and_leaves_later_ids_free(database: Database) -> None:
    conn = await asyncpg.connect(database.admin_url)
    insert = "insert into products.products (sku, name, price_cents) values ('soup', 'Soup', 1) returning id"
    assert await conn.fetchval(insert) == len(seed.CATALOGUE) + 1
    await conn.execute("delete from products.products where sku in ('pizza', 'soup')")
    await seed.run(database.admin_url)
    assert [event.sku for event in await published(database)][len(seed.CATALOGUE) :] == ["pizza"]
    assert await conn.fetchval(insert) == len(seed.CATALOGUE) + 2
    await conn.close()


async def test_seeding_adds_no_product_that_it_may_not_publish(database: Database) -> None:
    admin = await asyncpg.connect(database.admin_url)
    await admin.execute("delete from products.products; revoke insert on products.outbox from products_user")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):  # seeding runs as products_user
        await seed.run(database.admin_url)
    assert await admin.fetchval("select count(*) from products.products") == 0
    await admin.close()


@pytest.mark.parametrize("service", SERVICES)
async def test_every_outbox_accepts_only_its_own_topic_and_dead_letters(database: Database, service: str) -> None:
    conn = await asyncpg.connect(database.url_for(service))
    insert = (
        "insert into outbox (lane, event_id, topic, hash, key, type, head, value) "
        "values (0, gen_random_uuid(), $1, 0, 'k', 't', '', '')"
    )
    for other in set(TOPICS) - {f"{service}.events"}:
        with pytest.raises(asyncpg.CheckViolationError):
            await conn.execute(insert, other)
    for topic in (f"{service}.events", "orders.events.dlq"):
        await conn.execute(insert, topic)
    where = "select count(*) from outbox where tableoid = 'outbox_default'::regclass"
    assert await conn.fetchval(where) == 0, "today has no partition"
    await conn.close()


async def test_a_migration_that_waits_for_a_lock_gives_up_and_blocks_nobody(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADMIN_DATABASE_URL", database.admin_url)
    config = Config(ROOT / "alembic.ini", ini_section="orders")
    conn = await asyncpg.connect(database.admin_url)
    async with conn.transaction():
        await conn.execute("select count(*) from orders.orders")
        with pytest.raises(Exception, match="lock timeout"):
            await asyncio.to_thread(command.downgrade, config, "orders_0001")
    await conn.close()


async def test_the_products_that_exist_are_published_again_for_new_replicas(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADMIN_DATABASE_URL", database.admin_url)
    config = Config(ROOT / "alembic.ini", ini_section="products")
    await asyncio.to_thread(command.downgrade, config, "products_0002")
    conn = await asyncpg.connect(database.admin_url)
    before = await conn.fetchval("select count(*) from products.outbox")
    await asyncio.to_thread(command.upgrade, config, "head")
    rows = await conn.fetch("select type, key, value from products.outbox order by xid, id offset $1", before)
    stored = {row["sku"]: row["version"] for row in await conn.fetch("select sku, version from products.products")}
    await conn.close()
    events = [ProductChanged.model_validate_json(row["value"]) for row in rows]
    assert {event.sku: event.version for event in events} == stored
    assert {row["type"] for row in rows} == {"ProductChanged"}
