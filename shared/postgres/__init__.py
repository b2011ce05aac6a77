"""Postgres: connections with bounds, transactions with key locks, group commit, and what an error means."""

from .connections import CONNECT_SECONDS, STATEMENT_SECONDS, Connection, Plain, Pool, connect, pool
from .failures import ERRORS, is_of_data, is_release_fault, is_too_slow, is_transient, is_unavailable
from .group_commit import GroupCommit
from .statements import delete_some, one, row_of_id
from .transactions import columns, lock_keys, transaction

__all__ = [
    "CONNECT_SECONDS",
    "ERRORS",
    "STATEMENT_SECONDS",
    "Connection",
    "GroupCommit",
    "Plain",
    "Pool",
    "columns",
    "connect",
    "delete_some",
    "is_of_data",
    "is_release_fault",
    "is_too_slow",
    "is_transient",
    "is_unavailable",
    "lock_keys",
    "one",
    "pool",
    "row_of_id",
    "transaction",
]
