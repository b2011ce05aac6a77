"""Alembic's environment for every section: connect as the superuser, then switch to the owner of the schema.

The section and its schema have the same name; the schema's owner is `<name>_owner`.
"""

import asyncio

import asyncpg
from alembic import context
from sqlalchemy import Connection, pool, text
from sqlalchemy.ext.asyncio import create_async_engine

from migrations import config, metadata
from shared.delivery.tables import Xid8

ADMIN = "admin"

section = context.config.config_ini_section
schema = "public" if section == ADMIN else section

# A migration that waits for a lock makes every later statement on the table wait behind it.
LIMITS = ("set lock_timeout = '3s'", "set statement_timeout = '10min'")
# The section `admin` sets passwords, and the server would log a statement that fails or is slow.
UNLOGGED = ("set log_min_error_statement = 'panic'", "set log_min_duration_statement = -1")


def _migrate(connection: Connection) -> None:
    for setting in (*LIMITS, *(UNLOGGED if section == ADMIN else ())):
        connection.execute(text(setting))
    connection.commit()
    if section != ADMIN:
        connection.execute(text(f"set role {section}_owner"))
        connection.execute(text(f"set search_path to {section}"))
        connection.commit()
    connection.dialect.ischema_names["xid8"] = Xid8  # type: ignore[attr-defined]  # otherwise autogenerate does not know the type
    context.configure(
        connection=connection,
        target_metadata=metadata.of(section),
        version_table="alembic_version",
        version_table_schema=schema,
        include_schemas=True,
        include_name=lambda name, kind, _: kind != "schema" or name == schema,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


async def _run() -> None:
    # asyncpg reads the URL itself: SQLAlchemy does not know `sslmode`.
    url = config.Settings().admin_url
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(url), poolclass=pool.NullPool
    )
    async with engine.connect() as connection:
        await connection.run_sync(_migrate)
    await engine.dispose()


asyncio.run(_run())
