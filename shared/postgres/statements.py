"""Statements of a shape that several tables need."""

import re
from typing import Any

import asyncpg

from .connections import Connection

_ID = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)


async def one(conn: Connection, sql: str, *arguments: object) -> asyncpg.Record:
    """The row of a statement that always returns one, such as an aggregate."""
    row = await conn.fetchrow(sql, *arguments)
    if row is None:
        raise RuntimeError(f"no row: {sql:.80}")
    return row


async def row_of_id(conn: Connection, table: str, column: str, text: str) -> dict[str, Any] | None:
    """The whole row whose id has this text. None if there is no such row, or the text is no id."""
    if not _ID.fullmatch(text):
        return None
    row = await conn.fetchrow(f"select * from {table} where {column} = $1", int(text))
    return None if row is None else dict(row)


async def delete_some(conn: Connection, table: str, condition: str) -> int:
    """Delete rows that meet a condition, a thousand at most. Returns how many."""
    done: str = await conn.execute(
        f"delete from {table} where ctid = any(array(select ctid from {table} where {condition} limit 1000))"
    )
    return int(done.rsplit(maxsplit=1)[-1])
