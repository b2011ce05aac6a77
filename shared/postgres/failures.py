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
        # 25006: read-only, after a failover or with a full disk
        return state.startswith(("08", "57P", "53")) or state in {"57014", "25P03", "25006"}
    if isinstance(error, asyncpg.InterfaceError):
        return not isinstance(error, ValueError)  # a wrong argument raises a class that is both
    return isinstance(error, OSError | TimeoutError | asyncpg.InternalClientError)


def is_too_slow(error: BaseException) -> bool:
    """True if less work in one statement may succeed."""
    return isinstance(error, TimeoutError | asyncpg.QueryCanceledError)


def is_release_fault(error: BaseException) -> bool:
    """True if a column, a table or a grant is missing: the schema does not fit this release. No data is at fault."""
    return isinstance(error, asyncpg.PostgresError) and (error.sqlstate or "").startswith(("42", "28"))


def is_of_data(error: BaseException) -> bool:
    """True if Postgres refuses a value, or a constraint does, or asyncpg cannot encode it."""
    if isinstance(error, asyncpg.DataError | ValueError):
        return True
    return isinstance(error, asyncpg.PostgresError) and (error.sqlstate or "").startswith(("22", "23"))


def is_transient(error: BaseException) -> bool:
    """True if the same work may succeed when it is repeated: Postgres was unavailable, or there was a race."""
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate in {"40001", "40P01", "55P03"}:
        return True
    if isinstance(error, asyncpg.InvalidCachedStatementError):  # a migration ran; asyncpg prepares it again
        return True
    return is_unavailable(error)
