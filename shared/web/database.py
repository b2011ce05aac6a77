"""How a route reads and writes: on a borrowed connection or in a transaction, within the request's deadline.

What must stay true: relays are woken after COMMIT and never before, because before it they cannot see the rows.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from aiohttp import web

from .. import postgres, tracing
from ..errors import OutcomeUnknown, Unavailable
from ..postgres import Connection, Pool
from . import deadline, requests

T = TypeVar("T")

POOL = web.AppKey("POOL", Pool)
COMMITTED: web.AppKey[Callable[[], None]] = web.AppKey("COMMITTED")
"""Called after each commit with new events; it wakes the relay."""


async def reading(request: web.Request, work: Callable[[Connection], Awaitable[T]]) -> T:
    """Run a use case that reads, on a borrowed connection, within the request's deadline. Raises `Unavailable`."""

    async def borrowed() -> T:
        async with request.app[POOL].acquire(timeout=postgres.CONNECT_SECONDS) as conn:
            return await work(conn)

    return await deadline.within(request, borrowed())


async def writing(request: web.Request, keys: Sequence[str], work: Callable[[Connection], Awaitable[T]]) -> T:
    """Run a use case in a transaction with the locks of `keys`, within the request's deadline.

    Events of these keys carry the request's traceparent. `COMMITTED` is called after the commit, also after a commit
    later than the deadline. Raises `OutcomeUnknown` if no answer came in time.
    """
    traceparent = requests.traceparent(request)

    async def transacted() -> T:
        with tracing.carrying(dict.fromkeys(keys, traceparent) if traceparent else {}):
            async with postgres.transaction(request.app[POOL], keys) as conn:
                result = await work(conn)
        request.app[COMMITTED]()
        return result

    try:
        return await deadline.within(request, transacted())
    except (Unavailable, *postgres.ERRORS) as error:
        if isinstance(error, Unavailable) or postgres.is_transient(error):
            raise OutcomeUnknown from error
        raise
