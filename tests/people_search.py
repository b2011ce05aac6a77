"""Finds the words of a person in everything that a database keeps."""

from collections.abc import Iterable
from typing import Any

_TABLES = r"""
select format('%I.%I', nspname, relname) as name,
       nspname || '.' || regexp_replace(relname, '_(\d{8}|default)$', '') as shown
  from pg_class join pg_namespace n on n.oid = relnamespace
 where relkind = 'r' and nspname !~ '^pg_' and nspname <> 'information_schema'
"""


async def tables_with(conn: Any, words: Iterable[str]) -> set[str]:
    """The tables that have a row with one of these words, also as bytes. A day of a table counts as the table."""
    texts = [text for word in words for text in (word, word.encode().hex())]
    found = set()
    for name, shown in await conn.fetch(_TABLES):
        sql = f"select exists (select from {name} t, unnest($1::text[]) w where position(w in t::text) > 0)"
        if await conn.fetchval(sql, texts):
            found.add(shown)
    return found
