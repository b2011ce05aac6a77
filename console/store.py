"""The console's own SQLite file: its sessions, and who did what. One thread uses it.

What must stay true: it needs no other system, because the console must work while Postgres is down. Only the owner of
the process can read the file.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

KEPT_SECONDS = 400 * 86_400
"""So long it is known who did what."""
_YOUNG = f"cast(strftime('%s', 'now') as real) - {KEPT_SECONDS}"

# Nobody can change what was done, or delete it before its time: not by mistake, and not by a statement of the console.
_SCHEMA = """
create table if not exists sessions (
  id blob primary key, user_id text not null, username text not null, ends_at real not null, tokens blob not null
);
create table if not exists actions (
  id integer primary key, at real not null, who text not null, address text not null, what text not null,
  service text not null, subject text not null, reason text not null
);
create table if not exists outcomes (
  action_id integer primary key references actions, at real not null, outcome text not null
);
create table if not exists drills (
  id integer primary key, program text not null, kind text not null, ended_at real, result blob not null
);
drop trigger if exists actions_remain;
drop trigger if exists outcomes_remain;
create trigger if not exists actions_stay before update on actions begin select raise(abort, 'append only'); end;
create trigger actions_remain before delete on actions when old.at > {young}
  begin select raise(abort, 'append only'); end;
create trigger if not exists outcomes_stay before update on outcomes begin select raise(abort, 'append only'); end;
create trigger outcomes_remain before delete on outcomes when old.at > {young}
  begin select raise(abort, 'append only'); end;
"""


class Store:
    """Runs functions on the connection, one after the other, each in a transaction."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "console.sqlite"
        file.touch(mode=0o600)
        self._thread = ThreadPoolExecutor(1, "console store")
        self._conn = self._thread.submit(_opened, file).result()

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work(connection)` in the thread and commit. Raises `sqlite3.Error`; then nothing was changed."""

        def transaction() -> T:
            with self._conn:
                return work(self._conn)

        return await asyncio.get_running_loop().run_in_executor(self._thread, transaction)

    def close(self) -> None:
        self._thread.submit(self._conn.close).result()
        self._thread.shutdown()


def _opened(file: Path) -> sqlite3.Connection:
    conn = sqlite3.connect(file, timeout=1.0)
    conn.row_factory = sqlite3.Row
    conn.execute("pragma journal_mode = wal")
    conn.executescript(_SCHEMA.format(young=_YOUNG))
    return conn
