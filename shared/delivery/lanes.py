"""Lanes: the parts of an outbox. A lease names the relay that may publish a lane, a cursor the last published row.

What must stay true: a cursor moves only forward, only past rows that Kafka has acknowledged, and only by the relay that
holds the lane in its current epoch. Two relays with the same lane can repeat rows, but cannot skip or reorder them.
Leases follow Gray and Cheriton (1989); the epoch is a fencing token (Kleppmann, 2016). All times are the database's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from math import ceil
from typing import TypeAlias

import asyncpg

from .. import postgres
from ..postgres import Connection, Plain

Row: TypeAlias = asyncpg.Record
"""An outbox row: topic, hash, key, value, type, head, lane, xid, id, and the bytes of its lane's rows up to this one.

The relay reads it by position: a hot loop.
"""

Positions: TypeAlias = dict[int, tuple[int, int]]
"""For each lane, the (xid, id) of the last row that is done."""

# The cursor is the pair (xid, id). Ids are assigned before commit, so `id > last` would skip rows that commit late.
# A row is read when its xid is below the oldest running xid, because then no row can appear before it any more.
# Keep `xid` raw: with an alias `xid::text` ORDER BY would sort text.
# The sum costs little: Postgres knows the length of a large value without reading it. `since` is part of the text, so
# that the plan has only the partitions that may have unpublished rows: with a parameter, Postgres locks all of them.
_READ = """
select o.topic, o.hash, o.key, o.value, o.type, o.head, c.lane, o.xid, o.id, o.bytes
  from unnest($1::smallint[], $2::xid8[], $3::bigint[]) c(lane, xid, id)
 cross join lateral (
   select *, sum(octet_length(value)) over (order by xid, id rows unbounded preceding) as bytes
     from (select topic, hash, key, value, type, head, xid, id from outbox
            where lane = c.lane and (xid, id) > (c.xid, c.id) and xid < pg_snapshot_xmin(pg_current_snapshot())
              and occurred_at >= '{since} 00:00+00'
            order by xid, id limit $4) found) o
 where o.bytes - octet_length(o.value) < $5
"""

# Records that the rows up to here are in Kafka. Owner and epoch are the guard: if a lane is not returned, it belongs to
# another relay, which starts at the cursor in the table. Because of `<`, a late repetition moves no cursor back.
_ADVANCE = """
update outbox_lanes l set xid = c.xid, id = c.id
  from unnest($2::smallint[], $3::xid8[], $4::bigint[], $5::bigint[]) c(lane, xid, id, epoch)
 where l.lane = c.lane and l.owner = $1 and l.epoch = c.epoch and (l.xid, l.id) < (c.xid, c.id)
returning l.lane
"""

# Records that this relay is alive, deletes dead relays, and counts the living ones, this one included.
_SEEN = """
with gone as (delete from outbox_relays where seen_until < now() - interval '1 minute'),
     me as (insert into outbox_relays values ($1, now() + $2 * interval '1 s')
            on conflict (owner) do update set seen_until = excluded.seen_until)
select (select count(*) from outbox_lanes) as lanes,
       1 + count(*) filter (where owner <> $1 and seen_until > now()) as relays,
       (select count(*) from outbox_lanes l, pg_control_system() c
         where l.system_identifier <> c.system_identifier) as foreign_lanes
  from outbox_relays
"""

# Only the time: a relay that is busy must not take or return lanes.
_PROLONG = """
with me as (update outbox_relays set seen_until = now() + $2 * interval '1 s' where owner = $1)
update outbox_lanes set lease_until = now() + $2 * interval '1 s' where owner = $1
"""

_RENEW = """
update outbox_lanes set lease_until = now() + $2 * interval '1 s' where owner = $1 returning lane, xid, id, epoch
"""

# Takes lanes whose lease is over. The former owner may only be slow; in the higher epoch it can move no cursor.
_TAKE = """
update outbox_lanes set owner = $1, epoch = epoch + 1, lease_until = now() + $2 * interval '1 s'
 where lane in (select lane from outbox_lanes where lease_until < now() and owner is distinct from $1
                 order by lane limit $3 for update skip locked)
returning lane, xid, id, epoch
"""

_GIVE_BACK = (
    "update outbox_lanes set owner = null, lease_until = '-infinity' where owner = $1 and lane = any($2::smallint[])"
)

# A row has the time at which its transaction began. So a row that is written later may be as old as the oldest
# transaction that is open now. The day before is for clocks that are set back.
_FIRST_DAY = """
select least(first_unpublished_day(), (first_open_transaction() at time zone 'UTC')::date,
             (now() at time zone 'UTC')::date) - 1 as day
"""


class RestoredElsewhere(Exception):
    """The database was restored into another cluster. Transaction ids start again there, so cursors have no meaning."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a lane is published, and the epoch in which this relay holds it."""

    xid: int
    id: int
    epoch: int


