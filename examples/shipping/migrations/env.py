"""Alembic's environment: create the roles and the schema as the superuser, then run the revisions as the owner.

`ADMIN_DATABASE_URL` is the URL of a superuser. The role's password is `SHIPPING_DB_PASSWORD`; its default is safe only
on your own machine.
"""

import asyncio
import os
import sys

from alembic import context
from sqlalchemy import Connection, pool
from sqlalchemy.ext.asyncio import create_async_engine

SCHEMA, ROLE, OWNER = "shipping", "shipping_user", "shipping_owner"

password = os.environ.get("SHIPPING_DB_PASSWORD", "shipping").replace("'", "''")

LIMITS = (
    # A migration that waits for a lock makes every later statement on the table wait behind it.
    "set lock_timeout = '3s'",
    "set statement_timeout = '10min'",
    # The server would log a statement that fails or is slow, with the password.
    "set log_min_error_statement = 'panic'",
    "set log_min_duration_statement = -1",
)
_CREATE_ROLE = """
    do $$ begin
      create role {};
    exception when duplicate_object or unique_violation then null;
    end $$"""

# Roles belong to the cluster, so they may exist already. The toolkit's statements name no schema: the search path of
# the role is its schema. Its functions run with the rights of the owner, which sees all transactions and takes locks.
ACCESS = (
    _CREATE_ROLE.format(f"{ROLE} login"),
    _CREATE_ROLE.format(f"{OWNER} nologin"),
    f"alter role {ROLE} password '{password}'",
    f"alter role {ROLE} set search_path = {SCHEMA}",
    f"grant pg_read_all_stats to {OWNER}",
    f"grant execute on function pg_advisory_xact_lock(integer, integer) to {OWNER}",
    f"create schema if not exists {SCHEMA}",
    f"alter schema {SCHEMA} owner to {OWNER}",
    f"reassign owned by {ROLE} to {OWNER}",  # it was the owner before revision 2
    f"grant usage on schema {SCHEMA} to {ROLE}",
    f"set role {OWNER}",
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
    url = os.environ["ADMIN_DATABASE_URL"].replace("postgresql://", "postgresql+asyncpg://", 1)
    engine = create_async_engine(url, poolclass=pool.NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(_migrate)
    await engine.dispose()


try:
    asyncio.run(_run())
except KeyError:
    sys.exit("ADMIN_DATABASE_URL must be set: the address of a superuser, with its password")
except OSError as error:
    sys.exit(f"Postgres does not answer: {error}. Start it, or set ADMIN_DATABASE_URL")
