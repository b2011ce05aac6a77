"""What an error of asyncpg means: Postgres is unavailable, the same work can succeed later, or it is our mistake."""

import asyncpg

ERRORS = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""Every exception that a call to Postgres can raise, mistakes of ours included. `is_transient` tells them apart.

asyncpg raises `InternalClientError` on a connection whose server has died and whose socket has not closed yet.
"""


def is_unavailable(error: BaseException) -> bool:
    """True if Postgres did not answer the question: it is away, starts, stops, is full, or is too slow."""
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        return state.startswith(("08", "57P", "53")) or state in {"57014", "25P03"}
    if isinstance(error, asyncpg.InterfaceError):
        return not isinstance(error, ValueError)  # a wrong argument raises a class that is both
    return isinstance(error, OSError | TimeoutError | asyncpg.InternalClientError)


def is_transient(error: BaseException) -> bool:
    """True if the same work may succeed when it is done again: Postgres was unavailable, or a deadlock or race."""
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate in {"40001", "40P01", "55P03"}:
        return True
    return is_unavailable(error)
