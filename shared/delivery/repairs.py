"""Repairs: parked events are handled again or dropped, and the outbox is published again, each for a stated reason.

What must stay true: an event is resolved under the lock of its key, in the transaction that has its effects. So a
repair that is killed continues where it stopped, and a repair that is repeated changes nothing. Events of a key are
handled in order: an event waits until those before it are resolved. The table `repairs` keeps who did what, and why.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal, NamedTuple

import asyncpg
import structlog

from .. import postgres, tracing
from ..postgres import Connection, Pool
from ..process.loop import Beat, repeat
from . import inbox, parking, spans
from .events import Undecodable
from .handlers import HandlerFailed
from .handling import Handling

log = structlog.get_logger()

_IDLE_SECONDS = 2.0
_LEASE_SECONDS = 10.0
_REBASE_SECONDS = 600.0

Action = Literal["replay", "drop", "republish", "rebase"]

SELECTED = """
consumer = $1 and resolved_at is null and ($2::bigint[] is null or id = any($2))
and ($3::text is null or key = $3) and ($4::text is null or type = $4)
and ($5::text is null or position($5 in error) > 0) and ($6::timestamptz is null or parked_at < $6)
"""
"""The condition of a `Selection`. `$1` is the consumer, `$2` to `$6` are the fields."""

# Events that wait behind a chosen event of their key are replayed with it. Dropping the first leaves them as they are.
_CHOOSE = f"""
with chosen as (select id, aggregate_type, key, blocks from parked where {SELECTED})
select id from chosen
 union
select p.id from parked p join chosen c using (aggregate_type, key)
 where $7 and p.consumer = $1 and p.resolved_at is null and p.blocks and c.blocks and p.id > c.id and p.attempts = 0
 order by id
"""
_ADD = """
insert into repairs (action, requested_by, reason, request, per_second) values ($1, $2, $3, $4, $5) returning id
"""
_ADD_ITEMS = "insert into repair_items (repair_id, parked_id) select $1, unnest($2::bigint[])"

_TAKE = """
update repairs set lease_until = now() + $2 * interval '1 s'
 where id = (select id from repairs where ended_at is null and action = any($1) and lease_until < now()
              order by id limit 1 for update skip locked)
returning id, action, per_second, request
"""
_NEXT = """
with mine as (update repairs set lease_until = now() + $2 * interval '1 s' where id = $1)
select parked_id from repair_items where repair_id = $1 and outcome is null order by parked_id limit $3
"""
_DONE = """
update repair_items set outcome = $3, detail = $4, done_at = now()
 where repair_id = $1 and parked_id = $2 and outcome is null
"""
# While a repair runs, later events of its keys are parked behind those that are not handled yet. They follow.
_FOLLOW = """
insert into repair_items (repair_id, parked_id)
select distinct $1::bigint, p.id from parked p
  join parked head using (consumer, aggregate_type, key)
  join repair_items i on i.repair_id = $1 and i.parked_id = head.id and i.outcome = 'handled'
 where p.resolved_at is null and p.blocks and p.attempts = 0 and p.id > head.id
on conflict do nothing
"""
_END = "update repairs set ended_at = now(), outcome = $2 where id = $1 and ended_at is null"
_RETURN = "update repairs set lease_until = '-infinity' where id = $1"
_PROGRESS = """
select r.*, (select coalesce(jsonb_object_agg(outcome, n), '{}') from (
               select coalesce(outcome, 'waiting') as outcome, count(*) as n from repair_items
                where repair_id = r.id group by 1) c) as counts
  from repairs r where ($1::bigint is null or r.id = $1) order by r.id desc limit 50
"""

_LOCK = "select * from parked where id = $1 for update"
_BEFORE = """
select min(id) from parked where consumer = $1 and aggregate_type = $2 and key = $3 and id < $4 and blocks
   and resolved_at is null
