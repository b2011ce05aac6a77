"""Lanes: which relay may publish which part of the outbox (by lease), and how far it has come (the cursor).

What must stay true: a cursor only moves forward, only past rows that Kafka has acknowledged, and only in the hands of
the relay whose epoch it is. Two relays with one lane can repeat rows, but can neither skip nor reorder them. Leases
follow Gray and Cheriton (1989), the epoch is a fencing token (Kleppmann, 2016); all times are the database's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import TypeAlias

import asyncpg

from shared.postgres.connections import Plain

Row: TypeAlias = asyncpg.Record
"""One outbox row: topic, hash, key, value, type, head, lane, xid, id."""

Positions: TypeAlias = dict[int, tuple[int, int]]
"""Lane to the (xid, id) of the last row that is done."""

# The cursor is the pair (xid, id): ids alone are handed out before commit, so `id > last` skips rows that commit late.
# A row is read once its xid is below the oldest xid still running, because from then on nothing can appear before it.
# `xid` stays raw: an alias cast to text would make ORDER BY sort text.
_READ = """
select o.topic, o.hash, o.key, o.value, o.type, o.head, c.lane, o.xid, o.id
  from unnest($1::smallint[], $2::xid8[], $3::bigint[]) c(lane, xid, id)
 cross join lateral (
   select topic, hash, key, value, type, head, xid, id from outbox
    where lane = c.lane and (xid, id) > (c.xid, c.id) and xid < pg_snapshot_xmin(pg_current_snapshot())
    order by xid, id limit $4) o
"""

# Says that rows up to here are in Kafka. Guarded by owner and epoch: a lane that is not returned was taken by another
# relay, which starts from the cursor that it found. `<` keeps a late repetition from moving it back.
_ADVANCE = """
update outbox_lanes l set xid = c.xid, id = c.id
  from unnest($2::smallint[], $3::xid8[], $4::bigint[], $5::bigint[]) c(lane, xid, id, epoch)
 where l.lane = c.lane and l.owner = $1 and l.epoch = c.epoch and (l.xid, l.id) < (c.xid, c.id)
returning l.lane
"""

# Says that this relay lives, forgets those that do not, and counts the living, itself included.
_SEEN = """
with gone as (delete from outbox_relays where seen_until < now() - interval '1 minute'),
     me as (insert into outbox_relays values ($1, now() + $2 * interval '1 s')
            on conflict (owner) do update set seen_until = excluded.seen_until)
select (select count(*) from outbox_lanes), 1 + count(*) filter (where owner <> $1 and seen_until > now()),
       (select count(*) from outbox_lanes l, pg_control_system() c where l.system_identifier <> c.system_identifier)
  from outbox_relays
"""

_RENEW = """
update outbox_lanes set lease_until = now() + $2 * interval '1 s' where owner = $1 returning lane, xid, id, epoch
"""

# Takes lanes that nobody holds. The epoch goes up, which fences off a former owner that is only slow.
_TAKE = """
update outbox_lanes set owner = $1, epoch = epoch + 1, lease_until = now() + $2 * interval '1 s'
 where lane in (select lane from outbox_lanes where lease_until < now() and owner is distinct from $1
                 order by lane limit $3 for update skip locked)
returning lane, xid, id, epoch
"""

_GIVE_BACK = (
    "update outbox_lanes set owner = null, lease_until = '-infinity' where owner = $1 and lane = any($2::smallint[])"
)

_HELD_BACK = """
select pid, usename, state, extract(epoch from now() - xact_start)::float8 seconds from pg_stat_activity
 where backend_xid is not null and pid <> pg_backend_pid() order by age(backend_xid) desc limit 1
"""


class RestoredElsewhere(Exception):
    """The database was restored into another cluster, whose transaction ids start anew: cursors mean nothing here."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a lane is published, and the epoch in which this relay may say so."""

    xid: int
    id: int
    epoch: int


class Lanes:
    """The lanes that one relay holds; `held` is what the database last said."""

    def __init__(self, owner: str, lease_seconds: float) -> None:
        self.owner, self.lease_seconds = owner, lease_seconds
        self.held: dict[int, Cursor] = {}
        self.total = 0
        self._moved: set[int] = set()

    async def renew(self, conn: Plain) -> None:
        """Prolong leases, take a fair share of the free lanes, give back what is more. Raises `RestoredElsewhere`."""
        await self.advance(conn)
        async with conn.transaction():
            total, living, foreign = await _one(conn, _SEEN, self.owner, self.lease_seconds)
            if foreign:
                raise RestoredElsewhere("outbox_lanes comes from another Postgres cluster; see docs/architecture.md")
            share = ceil(total / living)
            mine = {r["lane"]: r for r in await conn.fetch(_RENEW, self.owner, self.lease_seconds)}
            if len(mine) < share:
                taken = await conn.fetch(_TAKE, self.owner, self.lease_seconds, share - len(mine))
                mine |= {r["lane"]: r for r in taken}
            surplus = sorted(mine)[share:]
            if surplus:
                await conn.execute(_GIVE_BACK, self.owner, surplus)
        self.total = total
        self.held = {n: Cursor(r["xid"], r["id"], r["epoch"]) for n, r in mine.items() if n not in surplus}

    @property
    def positions(self) -> Positions:
        """Where each held lane stands."""
        return {lane: (cursor.xid, cursor.id) for lane, cursor in self.held.items()}

    def note(self, ends: Positions) -> None:
        """Remember up to where Kafka has acknowledged everything; `advance` makes it so in the database."""
        for lane, (xid, id_) in ends.items():
            self.held[lane] = Cursor(xid, id_, self.held[lane].epoch)
        self._moved |= ends.keys()

    async def advance(self, conn: Plain, ends: Positions | None = None) -> None:
        """Move the cursors in the database to `ends` and what was noted before; forget lanes that were lost."""
        self.note(ends or {})
        moved, self._moved = {lane: self.held[lane] for lane in self._moved}, set()
        if not moved:
            return
        xids, ids, epochs = zip(*((c.xid, c.id, c.epoch) for c in moved.values()), strict=True)
        kept = {row["lane"] for row in await conn.fetch(_ADVANCE, self.owner, list(moved), xids, ids, epochs)}
        for lane in moved.keys() - kept:
            del self.held[lane]

    async def give_back(self, conn: Plain) -> None:
        """Let other relays have the lanes at once, instead of when the leases run out."""
        await self.advance(conn)
        await conn.execute(_GIVE_BACK, self.owner, list(self.held))
        await conn.execute("delete from outbox_relays where owner = $1", self.owner)
        self.held = {}


def ends_of(rows: Sequence[Row]) -> Positions:
    """Give each lane's last row; rows are in the order of their lanes."""
    return {row[6]: (row[7], row[8]) for row in rows}


async def read(conn: Plain, after: Positions, limit: int) -> list[Row]:
    """Read up to `limit` rows of each lane from behind its position, in the order of each lane."""
    xids, ids = zip(*after.values(), strict=True)
    return await conn.fetch(_READ, list(after), xids, ids, limit)


async def held_back_by(conn: Plain) -> Row | None:
    """Name the oldest write transaction of the cluster (pid, usename, state, seconds): rows behind it wait unread."""
    return await conn.fetchrow(_HELD_BACK)


async def _one(conn: Plain, sql: str, *args: object) -> Row:
    row = await conn.fetchrow(sql, *args)
    if row is None:
        raise RuntimeError("an aggregate returns one row")
    return row
