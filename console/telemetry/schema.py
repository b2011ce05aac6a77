"""The tables of one SQLite file, and how a file is opened.

`lines.id` is the time of the line in steps of 2**20 ns, and behind it a running number. So the order of ids is the
order of time, in all files. `words` has the text of lines for searching, without keeping it a second time.
"""

import sqlite3
from pathlib import Path

VERSION = 1
STEP_NS = 2**20
"""The step of the ids of lines. It is a power of two."""

TABLES = """
create table spans (
    trace_id blob not null, span_id blob not null, parent_id blob, service text not null, name text not null,
    kind text not null, start_ns integer not null, end_ns integer not null, status text not null, key text,
    more text not null
);
create unique index spans_id on spans (trace_id, span_id);
create index spans_key on spans (key) where key is not null;

create table traces (
    trace_id blob primary key, rooted integer not null, name text not null, service text not null,
    start_ns integer not null, end_ns integer not null, spans integer not null, errors integer not null, key text,
    services text not null
) without rowid;
create index traces_start on traces (start_ns);

create table lines (
    id integer primary key, at_ns integer not null, service text not null, level integer not null, text text not null,
    fields text, trace_id blob, span_id blob, key text, event_id text
);
create index lines_service on lines (service);
create index lines_trouble on lines (id) where level >= 30;
create index lines_trace on lines (trace_id) where trace_id is not null;
create index lines_key on lines (key) where key is not null;
create index lines_event on lines (event_id) where event_id is not null;
create virtual table words using fts5 (body, content='', columnsize=0);

create table positions (
    file text primary key, inode text not null, "offset" integer not null, head blob not null, skipping integer not null
);
"""

PRAGMAS = """
pragma journal_mode = wal;
pragma synchronous = normal;
pragma journal_size_limit = 8000000;
pragma secure_delete = off;
pragma cache_size = -8000;
"""


class Outdated(Exception):
    """The file was written by another version of this program."""


def writable(path: Path) -> sqlite3.Connection:
    """Open a file for writing, or create it. Raises `Outdated`."""
    conn = sqlite3.connect(path, timeout=1.0, isolation_level=None, check_same_thread=False)
    try:
        conn.executescript(PRAGMAS)
        if not conn.execute("select count(*) from sqlite_master").fetchone()[0]:
            conn.executescript(f"begin; {TABLES} pragma user_version = {VERSION}; commit;")
        _check(conn, path)
    except BaseException:
        conn.close()
        raise
    return conn


def readable(path: Path) -> sqlite3.Connection:
    """Open an existing file for reading. Raises `Outdated`, and `sqlite3.OperationalError` if there is no file.

    The mode is not "read only": SQLite needs to create the write-ahead log's index.
    """
    conn = sqlite3.connect(path.absolute().as_uri() + "?mode=rw", uri=True, timeout=0.5, check_same_thread=False)
    try:
        conn.execute("pragma query_only = on")
        _check(conn, path)
    except BaseException:
        conn.close()
        raise
    return conn


def _check(conn: sqlite3.Connection, path: Path) -> None:
    (version,) = conn.execute("pragma user_version").fetchone()
    if version != VERSION:
        raise Outdated(f"{path.name} has version {version}")
