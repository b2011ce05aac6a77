"""The journal of actions: each has an author, a time and a reason.

What must stay true: an action is stored before it is done. So an action whose outcome is missing was begun, and the
console ended before it knew the outcome. Rows are only added, and deleted after 400 days.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass

from console.store import KEPT_SECONDS, Store
from shared.process.loop import Beat, repeat

_LONGEST = 500
_FORGET_SECONDS, _LOOK_SECONDS = 3600.0, 10.0

_LAST = """
select a.*, o.outcome from actions a left join outcomes o on o.action_id = a.id
 where a.id < ? order by a.id desc limit ?
"""


@dataclass(frozen=True, slots=True)
class Action:
    """An action that a person requests. `subject` is the object of the action, for example a key."""

    who: str
    address: str
    what: str
    service: str = ""
    subject: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """An action with its time and its outcome, which is None if it is not known."""

    id: int
    at: float
    action: Action
    outcome: str | None


class Journal:
    def __init__(self, store: Store, clock: Callable[[], float] = time.time) -> None:
        self._store, self._clock = store, clock

    async def begin(self, action: Action) -> int:
        """Store an action that is done next. Returns its number."""
        values = [self._clock(), *(_short(getattr(action, name)) for name in _COLUMNS)]

        def add(conn: sqlite3.Connection) -> int:
            columns, marks = ", ".join(["at", *_COLUMNS]), ", ".join("?" * len(values))
            return conn.execute(f"insert into actions ({columns}) values ({marks})", values).lastrowid or 0

        return await self._store.run(add)

    async def end(self, action_id: int, outcome: str) -> None:
        """Store the outcome of an action."""
        row = (action_id, self._clock(), _short(outcome))
        await self._store.run(lambda conn: conn.execute("insert into outcomes values (?, ?, ?)", row))

    async def forget(self) -> None:
        """Delete what is older than `KEPT_SECONDS`: rows have names of administrators."""
        before = self._clock() - KEPT_SECONDS

        def delete(conn: sqlite3.Connection) -> None:
            conn.execute("delete from outcomes where at < ?", (before,))
            conn.execute("delete from actions where at < ? and id not in (select action_id from outcomes)", (before,))
            conn.execute("delete from drills where ended_at < ?", (before,))

        await self._store.run(delete)

    async def run(self, stop: asyncio.Event, beat: Beat = lambda: None) -> None:
        """Forget once an hour, until `stop` is set."""
        due_at = 0.0

        async def turn() -> float:
            nonlocal due_at
            if time.monotonic() >= due_at:
                await self.forget()
                due_at = time.monotonic() + _FORGET_SECONDS
            return _LOOK_SECONDS

        await repeat("forgetting of old actions", turn, stop, beat, trouble=(sqlite3.Error,))

    async def last(self, limit: int = 200, before_id: int | None = None) -> list[Entry]:
        """The last actions, the newest first. With `before_id`, those with a smaller id."""
        bound = 2**62 if before_id is None else before_id
        rows = await self._store.run(lambda conn: conn.execute(_LAST, (bound, limit)).fetchall())
        return [Entry(r["id"], r["at"], Action(*(r[name] for name in _COLUMNS)), r["outcome"]) for r in rows]


_COLUMNS = ("who", "address", "what", "service", "subject", "reason")


def _short(text: str) -> str:
    """Text that SQLite can store: a lone surrogate would fail."""
    return text[:_LONGEST].encode(errors="replace").decode()