"""
_RESOLVE = "update parked set resolved_at = now(), resolution = $2 where id = $1"
_FAILED = "update parked set attempts = attempts + 1, error = $2 where id = $1 and resolved_at is null"

# Cursors move back to the last row before a time. The new epoch makes each relay read its cursors again.
_REWIND = """
update outbox_lanes l
   set xid = coalesce(o.xid, '0'), id = coalesce(o.id, 0), owner = null, epoch = l.epoch + 1, lease_until = '-infinity'
  from outbox_lanes e left join lateral
       (select lane, xid, id from outbox where lane = e.lane and occurred_at < $1 order by xid desc, id desc limit 1) o
       on true
 where e.lane = l.lane and (l.xid, l.id) > (coalesce(o.xid, '0'), coalesce(o.id, 0))
"""


@dataclass(frozen=True, slots=True)
class Selection:
    """Parked events that are not resolved. All conditions that are not None must hold; `error` is a part of a text."""

    ids: Sequence[int] | None = None
    key: str | None = None
    type: str | None = None
    error: str | None = None
    parked_before: datetime | None = None

    @property
    def values(self) -> tuple[object, ...]:
        """The fields, as the parameters of `SELECTED`."""
        return self.ids, self.key, self.type, self.error, self.parked_before


@dataclass(frozen=True, slots=True)
class Author:
    """Who asks for a repair, and why."""

    name: str
    reason: str


class Outcome(NamedTuple):
    """What became of one event. `failed` and `behind` leave it parked."""

    name: Literal["handled", "dropped", "duplicate", "ignored", "resolved before", "failed", "behind"]
    detail: str = ""


async def choose(conn: Connection, consumer: str, wanted: Selection, action: Action) -> list[int]:
    """The ids of the parked events that a repair would treat, in order."""
    return [row["id"] for row in await conn.fetch(_CHOOSE, consumer, *wanted.values, action == "replay")]


async def request(
    conn: Connection,
    action: Action,
    author: Author,
    what: dict[str, Any],
    ids: Sequence[int] = (),
    per_second: int = 50,
) -> int:
    """Store a repair, in the caller's transaction; a process with `Repairs` does it. Returns its id.

    `ids` are the parked events, which stay the same whatever is parked later. At most `per_second` are done a second.
    """
    repair_id: int = await conn.fetchval(_ADD, action, author.name, author.reason, what, per_second)
    await conn.execute(_ADD_ITEMS, repair_id, ids)
    return repair_id


async def resume_restored(
    conn: Connection, author: Author, restored_at: datetime, since: datetime, seconds: float = _REBASE_SECONDS
) -> str:
    """Rebase the outbox, and publish again what was written since a time, in the caller's transaction. Returns both.

    It is for the owner of the tables, while no service runs. Two repairs would not do: a relay could publish a newer
    event of a key between them.
    """
    rows = await conn.fetchval("select rebase_outbox($1)", restored_at, timeout=seconds)
    lanes = (await conn.execute(_REWIND, since, timeout=seconds)).split()[-1]
    outcome = f"{rows} rows were not published, {lanes} lanes moved back"
    what = {"since": restored_at.isoformat(), "republished_since": since.isoformat()}
    await conn.execute(_END, await request(conn, "rebase", author, what), outcome)
    return outcome


async def progress(conn: Connection, repair_id: int | None = None) -> list[dict[str, Any]]:
    """One repair, or the last fifty: who asked for it and why, and how many of its events had which outcome."""
    return [dict(row) for row in await conn.fetch(_PROGRESS, repair_id)]


async def details(conn: Connection, repair_id: int) -> list[dict[str, Any]]:
    """The events of a repair that stayed parked, a hundred at most, with the reason."""
    rows = await conn.fetch(
        "select parked_id, outcome, detail from repair_items where repair_id = $1 and outcome in ('failed', 'behind') "
        "order by parked_id limit 100",
        repair_id,
    )
    return [dict(row) for row in rows]


class Repairs:
    """Does the repairs that are stored in the database, one at a time, while `run` runs.

    With `handling`, it replays and drops parked events; without, it republishes and rebases the outbox.
    """

    def __init__(
        self, pool: Pool, handling: Handling | None = None, committed: Callable[[], None] = lambda: None
    ) -> None:
        self._pool, self._handling, self._committed = pool, handling, committed
        self._actions = ["republish", "rebase"] if handling is None else ["replay", "drop"]

    async def run(self, stop: asyncio.Event, beat: Beat = lambda: None) -> None:
        """Look for repairs every two seconds, and do them, until `stop` is set."""

        async def turn() -> float:
            return 0.0 if await self.run_once(stop, beat) else _IDLE_SECONDS

        await repeat("repair", turn, stop, beat, trouble=postgres.ERRORS)

    async def run_once(self, stop: asyncio.Event, beat: Beat = lambda: None) -> bool:
        """Do the oldest repair that is not done, to its end or until `stop` is set. Returns False if there is none."""
        seconds = _LEASE_SECONDS if self._handling else _REBASE_SECONDS + _LEASE_SECONDS
        async with self._pool.acquire(timeout=postgres.CONNECT_SECONDS) as conn:
            taken = await conn.fetchrow(_TAKE, self._actions, seconds)
        if taken is None:
            return False
        log.warning("repair started", repair=taken["id"], action=taken["action"])
        outcome: str | None
        try:
            if self._handling is None:
                outcome = await _on_outbox(self._pool, taken, beat)
                self._committed()
            else:
                outcome = await self._events(taken, stop, beat)
        except postgres.ERRORS as error:
            if postgres.is_transient(error):
                await self._execute(_RETURN, taken["id"])
                raise
            log.exception("a repair cannot be done", repair=taken["id"])
            outcome = f"failed: {parking.storable(repr(error)[:500])}"
        except BaseException:
            await self._execute(_RETURN, taken["id"])
            raise
        await self._execute(*((_RETURN, taken["id"]) if outcome is None else (_END, taken["id"], outcome)))
        log.warning("repair stopped" if outcome is None else "repair ended", repair=taken["id"], outcome=outcome)
        return True

    async def _events(self, repair: asyncpg.Record, stop: asyncio.Event, beat: Beat) -> str | None:
        """Treat the events that are left. Returns the summary, or None if `stop` was set before the end."""
        done: Counter[str] = Counter()
        while not stop.is_set():
            started = time.monotonic()
            async with self._pool.acquire(timeout=postgres.CONNECT_SECONDS) as conn:
                rows = await conn.fetch(_NEXT, repair["id"], _LEASE_SECONDS, max(1, repair["per_second"] // 5))
            if not rows and not await self._follow(repair):
                return await self._summary(repair["id"])
            for row in rows:
                beat()
                outcome = await self._one(repair["id"], row["parked_id"], repair["action"])
                done[outcome.name] += 1
            log.info("repair under way", repair=repair["id"], **done)
            await asyncio.sleep(max(0.0, started + len(rows) / repair["per_second"] - time.monotonic()))
        return None

    async def _follow(self, repair: asyncpg.Record) -> bool:
        if repair["action"] != "replay":
            return False
        async with self._pool.acquire(timeout=postgres.CONNECT_SECONDS) as conn:
            return await conn.execute(_FOLLOW, repair["id"]) != "INSERT 0 0"

    async def _summary(self, repair_id: int) -> str:
        async with self._pool.acquire(timeout=postgres.CONNECT_SECONDS) as conn:
            [found] = await progress(conn, repair_id)
        return ", ".join(f"{n} {outcome}" for outcome, n in sorted(found["counts"].items())) or "nothing to do"

    async def _one(self, repair_id: int, parked_id: int, action: Action) -> Outcome:
        """Treat one event, and store its outcome, in one transaction."""
        handling = self._handling
        if handling is None:
            raise RuntimeError("this process has no handlers")
        key = await self._key(parked_id)
        try:
            with tracing.carrying({}):
                async with postgres.transaction(self._pool, [key, *handling.also_lock]) as conn:
                    outcome = await resolve(conn, handling, parked_id, action)
                    await conn.execute(_DONE, repair_id, parked_id, *outcome)
        except HandlerFailed as failure:
            return await self._note_failure(repair_id, parked_id, failure.error)
        except postgres.ERRORS as error:
            if not postgres.is_of_data(error):
                raise
            return await self._note_failure(repair_id, parked_id, error)
        handling.committed()
        return outcome

    async def _note_failure(self, repair_id: int, parked_id: int, error: Exception) -> Outcome:
        text = parking.storable(repr(error)[:2000])
        async with postgres.transaction(self._pool) as conn:
            await conn.execute(_FAILED, parked_id, text)
            await conn.execute(_DONE, repair_id, parked_id, "failed", text)
        return Outcome("failed", text)

    async def _key(self, parked_id: int) -> str:
        async with self._pool.acquire(timeout=postgres.CONNECT_SECONDS) as conn:
            return await conn.fetchval("select key from parked where id = $1", parked_id) or ""

    async def _execute(self, sql: str, *arguments: object) -> None:
        async with self._pool.acquire(timeout=postgres.CONNECT_SECONDS) as conn:
            await conn.execute(sql, *arguments)


async def resolve(conn: Connection, handling: Handling, parked_id: int, action: Action = "replay") -> Outcome:
    """Handle or drop one parked event, in the caller's transaction, which holds the lock of its key.

    Raises `HandlerFailed`; then the transaction is over. An event that failed, or waits behind another, stays parked.
    """
    row = await conn.fetchrow(_LOCK, parked_id)
    if row is None or row["resolved_at"] is not None:
        return Outcome("resolved before")
    outcome = Outcome("dropped") if action == "drop" else await _replay(conn, handling, row)
    if outcome.name not in {"failed", "behind"}:
        await conn.execute(_RESOLVE, parked_id, outcome.name)
    return outcome


async def _replay(conn: Connection, handling: Handling, row: asyncpg.Record) -> Outcome:
    if row["blocks"]:
        where = [row[name] for name in ("consumer", "aggregate_type", "key", "id")]
        if (before := await conn.fetchval(_BEFORE, *where)) is not None:
            return Outcome("behind", f"waits behind the parked event {before}")
    # Without an id in the inbox, an event that is too old for the inbox may have been handled before.
    judged_at = row["parked_at"] if row["event_id"] else None
    try:
        received = handling.understand(parking.record_of(row), judged_at)
    except Undecodable as error:
        return Outcome("failed", str(error))
    if received is None:
        return Outcome("ignored")
    if row["event_id"] is None and not handling.is_state(received):
        added = await inbox.add(conn, handling.consumer, [received.event_id], [])
        if not added.fresh:
            return Outcome("duplicate")
    span = spans.begin(received, handling.consumer, is_state=handling.is_state(received))
    if span:
        received = replace(received, traceparent=span.traceparent)
    await handling.handlers.handle(conn, [received])
    if span:
        tracing.end_with_work(span)
    return Outcome("handled")


async def _on_outbox(pool: Pool, repair: asyncpg.Record, beat: Beat) -> str:
    since = datetime.fromisoformat(repair["request"]["since"])
    if repair["action"] == "republish":
        async with postgres.transaction(pool) as conn:
            return f"{(await conn.execute(_REWIND, since)).split()[-1]} lanes moved back"
    return await _see_through(_rebase(pool, since), beat)


async def _rebase(pool: Pool, restored_at: datetime) -> str:
    async with postgres.transaction(pool) as conn:
        await conn.execute(f"set local statement_timeout = '{_REBASE_SECONDS:.0f}s'; set local lock_timeout = '10s'")
        moved = await conn.fetchval("select rebase_outbox($1)", restored_at, timeout=_REBASE_SECONDS)
    return f"{moved} rows are published next"


async def _see_through(work: Awaitable[str], beat: Beat) -> str:
    """Wait for work that takes long, and show meanwhile that the loop lives."""
    task = asyncio.ensure_future(work)
    while not task.done():
        beat()
        await asyncio.wait([task], timeout=1.0)
    return task.result()
