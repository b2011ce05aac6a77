"""Transactions and key locks.

What must stay true: before a transaction writes events of keys that other transactions also write, it takes the locks
of these keys. Outbox rows are published in the order of transaction ids (xids). A lock assigns no xid, so the
transaction that gets the lock later also gets the higher xid. So the order of xids is the order of each key's events.
"""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from zlib import crc32

from .connections import CONNECT_SECONDS, Connection, Pool
from .failures import ERRORS

# One advisory lock per key. The array is sorted and the function keeps its order, so two batches cannot deadlock. Each
# schema has its own function (`delivery/schema.py`), and its role cannot take other locks.
_LOCK_KEYS = "select lock_keys('{{{}}}')"


@asynccontextmanager
async def transaction(pool: Pool, keys: Collection[str] = ()) -> AsyncIterator[Connection]:
    """Borrow a connection and open a transaction on it, with the locks of `keys`. The end of the block commits it.

    Waits at most `CONNECT_SECONDS` for a connection. BEGIN and the locks are one round trip: at a hundred events a
    second, round trips are most of what an event costs. Raises one of `ERRORS`.
    """
    async with pool.acquire(timeout=CONNECT_SECONDS) as conn:
        await conn.execute(f"begin; {_lock_sql(keys)}" if keys else "begin")
        try:
            yield conn
        except BaseException:
            with suppress(*ERRORS):  # a lost connection has rolled back
                await conn.execute("rollback")
            raise
        await conn.execute("commit")


async def lock_keys(conn: Connection, keys: Collection[str]) -> None:
    """Wait for the locks of `keys`; the transaction holds them until it ends.

    This must be the first statement of the transaction. Otherwise a transaction could get its xid early and write its
    event late. That event would then be published before the event that it follows.
    """
    await conn.execute(_lock_sql(keys))


def _lock_sql(keys: Collection[str]) -> str:
    return _LOCK_KEYS.format(",".join(map(str, sorted({crc32(key.encode()) - 2**31 for key in keys}))))


def columns(rows: Sequence[Sequence[object]], width: int) -> tuple[Sequence[object], ...]:
    """Turn rows into `width` arrays for `unnest`. No rows become `width` empty arrays."""
    return tuple(zip(*rows, strict=True)) if rows else ((),) * width
