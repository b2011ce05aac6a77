"""What an error of asyncpg means: Postgres is unavailable, the same work can succeed later, or it is our mistake."""

import asyncpg

ERRORS = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""Every exception that a call to Postgres can raise, our own mistakes included. `is_transient` separates them.

asyncpg raises `InternalClientError` on a connection whose server has died and whose socket has not closed yet.
"""


def is_unavailable(error: BaseException) -> bool:
    """True if Postgres could not do the work: it is down, starts, stops, is full, or is too slow."""
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        return state.startswith(("08", "57P", "53")) or state in {"57014", "25P03"}
    if isinstance(error, asyncpg.InterfaceError):
        return not isinstance(error, ValueError)  # a wrong argument raises a class that is both
    return isinstance(error, OSError | TimeoutError | asyncpg.InternalClientError)


def is_transient(error: BaseException) -> bool:
    """True if the same work may succeed when it is repeated: Postgres was unavailable, or there was a race."""
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate in {"40001", "40P01", "55P03"}:
        return True
    return is_unavailable(error)
