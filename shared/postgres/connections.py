"""Postgres: connections with bounds on every wait, transactions, key locks, and what an error means.

What must stay true: no statement, and no connecting, waits longer than its bound. A frozen server answers neither
queries nor cancels, so callers who promised an answer also bound their own waiting (see `shared/web.py`).
"""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, TypeAlias
from zlib import crc32

import asyncpg
import orjson
from asyncpg.pool import PoolConnectionProxy

if TYPE_CHECKING:  # generic in its stubs only
    Plain: TypeAlias = asyncpg.Connection[asyncpg.Record]
    Connection: TypeAlias = Plain | PoolConnectionProxy[asyncpg.Record]
    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]
else:
    Plain, Connection, Pool = asyncpg.Connection, asyncpg.Connection | PoolConnectionProxy, asyncpg.Pool

# InternalClientError: what a connection says to whoever uses it between Postgres' last word and the end of its socket.
ERRORS = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""All that talking to Postgres raises when it is not a bug of ours; `is_transient` tells trouble from mistakes."""

STATEMENT_SECONDS = 2.5  # under the 3 s in which every request is answered
CONNECT_SECONDS = 2.5

_SETTINGS = {
    "jit": "off",
    "enable_seqscan": "off",  # a plan cached while a table was tiny must not read it whole once it is large
    # An open write transaction holds every relay of the cluster back, also that of a process that is frozen.
    "idle_in_transaction_session_timeout": "3s",
}

# One advisory lock per key, in one order everywhere, so that two batches cannot deadlock: an array is unnested in its
# order. Taking them assigns no xid: whoever gets a lock later gets the higher xid, so (xid, id) is the key's order.
_LOCK_KEYS = "select pg_advisory_xact_lock(hashtext(current_schema()), k) from unnest('{{{}}}'::int[]) k"


async def _prepare(conn: Plain) -> None:
    """Make jsonb values Python values, both ways."""
    await conn.set_type_codec("jsonb", encoder=_dump, decoder=orjson.loads, schema="pg_catalog")


def _dump(value: object) -> str:
    return orjson.dumps(value).decode()


async def _keep(conn: Connection) -> None:
    """Leave a returned connection as it is: nothing here sets session state, and asyncpg's reset is a round trip."""
    if conn.is_in_transaction():  # a rollback that failed must not leave its transaction to whoever comes next
        await conn.execute("rollback")


async def connect(url: str, **settings: str) -> Plain:
    """Open one connection, for a loop that owns it; `settings` are Postgres' own. Raises one of `ERRORS`."""
    conn: Plain = await asyncpg.connect(
        url,
        timeout=CONNECT_SECONDS,
        command_timeout=STATEMENT_SECONDS,
        server_settings={**_SETTINGS, **settings},
    )
    await _prepare(conn)
    return conn


@asynccontextmanager
async def pool(url: str, *, size: int, name: str) -> AsyncIterator[Pool]:
    """Yield a pool that connects when it is first used, so that a service starts while Postgres is away."""
    made = asyncpg.create_pool(
        url,
        min_size=0,
        max_size=size,
        timeout=CONNECT_SECONDS,
        command_timeout=STATEMENT_SECONDS,
        server_settings={**_SETTINGS, "application_name": name},
        init=_prepare,
        reset=_keep,
    )
    async with made as opened:
        try:
            yield opened
        finally:
            opened.terminate()  # whoever still holds a connection has had the drain's time to finish


@asynccontextmanager
async def transaction(pool: Pool, keys: Collection[str] = ()) -> AsyncIterator[Connection]:
    """Borrow a connection (waiting at most `CONNECT_SECONDS`) and open a transaction on it, with the keys' locks.

    BEGIN and the locks are one round trip: at a hundred events a second round trips are most of what an event costs.
    """
    async with pool.acquire(timeout=CONNECT_SECONDS) as conn:
        await conn.execute(f"begin; {_lock_sql(keys)}" if keys else "begin")
        try:
            yield conn
        except BaseException:
            with suppress(*ERRORS):  # a connection that is gone has rolled back
                await conn.execute("rollback")
            raise
        await conn.execute("commit")


async def lock_keys(conn: Connection, keys: Collection[str]) -> None:
    """Wait for, and hold until the transaction ends, the right to write events of these keys.

    Must be the transaction's first statement. Without it a transaction that got its xid early and wrote its event
    late is published before the event it followed, because relays read in the order of xids.
    """
    await conn.execute(_lock_sql(keys))


def _lock_sql(keys: Collection[str]) -> str:
    return _LOCK_KEYS.format(",".join(map(str, sorted({crc32(key.encode()) - 2**31 for key in keys}))))


def columns(rows: Sequence[Sequence[object]], width: int) -> tuple[Sequence[object], ...]:
    """Turn rows into as many arrays as they are wide, for `unnest`; no rows are as many empty arrays."""
    return tuple(zip(*rows, strict=True)) if rows else ((),) * width


def is_unavailable(error: BaseException) -> bool:
    """Say whether Postgres could not be asked at all: away, starting, stopping, full, or too slow."""
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        return state.startswith(("08", "57P", "53")) or state in {"57014", "25P03"}
    if isinstance(error, asyncpg.InterfaceError):
        return not isinstance(error, ValueError)  # asyncpg's complaint about an argument is both
    return isinstance(error, OSError | TimeoutError | asyncpg.InternalClientError)


def is_transient(error: BaseException) -> bool:
    """Say whether the same work may go well when it is simply done again."""
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate in {"40001", "40P01", "55P03"}:
        return True
    return is_unavailable(error)
