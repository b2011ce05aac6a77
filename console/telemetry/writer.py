"""Writes batches into the newest file. All of it runs in one thread.

What must stay true: the lines of a batch and the positions up to which their files were read are committed together,
so a restart neither loses a line nor stores it twice. A broken file or a full disk costs data, but raises only
`sqlite3.Error` or `OSError`, and the next call tries again.
"""

import fcntl
import sqlite3
import time
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import IO

import structlog

from console.telemetry import schema
from console.telemetry.files import Files, Limits, began_at, size_of
from console.telemetry.records import Position
from console.telemetry.rows import LineRow, SpanRow
from console.telemetry.summaries import Summaries

log = structlog.get_logger()

AGE_PARTS = 8
"""A file is continued for an eighth of the time that data is kept, so that data goes in small steps."""
ATTEMPTS = 3
"""After so many failures in a row a new file is begun."""


@dataclass
class Batch:
    spans: list[SpanRow] = field(default_factory=list)
    lines: list[LineRow] = field(default_factory=list)


class Writer:
    def __init__(self, folder: Path, limits: Limits) -> None:
        self.files = Files(folder)
        self.positions: dict[str, Position] = {}
        self.suspects: set[Path] = set()
        """Files that a reader found broken."""
        self._limits = limits
        self._summaries = Summaries()
        self._conn: sqlite3.Connection | None = None
        self._path: Path | None = None
        self._lock: IO[bytes] | None = None
        self._failures = 0

    def open(self) -> None:
        """Take the folder, and continue its newest file. Raises `BlockingIOError` while another process has it."""
        self.files.folder.mkdir(parents=True, exist_ok=True)
        if self._lock is None:
            lock = (self.files.folder / "lock").open("wb")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.close()
                raise
            self._lock = lock
        known = self.files.all()
        self._use(known[-1] if known else self.files.new())
        for path in reversed(known):
            if not self.positions:
                self.positions = _positions(path)

    def write(self, batch: Batch) -> int:
        """Store a batch in one transaction. Returns how many of its lines could not be stored.

        A span that is stored already is left out.
        """
        self._prepare()
        try:
            lost = self._insert(batch)
        except sqlite3.Error as error:
            self._leave(error)
            raise
        self._failures = 0
        return lost

    def close(self) -> None:
        if self._conn is not None:
            self._conn.close()
            self._conn = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _prepare(self) -> None:
        """Begin a new file if there is none, or the current one is full, old, gone or broken."""
        for path in list(self.suspects):
            if path == self._path:
                self._close_file()
            self.files.set_aside(path)
            self.suspects.discard(path)
        current = self._path
        if current is None or not current.exists() or self._is_full(current):
            self._close_file()
            self._use(self.files.new())
        elif self._conn is None:
            self._use(current)
        self.files.drop_old(self._path, self._limits)

    def _is_full(self, path: Path) -> bool:
        too_old = time.time() - began_at(path) >= self._limits.max_age_seconds / AGE_PARTS
        return too_old or size_of(path) >= self._limits.file_bytes

    def _use(self, path: Path) -> None:
        try:
            self._conn, self._path = schema.writable(path), path
        except schema.Outdated:
            self._path = None
            self._use(self.files.new())
        except sqlite3.Error as error:
            self._path = path
            self._leave(error)
            raise

    def _close_file(self) -> None:
        if self._conn is not None:
            self._conn.close()
        self._conn = self._path = None

    def _insert(self, batch: Batch) -> int:
        assert self._conn is not None  # noqa: S101 - `_prepare` opened it
        conn, positions = self._conn, dict(self.positions)
        conn.execute("begin immediate")
        self._summaries.update(conn, _insert_spans(conn, batch.spans))
        lost = _insert_lines(conn, batch.lines)
        positions |= {row.position.file: row.position for row in batch.lines if row.position}
        if positions != self.positions or (positions and not _positions_in(conn)):
            conn.executemany("insert or replace into positions values (?, ?, ?, ?, ?)", positions.values())
        conn.execute("commit")
        self.positions = positions
        return lost

    def _leave(self, error: sqlite3.Error) -> None:
        """Close the file after an error, which rolls back. The kind of error decides if the file is used again."""
        path, code = self._path, getattr(error, "sqlite_errorcode", 0) & 0xFF
        self._summaries.forget()
        self._close_file()
        self._failures += 1
        if code == sqlite3.SQLITE_FULL:
            self.files.drop_oldest(path)
        elif path is not None and (code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}):
            log.error("a file of the telemetry store is broken and was set aside", file=path.name, error=repr(error))
            self.files.set_aside(path)
            return
        if self._failures % ATTEMPTS:
            self._path = path  # it is opened again at the next call


def _insert_spans(conn: sqlite3.Connection, spans: list[SpanRow]) -> list[SpanRow]:
    """Returns the spans that were not stored before."""
    sql = "insert or ignore into spans values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    return [span for span in spans if conn.execute(sql, span).rowcount]


def _insert_lines(conn: sqlite3.Connection, lines: list[LineRow]) -> int:
    """Returns how many lines have an id that is used already, which needs a million lines in one millisecond."""
    sql, lost = "insert or ignore into lines values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", 0
    words = []
    for line in sorted(lines, key=itemgetter(0)):
        if conn.execute(sql, line[:10]).rowcount:
            words.append((line.id, line.words))
        else:
            lost += 1
    conn.executemany("insert into words (rowid, body) values (?, ?)", words)
    return lost


def _positions_in(conn: sqlite3.Connection) -> bool:
    return bool(conn.execute("select 1 from positions limit 1").fetchone())


def _positions(path: Path) -> dict[str, Position]:
    try:
        conn = schema.readable(path)
    except (sqlite3.Error, schema.Outdated):
        return {}
    try:
        rows = conn.execute('select file, inode, "offset", head, skipping from positions').fetchall()
    except sqlite3.Error:
        return {}
    finally:
        conn.close()
    return {row[0]: Position(row[0], row[1], row[2], row[3], bool(row[4])) for row in rows}