class Lanes:
    """The lanes that one relay holds. `held` is what the database returned last."""

    def __init__(self, owner: str, lease_seconds: float) -> None:
        self.owner, self.lease_seconds = owner, lease_seconds
        self.held: dict[int, Cursor] = {}
        self.total = 0
        self._moved: set[int] = set()

    async def renew(self, conn: Plain) -> None:
        """Prolong leases, take free lanes up to a fair share, return the surplus. Raises `RestoredElsewhere`."""
        await self.advance(conn)
        async with conn.transaction():
            counted = await postgres.one(conn, _SEEN, self.owner, self.lease_seconds)
            if counted["foreign_lanes"]:
                raise RestoredElsewhere(
                    "outbox_lanes comes from another Postgres cluster; see docs/operations.md: A restored database"
                )
            share = ceil(counted["lanes"] / counted["relays"])
            mine = {r["lane"]: r for r in await conn.fetch(_RENEW, self.owner, self.lease_seconds)}
            if len(mine) < share:
                taken = await conn.fetch(_TAKE, self.owner, self.lease_seconds, share - len(mine))
                mine |= {r["lane"]: r for r in taken}
            surplus = sorted(mine)[share:]
            if surplus:
                await conn.execute(_GIVE_BACK, self.owner, surplus)
        self.total = counted["lanes"]
        self.held = {n: Cursor(r["xid"], r["id"], r["epoch"]) for n, r in mine.items() if n not in surplus}

    async def prolong(self, conn: Plain) -> None:
        """Prolong the leases, and change nothing else. `conn` may be another connection than that of `renew`."""
        await conn.execute(_PROLONG, self.owner, self.lease_seconds)

    @property
    def positions(self) -> Positions:
        """The cursors of the held lanes."""
        return {lane: (cursor.xid, cursor.id) for lane, cursor in self.held.items()}

    def note(self, ends: Positions) -> None:
        """Move the cursors in memory. `advance` moves them in the database."""
        for lane, (xid, id_) in ends.items():
            self.held[lane] = Cursor(xid, id_, self.held[lane].epoch)
        self._moved |= ends.keys()

    async def advance(self, conn: Plain, ends: Positions | None = None) -> None:
        """Move the cursors in the database to `ends` and to what was noted before. Lanes that were lost are dropped."""
        self.note(ends or {})
        moved, self._moved = {lane: self.held[lane] for lane in self._moved}, set()
        if not moved:
            return
        xids, ids, epochs = zip(*((c.xid, c.id, c.epoch) for c in moved.values()), strict=True)
        kept = {row["lane"] for row in await conn.fetch(_ADVANCE, self.owner, list(moved), xids, ids, epochs)}
        for lane in moved.keys() - kept:
            del self.held[lane]

    async def give_back(self, conn: Plain) -> None:
        """Return the lanes, so that other relays need not wait for the end of the leases."""
        await self.advance(conn)
        await conn.execute(_GIVE_BACK, self.owner, list(self.held))
        await conn.execute("delete from outbox_relays where owner = $1", self.owner)
        self.held = {}


def ends_of(rows: Sequence[Row]) -> Positions:
    """The position of each lane's last row. Rows must be in the order of `read`."""
    return {row[6]: (row[7], row[8]) for row in rows}


@dataclass(frozen=True, slots=True)
class Limit:
    """How much one turn reads of each lane: at most so many rows, and so many bytes of values, but at least one row."""

    rows: int
    bytes: int

    def is_reached(self, rows: Sequence[Row]) -> bool:
        """True if a lane may have more rows than these, which were read with this limit."""
        if len(rows) >= self.rows:
            return True
        return any(row[9] >= self.bytes for row in {row[6]: row for row in rows}.values())


async def read(conn: Plain, after: Positions, limit: Limit, since: date = date.min) -> list[Row]:
    """Read rows of each lane after its position, in the order of each lane. Opens no transaction.

    `since` must be a result of `first_day`.
    """
    xids, ids = zip(*after.values(), strict=True)
    return await conn.fetch(_READ.format(since=since), list(after), xids, ids, limit.rows, limit.bytes)


async def first_day(conn: Plain) -> date:
    """A day such that no row before it is unpublished, and none will be until cursors are moved back.

    Its cost grows with the number of partitions: 110 ms for a year of days.
    """
    day: date = (await postgres.one(conn, _FIRST_DAY))["day"]
    return day


async def held_back_by(conn: Connection) -> Row | None:
    """The oldest write transaction of the cluster, in any database: pid, usename, datname, state, query, seconds.

    Later rows cannot be read before it ends. The query of another role is not shown: it may have a secret.
    """
    return await conn.fetchrow("select * from held_back_by()")
