"""Alembic's environment: create the role and the schema as the administrator, then run the revisions as that role.

`ADMIN_DATABASE_URL` is the URL of a superuser. The role's password is `SHIPPING_DB_PASSWORD`; its default is safe only
on your own machine.
"""

import asyncio
import os
import sys

from alembic import context
from sqlalchemy import Connection, pool
from sqlalchemy.ext.asyncio import create_async_engine

DEFAULT_URL = "postgresql://postgres:postgres@127.0.0.1:5433/quickbite"
SCHEMA, ROLE = "shipping", "shipping_user"

password = os.environ.get("SHIPPING_DB_PASSWORD", "shipping").replace("'", "''")

LIMITS = (
    # A migration that waits for a lock makes every later statement on the table wait behind it.
    "set lock_timeout = '3s'",
    "set statement_timeout = '10min'",
    # The server would log a statement that fails or is slow, with the password.
    "set log_min_error_statement = 'panic'",
    "set log_min_duration_statement = -1",
)
# Roles belong to the cluster, so the role may exist already. The toolkit's statements name no schema: the search path
# of the role is its schema. With pg_read_all_stats, the relay can name a transaction that holds the outbox back.
ACCESS = (
    f"""
    do $$ begin
      create role {ROLE} login;
    exception when duplicate_object or unique_violation then null;
    end $$""",
    f"alter role {ROLE} password '{password}'",
    f"alter role {ROLE} set search_path = {SCHEMA}",
    f"grant pg_read_all_stats to {ROLE}",
    f"create schema if not exists {SCHEMA} authorization {ROLE}",
    f"set role {ROLE}",
    f"set search_path to {SCHEMA}",
)


def _migrate(connection: Connection) -> None:
    for statement in (*LIMITS, *ACCESS):
        connection.exec_driver_sql(statement)
    connection.commit()
    context.configure(connection=connection, version_table_schema=SCHEMA, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()


async def _run() -> None:
    url = os.environ.get("ADMIN_DATABASE_URL", DEFAULT_URL).replace("postgresql://", "postgresql+asyncpg://", 1)
    engine = create_async_engine(url, poolclass=pool.NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(_migrate)
    await engine.dispose()


try:
    asyncio.run(_run())
except OSError as error:
    sys.exit(f"Postgres does not answer: {error}. Start it, or set ADMIN_DATABASE_URL")
