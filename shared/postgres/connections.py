"""Connections and pools, with a bound on every wait.

What must stay true: no statement and no connection attempt waits longer than its bound. A frozen server answers neither
queries nor cancels, so code with a deadline also bounds its own wait (`shared/web/deadline.py`).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import parse_qsl, urlencode, urlsplit

import asyncpg
import orjson
from asyncpg.pool import PoolConnectionProxy

from .. import metrics
from ..process.configuration import PASSWORD_FILE

if TYPE_CHECKING:  # asyncpg's classes are generic only in its stubs
    Plain: TypeAlias = asyncpg.Connection[asyncpg.Record]
    Connection: TypeAlias = Plain | PoolConnectionProxy[asyncpg.Record]
    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]
else:
    Plain, Connection, Pool = asyncpg.Connection, asyncpg.Connection | PoolConnectionProxy, asyncpg.Pool

STATEMENT_SECONDS = 2.5  # less than the 3 s in which every request is answered
CONNECT_SECONDS = 2.5
ROTATION_SECONDS = 1.0

_SETTINGS = {
    "jit": "off",
    "enable_seqscan": "off",  # otherwise a plan that was cached for a tiny table scans it when it is large
    # The server's own bounds: they also hold if this process is frozen or gone. An open write transaction holds back
    # every relay of the cluster.
    "idle_in_transaction_session_timeout": "3s",
    "statement_timeout": "2400ms",
    "lock_timeout": "2s",
}


async def connect(url: str, **settings: str) -> Plain:
    """Open one connection, for a loop that owns it. `settings` are Postgres' own. Raises one of `ERRORS`."""
    address, password = _read(url)
    conn: Plain = await _open(
        address,
        **password,
        timeout=CONNECT_SECONDS,
        command_timeout=STATEMENT_SECONDS,
        server_settings={**_SETTINGS, **settings},
    )
    await _prepare(conn)
    return conn


@asynccontextmanager
async def pool(url: str, *, size: int, name: str) -> AsyncIterator[Pool]:
    """Yield a pool of at most `size` connections. It connects at first use, so a service starts without Postgres."""
    address, password = _read(url)
    made = asyncpg.create_pool(
        address,
        **password,
        connect=_open,
        min_size=0,
        max_size=size,
        timeout=CONNECT_SECONDS,
        command_timeout=STATEMENT_SECONDS,
        server_settings={**_SETTINGS, "application_name": name},
        init=_prepare,
        reset=_keep,
    )
    async with made as opened:
        with _measured(opened, name):
            try:
                yield opened
            finally:
                opened.terminate()  # every user of a connection had the whole drain to finish


def _read(url: str) -> tuple[str, dict[str, Any]]:
    """The address without `PASSWORD_FILE`, and asyncpg's argument that reads the file at each new connection."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    path = query.pop(PASSWORD_FILE, None)
    if path is None:
        return url, {}
    address = parts._replace(query=urlencode(query)).geturl()
    return address, {"password": lambda: Path(path).read_text().strip()}


async def _open(*arguments: Any, **settings: Any) -> Any:
    """Open a connection. While a password is rotated, file and server differ for a moment: then try again."""
    until = time.monotonic() + ROTATION_SECONDS
    while True:
        try:
            return await asyncpg.connect(*arguments, **settings)
        except asyncpg.InvalidPasswordError:
            if not callable(settings.get("password")) or time.monotonic() > until:
                raise
            await asyncio.sleep(0.05)


@contextmanager
def _measured(pool: Pool, name: str) -> Iterator[None]:
    """Export the use of the pool. The numbers are read only when somebody asks for the metrics."""
    used, idle = (metrics.POOL_CONNECTIONS.labels(name, state) for state in ("used", "idle"))
    used.set_function(lambda: pool.get_size() - pool.get_idle_size())
    idle.set_function(pool.get_idle_size)
    metrics.POOL_MAX.labels(name).set(pool.get_max_size())
    metrics.POOL_WAITING.labels(name).set_function(lambda: _waiting(pool))
    try:
        yield
    finally:  # otherwise the functions would keep the pool alive
        for state in ("used", "idle"):
            metrics.POOL_CONNECTIONS.remove(name, state)
        metrics.POOL_MAX.remove(name)
        metrics.POOL_WAITING.remove(name)


def _waiting(pool: Any) -> int:
    """How many callers wait for a connection. asyncpg does not export the number."""
    return sum(not waiter.done() for waiter in pool._queue._getters)  # noqa: SLF001


async def _prepare(conn: Plain) -> None:
    """Convert jsonb values to and from Python values."""
    await conn.set_type_codec("jsonb", encoder=_dump, decoder=orjson.loads, schema="pg_catalog")


def _dump(value: object) -> str:
    return orjson.dumps(value).decode()


async def _keep(conn: Connection) -> None:
    """Keep a returned connection as it is. No code here changes session state, and asyncpg's reset is a round trip."""
    if conn.is_in_transaction():  # a rollback that failed must not leave its transaction to the next user
        await conn.execute("rollback")
